"""Models for the tests of the TVM backend, and how they are built and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from planish.backends.ort.session import EXACT, Session
from planish.backends.tvm.artifact import Artifact
from planish.backends.tvm.backend import TvmBackend
from planish.ir.graph import Model
from planish.ir.onnx_reader import read_model
from planish.passes.target import get_target

TARGET = replace(get_target("native"), runtime="tvm", contrib=False)
EPS = float(np.finfo(np.float32).eps)


def onnx_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, np.ndarray],
    outputs: Sequence[str],
    constants: Mapping[str, Any] | None = None,
    opset: int = 22,
) -> bytes:
    """A model whose inputs have the types of the arrays."""
    info = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for name, x in inputs.items()
    ]
    made = [onnx.ValueInfoProto(name=name) for name in outputs]
    weights = [numpy_helper.from_array(np.asarray(x), name) for name, x in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "main", info, made, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10).SerializeToString()


def lowered(model: bytes | Model) -> Artifact:
    """The artifact for this machine."""
    return TvmBackend().lower(read_model(model) if isinstance(model, bytes) else model, TARGET)


def expected(model: bytes, feeds: dict[str, Any]) -> list[Any]:
    """ONNX Runtime's outputs of the model as written."""
    return Session(model, EXACT).run(feeds)


def assert_close(found: Sequence[Any], wanted: Sequence[Any], *, products: int = 1) -> None:
    """Equal types and extents; floats within rounding of sums of ``products`` terms, at the scale of the tensor."""
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        if a.dtype.kind != "f":
            np.testing.assert_array_equal(a, b)
            continue
        scale = float(np.abs(b[np.isfinite(b)]).max(initial=0))
        bound = 4 * float(np.finfo(a.dtype).eps) * scale * max(1.0, float(products) ** 0.5)
        np.testing.assert_allclose(a, b, rtol=0, atol=bound, equal_nan=True)


__all__ = ["TensorProto", "helper"]
