"""Random models on TVM, with open and with fixed extents, against ONNX Runtime; ``scripts/tvm_fuzz.py`` draws more."""

from __future__ import annotations

import pytest

pytest.importorskip("tvm")

from planish.driver.fuzz.compiled import REFUSED, RIGHT, compiled_cases
from planish.passes.target import get_target, native


@pytest.mark.parametrize(("pipeline", "fixed"), [("", False), ("default", True)])
def test_random_models(pipeline: str, fixed: bool) -> None:
    found = list(compiled_cases(range(4), get_target(native()), size=4, pipeline=pipeline, fixed=fixed))
    wrong = [done for done in found if done.kind not in (RIGHT, REFUSED)]
    assert not wrong, wrong
    assert sum(done.kind == RIGHT and done.samples > 0 for done in found) > 2
    assert fixed or any(done.open for done in found)
