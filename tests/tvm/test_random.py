"""Random models on TVM, with open and with fixed extents, against ONNX Runtime; ``scripts/tvm_fuzz.py`` draws more."""

from __future__ import annotations

from functools import partial

import pytest

pytest.importorskip("tvm")

from planish.driver.fuzz.compiled import REFUSED, RIGHT, compiled_cases, quantized_case
from planish.models.random import random_case
from planish.passes.target import get_target, native


@pytest.mark.parametrize(("pipeline", "fixed"), [("", False), ("default", True)])
def test_random_models(pipeline: str, fixed: bool) -> None:
    draw = partial(random_case, size=4)
    found = list(compiled_cases(range(4), get_target(native()), draw, pipeline=pipeline, fixed=fixed))
    wrong = [done for done in found if done.kind not in (RIGHT, REFUSED)]
    assert not wrong, wrong
    assert sum(done.kind == RIGHT and done.samples > 0 for done in found) > 2
    assert fixed or any(done.open for done in found)


def test_random_quantized_models() -> None:
    found = list(compiled_cases(range(2), get_target(native()), quantized_case))
    assert [done.kind for done in found] == [RIGHT, RIGHT], found
    assert all(done.samples == 2 and not done.fallen_back for done in found)
