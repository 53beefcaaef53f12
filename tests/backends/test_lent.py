"""Weights that sessions take from where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planish.backends.ort import lent, session
from planish.backends.ort.lent import lend
from planish.backends.ort.session import EXACT, Session
from planish.ir.builder import Builder
from planish.ir.dtypes import DType
from planish.ir.graph import Model
from planish.ir.onnx_reader import read_model
from planish.ir.onnx_writer import write_model


def network() -> Model:
    """Weights of 4 types and sizes, one of them used twice, one that is another's elements in a view."""
    rng = np.random.default_rng(0)
    b = Builder()
    x = b.input("x", DType.F32, (2, 64))
    w = rng.standard_normal((64, 64)).astype(np.float32)
    y = b.MatMul(b.MatMul(x, w), w)
    y = b.Add(y, b.Cast(rng.standard_normal(64).astype(np.float16), to=1))
    y = b.Gather(y, rng.integers(0, 64, 40), axis=1)
    b.output(b.Mul(y, np.float32(3.0)), "y")
    return b.model()


SAMPLE: dict[str, Any] = {"x": np.random.default_rng(1).standard_normal((2, 64)).astype(np.float32)}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits at which the network is large."""
    monkeypatch.setattr(session, "MAX_INLINE_BYTES", 1000)
    monkeypatch.setattr(lent, "LEAST_BYTES", 100)


@pytest.mark.parametrize("level", ["disable", "all"])
def test_outputs_are_the_same(small: None, monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    def refuse(model: Model) -> Any:
        raise AssertionError("no file is wanted")

    monkeypatch.setattr(session, "_temporary_file", refuse)
    made = Session(network(), EXACT.with_level(level))
    monkeypatch.undo()
    expected = Session(network(), EXACT.with_level(level)).run(SAMPLE)
    for _ in range(2):
        np.testing.assert_array_equal(made.run(SAMPLE)[0], expected[0])


def test_what_is_left_out(small: None) -> None:
    found = lend(network())
    assert found.bytes >= 64 * 64 * 4 + 40 * 8
    assert len(found.model) < 2000
    assert {value.element_type() for value in found.weights.values()} >= {1, 7, 10}


def test_weights_of_files_stay_mapped(small: None, tmp_path: Path) -> None:
    write_model(network(), tmp_path / "m.onnx", external_data=True, threshold=64)
    model = read_model(tmp_path / "m.onnx")
    np.testing.assert_array_equal(Session(model).run(SAMPLE)[0], Session(tmp_path / "m.onnx").run(SAMPLE)[0])


def test_what_cannot_be_lent_goes_through_a_file(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is large enough by itself."""
    monkeypatch.setattr(lent, "LEAST_BYTES", 1 << 40)
    np.testing.assert_array_equal(Session(network()).run(SAMPLE)[0], _plain().run(SAMPLE)[0])


def _plain() -> Session:
    from planish.ir.onnx_writer import model_to_bytes

    return Session(model_to_bytes(network()))
