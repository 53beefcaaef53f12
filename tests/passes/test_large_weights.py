"""Weights in files of their own: what passes do to them is computed when they are read, row by row."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from planish.ir import Builder, DType, ExternalDataError, Model, read_model, write_model
from planish.passes.manager import Pipeline

F32 = DType.F32
FOLD = "fold-batchnorm,fold-scale-shift"


def network(scale: float = 1.0) -> Model:
    """Products and convolutions with weights of 2 to 3 MB, an affine map in front of or behind each."""
    draw = np.random.default_rng(0)

    def random(*shape: int, spread: float = 0.1) -> Any:
        return (draw.standard_normal(shape) * spread).astype(np.float32)

    b = Builder(opset=17)
    x = b.input("x", F32, ("N", 512))
    y = b.Mul(b.MatMul(x, b.const(random(512, 1024) * scale, "w1")), b.const(random(1024, spread=1), "gain"))
    y = b.Gemm(b.Add(y, b.const(random(1024), "shift")), b.const(random(600, 1024), "w2"), transB=1)
    y = b.Gemm(b.Mul(b.Relu(y), b.const(random(600), "front")), b.const(random(600, 512 * 3), "w3"), transB=0)
    image = b.Reshape(y, b.const(np.array([-1, 512, 3, 1])))
    conv = b.Conv(image, b.const(random(300, 512, 3, 1), "w4"))
    ones = np.ones(300, np.float32)
    parts = [b.const(v, n) for v, n in ((random(300), "s"), (random(300), "t"), (random(300), "m"), (ones, "v"))]
    b.output(b.BatchNormalization(conv, *parts), "y")
    return b.model()


def run(path: Path) -> np.ndarray[Any, Any]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = np.random.default_rng(1).standard_normal((4, 512)).astype(np.float32)
    return session.run(None, {"x": given})[0]  # pyright: ignore[reportReturnType]


def weights(model: Model) -> dict[str, Any]:
    return {v.name: v.data for v in model.graph.constants if v.data is not None and v.data.nbytes >= 1 << 20}


def test_folding_leaves_them_in_their_file(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    write_model(network(), source, external_data=True)
    before = run(source)
    dense, mapped = network(), read_model(source)
    Pipeline(FOLD).run(dense)
    tracemalloc.start()
    Pipeline(FOLD).run(mapped)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [n.op for n in mapped.graph] == [n.op for n in dense.graph]
    assert not {"Add", "Mul", "BatchNormalization"} & {n.op for n in mapped.graph}
    found, expected = weights(mapped), weights(dense)
    assert found.keys() == expected.keys()
    assert sorted(type(c).__name__ for c in found.values()) == ["FileConstant", *["RowsConstant"] * 3]
    assert all(c.numpy().tobytes() == expected[name].numpy().tobytes() for name, c in found.items())
    assert all(b"".join(c.chunks()) == expected[name].tobytes() for name, c in found.items())
    assert all(c.sample() == expected[name].sample() for name, c in found.items())
    assert peak < 64 << 20
    for target in (tmp_path / "new.onnx", source):  # the second replaces the file that the weights are computed from
        write_model(mapped, target)
        np.testing.assert_allclose(run(target), before, rtol=1e-4, atol=1e-4)
        assert all(c.numpy().tobytes() == expected[name].numpy().tobytes() for name, c in weights(mapped).items())
    again = read_model(source)
    assert all(c.numpy().tobytes() == expected[name].numpy().tobytes() for name, c in weights(again).items())


def test_written_inline_over_their_file_they_come_into_memory(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    write_model(network(), source, external_data="m.onnx.data")
    mapped = read_model(source)
    Pipeline(FOLD).run(mapped)
    expected = {name: c.tobytes() for name, c in weights(mapped).items()}
    write_model(mapped, tmp_path / "m.onnx.data", external_data=False)
    assert {name: c.tobytes() for name, c in weights(mapped).items()} == expected


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    write_model(network(), source, external_data=True)
    mapped = read_model(source)
    Pipeline(FOLD).run(mapped)
    write_model(network(), source, external_data=True)
    with pytest.raises(ExternalDataError, match="not the file that was there"):
        next(iter(weights(mapped).values())).numpy()


@pytest.mark.parametrize("scale", [1e-40, 1e38, float("nan")])
def test_ranges_are_checked_as_for_weights_in_memory(tmp_path: Path, scale: float) -> None:
    """Some of these leave the range when the gain is multiplied in; the decision must be the same."""
    source = tmp_path / "m.onnx"
    with np.errstate(all="ignore"):
        write_model(network(scale), source, external_data=True)
        dense = network(scale)
    mapped = read_model(source)
    Pipeline(FOLD).run(dense)
    Pipeline(FOLD).run(mapped)
    assert [n.op for n in mapped.graph] == [n.op for n in dense.graph]
