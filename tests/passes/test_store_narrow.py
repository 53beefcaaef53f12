"""store-*: weights that are too large for memory go through in pieces, with the same result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import planish
from planish.ir import Builder, DType
from planish.ir.constants import LazyConstant
from planish.ir.graph import Model
from planish.ir.onnx_writer import write_model
from planish.passes.core import Context
from planish.passes.shared import stored_weights
from planish.passes.shared.stored_weights import ErrorSums, relative_errors


def model() -> Model:
    b, draw = Builder(), np.random.default_rng(0)
    x = b.input("x", DType.F32, ("N", 20))
    w = b.const((draw.standard_normal((20, 30)) * np.exp(draw.standard_normal(30))).astype(np.float32), "w")
    kernel = b.const(draw.standard_normal((30, 2, 3, 3)).astype(np.float32), "k")
    y = b.Reshape(b.MatMul(x, w), b.const(np.array([-1, 2, 5, 3])))
    b.output(b.Conv(y, kernel, pads=(1, 1, 1, 1)), "y")
    return b.model()


def digests(m: Model) -> list[str]:
    return sorted(c.data.digest() for c in m.graph.constants if c.data is not None)


@pytest.mark.parametrize("name", ["store-float16", "store-bfloat16", "store-float8"])
def test_pieces_give_what_the_whole_gives(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    write_model(model(), path, external_data=True)
    whole, pieces = model(), planish.load(path)
    units: list[dict[str, float]] = []
    for m in (whole, pieces):
        ctx = Context()
        planish.Pipeline(f"{name}{{min-bytes=64}}").run(m, ctx)
        units.append({key: unit.error for key, unit in ctx.choices.offered.items()})
        monkeypatch.setattr(stored_weights, "CHUNK_BYTES", 300)
    assert digests(whole) == digests(pieces)
    assert units[0].keys() == units[1].keys()
    assert np.allclose(list(units[0].values()), list(units[1].values()), rtol=1e-9)
    assert any(isinstance(c.data, LazyConstant) for c in pieces.graph.constants), "computed when it is written"


@pytest.mark.parametrize("shape", [(7,), (7, 5), (7, 5, 2), (0, 3), ()])
def test_errors_are_those_of_all_slices(shape: tuple[int, ...]) -> None:
    draw = np.random.default_rng(1)
    wide = np.asarray(draw.standard_normal(shape), np.float32)
    narrow = wide.astype(np.float16).astype(np.float32)
    worst, whole = relative_errors(wide, narrow)
    error = (narrow - wide).astype(np.float64)
    if not wide.size:
        assert (worst, whole) == (0.0, 0.0)
        return
    assert np.isclose(whole, np.linalg.norm(error) / np.linalg.norm(wide))
    every = [whole]
    for axis in range(wide.ndim):
        pairs = zip(np.moveaxis(error, axis, 0), np.moveaxis(wide, axis, 0), strict=True)
        every += [float(np.linalg.norm(e) / np.linalg.norm(s)) for e, s in pairs]
    assert np.isclose(worst, max(every), rtol=1e-6)
    sums = ErrorSums(max(1, wide.ndim))
    for i in range(len(np.atleast_1d(wide))):
        sums.add(np.atleast_1d(wide)[i : i + 1], np.atleast_1d(narrow)[i : i + 1])
    assert np.isclose(sums.worst, worst)
