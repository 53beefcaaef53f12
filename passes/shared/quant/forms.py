"""Forms of products that a runtime turns into integer kernels, where the model has another form of the same."""

from __future__ import annotations

import numpy as np

from ....ir.graph import Node, Value
from ...rewrite.rewriter import Rewriter
from ..emit import again
from .sites import Site


def shape_for_integers(site: Site, r: Rewriter) -> None:
    """Gives a product that is to run on integers, and what is added to its result, the form that has a kernel.

    Values that others have annotated stay.
    """
    if site.residual is not None:
        _split_residual(site.node, site.residual, r)
    elif site.node.op == "MatMul":
        _keep_bias_apart(site.node, r)


def _split_residual(node: Node, residual: Value, r: Rewriter) -> None:
    """``Gemm(x, w, c) = Sum(Gemm(x, w, 0), c)``. The bias of zeros keeps ONNX Runtime from putting ``c`` back."""
    x, weight = node.inputs[0], node.inputs[1]
    assert x is not None
    assert weight is not None
    assert weight.data is not None
    columns = weight.data.shape[0 if node.attr("transB") else 1]
    r.begin(node)
    product = again(r, node, x, weight, r.const(np.zeros(columns, np.float32)))
    r.replace(node, r.Sum(product, residual))


def _keep_bias_apart(node: Node, r: Rewriter) -> None:
    """``Add(MatMul(x, w), b) = Sum(MatMul(x, w), b)``: ONNX Runtime makes a float Gemm of the Add, before it looks for
    integers."""
    add = node.output.sole_user
    if add is None or add.op != "Add" or add.domain or add.graph is not node.graph:
        return
    bias = next((v for v in add.inputs if v is not None and v is not node.output), None)
    if bias is not None and bias.data is not None:
        r.begin(add)
        r.replace(add, r.Sum(node.output, bias))
