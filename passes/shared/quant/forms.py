"""Forms of products that a runtime turns into integer kernels, where the model has another form of the same."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....ir.graph import Node, Value
from ...rewrite.rewriter import Rewriter
from ..emit import again
from .sites import Site

Array = np.ndarray[Any, Any]


def shape_for_integers(site: Site, r: Rewriter) -> None:
    """Gives a product that is to run on integers, and what is added to its result, the form that has a kernel."""
    if site.residual is not None:
        split_residual(site.node, r)
    elif site.node.op == "MatMul":
        _keep_bias_apart(site.node, r)


def split_residual(node: Node, r: Rewriter, bias: Array | None = None) -> None:
    """``Gemm(x, w, c) = Sum(Gemm(x, w, bias), c)``, zeros for a bias by default: some bias keeps ONNX Runtime from
    putting ``c`` back."""
    x, weight, residual = node.inputs[:3]
    assert weight is not None
    assert weight.data is not None
    columns = weight.data.shape[0 if node.attr("transB") else 1]
    r.begin(node)
    added = np.zeros(columns, np.float32) if bias is None else bias.astype(np.float32)
    product = again(r, node, x, weight, r.const(added))
    _replace(node, r.Sum(product, residual), r)


def _keep_bias_apart(node: Node, r: Rewriter) -> None:
    """``Add(MatMul(x, w), b) = Sum(MatMul(x, w), b)``: ONNX Runtime makes a float Gemm of the Add, before it looks for
    integers."""
    add = node.output.sole_user
    if add is None or add.op != "Add" or add.domain or add.graph is not node.graph:
        return
    bias = next((v for v in add.inputs if v is not None and v is not node.output), None)
    if bias is not None and bias.data is not None:
        r.begin(add)
        _replace(add, r.Sum(node.output, bias), r)


def _replace(node: Node, new: Value, r: Rewriter) -> None:
    """The result keeps its annotation: another product may read it."""
    quant = node.output.tensor.quant if node.output.tensor is not None else None
    r.replace(node, new)
    r.annotate(new, quant)
