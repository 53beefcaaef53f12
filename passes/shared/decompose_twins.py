"""Contrib operators that the standard later took over, and old ones that a formula says, in standard operators.

Source: the registry's schemas of ONNX Runtime 1.31; compared with its CPU kernels.
"""

from __future__ import annotations

from typing import Any

from ...ir.graph import Node, Value
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NoMatch
from .emit import CONTRIB, reduce_to_one, squeeze, unsqueeze
from .equations import Equation, Results, ints, operand, rank_of, require


def _same(op: str, opset: int) -> Equation:
    """The standard's operator of that name, with the same operands and attributes."""

    def equation(r: Rewriter, node: Node) -> Results:
        require(r, node, opset=opset)
        attrs: dict[str, Any] = dict(node.attrs)
        return [r.op(op, *node.inputs, **attrs)]

    return equation


def _grid_sample(r: Rewriter, node: Node) -> Results:
    """The standard renamed the modes in opset 20."""
    require(r, node, opset=16)
    attrs: dict[str, Any] = dict(node.attrs)
    if r.opset() >= 20:
        mode = str(attrs.get("mode", "bilinear"))
        attrs["mode"] = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    return [r.op("GridSample", *node.inputs, **attrs)]


def _expand_dims(r: Rewriter, node: Node) -> Results:
    axis = operand(node, 1)
    if axis.data is None:
        raise NoMatch("the axis of ExpandDims is not constant")
    return [unsqueeze(r, operand(node, 0), [int(axis.numpy().reshape(-1)[0])])]


def _distances(r: Rewriter, node: Node) -> Results:
    """Of each row of ``[M, K]`` to each of ``[N, K]``, by differences: nothing cancels."""
    require(r, node)
    metric = str(node.attr("metric", "sqeuclidean"))
    if metric not in ("sqeuclidean", "euclidean"):
        raise NoMatch(f"metric {metric!r} of CDist")
    apart = r.Sub(unsqueeze(r, operand(node, 0), [1]), unsqueeze(r, operand(node, 1), [0]))
    squares = squeeze(r, reduce_to_one(r, "ReduceSum", r.Mul(apart, apart), [-1]), [-1])
    return [squares if metric == "sqeuclidean" else r.Sqrt(squares)]


def _transposed_conv(r: Rewriter, node: Node) -> Results:
    pads, bias = node.input(2), node.input(3)
    attrs: dict[str, Any] = dict(node.attrs)
    if pads is not None:
        if pads.data is None:
            raise NoMatch("the pads of ConvTransposeWithDynamicPads are not constant")
        attrs["pads"] = tuple(int(p) for p in pads.numpy().tolist())
    rest = [] if bias is None else [bias]
    return [r.op("ConvTranspose", operand(node, 0), operand(node, 1), *rest, **attrs)]


def _affine(r: Rewriter, node: Node) -> Results:
    scaled = r.Mul(operand(node, 0), float(node.attr("alpha", 1.0)))
    return [r.Add(scaled, float(node.attr("beta", 0.0)))]


def _image_scaler(r: Rewriter, node: Node) -> Results:
    x = operand(node, 0)
    if rank_of(x) != 4 or x.dtype is None:
        raise NoMatch(f"ImageScaler of {x.type}")
    bias: Any = [float(b) for b in node.attrs.get("bias", ())]  # pyright: ignore
    scaled: Value = r.Mul(x, float(node.attr("scale", 1.0)))
    return [r.Add(scaled, r.Reshape(r.const(bias, x.dtype), ints(1, -1, 1, 1)))]


def _scaled_tanh(r: Rewriter, node: Node) -> Results:
    inner = r.Tanh(r.Mul(operand(node, 0), float(node.attr("beta"))))
    return [r.Mul(inner, float(node.attr("alpha")))]


def _parametric_softplus(r: Rewriter, node: Node) -> Results:
    inner = r.Softplus(r.Mul(operand(node, 0), float(node.attr("beta"))))
    return [r.Mul(inner, float(node.attr("alpha")))]


TWIN_EQUATIONS: dict[tuple[str, str], Equation] = {
    (CONTRIB, "Trilu"): _same("Trilu", 14),
    (CONTRIB, "GatherND"): _same("GatherND", 12),
    (CONTRIB, "Range"): _same("Range", 11),
    (CONTRIB, "Pad"): _same("Pad", 11),
    (CONTRIB, "GridSample"): _grid_sample,
    (CONTRIB, "ExpandDims"): _expand_dims,
    (CONTRIB, "CDist"): _distances,
    (CONTRIB, "ConvTransposeWithDynamicPads"): _transposed_conv,
    ("", "Affine"): _affine,
    ("", "ImageScaler"): _image_scaler,
    ("", "ScaledTanh"): _scaled_tanh,
    ("", "ParametricSoftplus"): _parametric_softplus,
}
