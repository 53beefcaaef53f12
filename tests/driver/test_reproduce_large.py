"""Reproducers of models with many weights keep them in a file beside the text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from planish.driver.reproduce import replay
from planish.ir.builder import Builder
from planish.ir.dtypes import DType
from planish.ir.errors import PassError, ReadError
from planish.ir.graph import Model
from planish.passes.core import Context, Pass
from planish.passes.instruments import INLINE_BYTES, Reproducer
from planish.passes.manager import Pipeline
from planish.passes.rewrite import Rewriter


class Fails(Pass):
    name = "fails"

    def run(self, model: Model, r: Rewriter) -> None:
        raise ValueError("planted")


def network() -> Model:
    b = Builder()
    x = b.input("x", DType.F32, ("N", 2048))
    y = b.MatMul(x, np.full((2048, 1024), 0.5, np.float32) + np.eye(2048, 1024, dtype=np.float32))
    b.output(y, "y")
    return b.model()


def written(folder: Path) -> Path:
    instrument = Reproducer(network, folder)
    with pytest.raises(PassError, match="planted"):
        Pipeline([Fails()]).run(network(), Context(), [instrument])
    assert instrument.path is not None
    return instrument.path


def test_weights_lie_beside_the_text_and_come_back(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert path.stat().st_size < INLINE_BYTES // 100
    assert path.with_suffix(".npz").stat().st_size > INLINE_BYTES
    # The pass is no registered one: replaying gets as far as looking for it, so the model was read.
    assert "there is no pass or pipeline 'fails'" in replay(path).error


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.with_suffix(".npz").write_bytes(b"PK nonsense")
    with pytest.raises(ReadError, match="does not hold a reproducer's weights"):
        replay(path)
