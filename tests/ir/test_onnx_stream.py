"""Streamed bytes are those of the whole message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planish.ir import (
    Builder,
    DType,
    LazyConstant,
    Model,
    SeededConstant,
    SparseConstant,
    SplatConstant,
    UsageError,
    model_to_bytes,
    model_to_proto,
    read_model,
    write_model,
)
from planish.ir.constants import ArrayConstant, Constant
from planish.ir.onnx_stream import STREAM_BYTES

F32 = DType.F32
SIDE = 300


def large(seed: int, dtype: DType = F32) -> Constant:
    return SeededConstant(seed, dtype, (SIDE, SIDE))


def network() -> Model:
    """Large and small constants of every kind: with notes, in a body, in a body too, twice, sparse, packed."""
    b = Builder(opset=21)
    x = b.input("x", F32, (1, SIDE))
    shared = large(1)
    noted = b.const(large(2), "noted")
    noted.extra = {"doc": "a note", "metadata": {"k": "v"}}
    small = b.const(np.ones(SIDE, np.float32), "small")
    y = b.MatMul(b.MatMul(b.MatMul(x, b.const(shared, "w1")), noted), b.const(shared, "w2"))
    half = b.Cast(b.const(large(3, DType.F16), "half"), to=1)
    words = b.const(np.array([b"a" * 40_000, b"b" * 40_000], object), "words")
    sparse = SparseConstant(ArrayConstant(np.ones(9, np.float32)), ArrayConstant(np.arange(9)), (SIDE, SIDE))
    thin = b.const(SplatConstant(1, DType.I4, (SIDE, SIDE)), "thin")
    in_both, inside = large(4), large(5)

    def body(data: Constant) -> Any:
        inner = Builder(opset=21)
        inner.graph.set_outputs([inner.MatMul(x, inner.const(data, "w"))], ["r"])
        return inner.graph

    flag = b.input("flag", DType.BOOL, ())
    z = b.If(flag, then_branch=body(in_both), else_branch=body(inside))
    product = b.MatMul(b.MatMul(b.Add(y, small), half), b.const(in_both, "w3"))
    b.output(b.Add(b.MatMul(product, b.const(sparse, "sparse")), z), "y")
    b.output(b.Cast(thin, to=1), "t")
    b.output(b.Identity(words), "s")
    model = b.model()
    model.doc, model.domain, model.version, model.producer = "about", "d", 7, ("me", "1")
    model.metadata["key"] = "value"
    model.graph.extra = {"doc": "graph", "metadata": {"m": "n"}}
    return model


@pytest.mark.parametrize("value_info", [False, True])
def test_bytes_are_those_of_the_message(tmp_path: Path, value_info: bool) -> None:
    model = network()
    expected = model_to_proto(model, value_info=value_info).SerializeToString(deterministic=True)
    assert model_to_bytes(model, value_info=value_info) == expected
    for external in (False, "auto"):
        write_model(model, tmp_path / "m.onnx", external_data=external, value_info=value_info)
        assert (tmp_path / "m.onnx").read_bytes() == expected
    write_model(model, tmp_path / "e.onnx", external_data=True, value_info=value_info)
    back = read_model(tmp_path / "e.onnx")
    assert model_to_proto(back).graph.initializer[0].raw_data == model_to_proto(model).graph.initializer[0].raw_data


def test_an_empty_model() -> None:
    b = Builder(opset=21)
    b.output(b.Relu(b.input("x", F32, (2,))), "y")
    assert model_to_bytes(b.model()) == model_to_proto(b.model()).SerializeToString(deterministic=True)


def test_weights_that_give_other_than_they_announce_leave_no_file(tmp_path: Path) -> None:
    class Short(LazyConstant):
        def chunks(self) -> Any:
            yield b"\0" * (STREAM_BYTES - 4)

    b = Builder(opset=21)
    x = b.input("x", F32, (1, STREAM_BYTES // 4))
    b.output(b.Add(x, b.const(Short(lambda: np.zeros(1), F32, (STREAM_BYTES // 4,)), "w")), "y")
    with pytest.raises(UsageError, match="gave other than the 65536 bytes"):
        write_model(b.model(), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
