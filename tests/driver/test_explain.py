"""``explain``: the guard that declined at the nearest miss, on what exporters write."""

from __future__ import annotations

from pathlib import Path

import pytest

from planish.driver.explain import explain, in_front
from planish.ir.graph import Model
from planish.ir.text.parser import parse_model
from planish.passes.core import pass_name
from planish.passes.pipeline import flatten

EXPORTED = Path(__file__).parents[1] / "passes" / "exporters"


def exported(name: str) -> Model:
    return parse_model((EXPORTED / f"{name}.ir").read_text("utf-8"))


def test_the_guard_that_declined_is_named() -> None:
    found = explain("fuse-attention", exported("gemma2_ts_eager"), target="x86-64-v3")
    (rule,) = found.rules
    assert rule.nearest is not None
    assert rule.nearest["reason"] == "the scores have a soft cap of 50.0, and option softcap is off"
    assert rule.nearest["matched"] >= 8, "softmax, both products, scale, cap and mask were found"
    assert found.prepared == "default up to fuse-attention"


def test_what_a_later_opset_would_bring_is_told() -> None:
    found = explain("fuse-attention", exported("bert_ts_eager"))  # for any machine: the opset stays
    assert found.changes == 0
    assert found.rules[0].nearest is not None
    assert "Attention needs opset 23" in found.rules[0].nearest["reason"]
    assert found.raised is not None
    assert (found.raised.opset, found.raised.rules[0].hits) == (23, 1)
    assert "at opset 23 (raise-opset{to=23})" in "\n".join(map(str, found.document()))
    assert explain("fuse-attention", exported("bert_ts_eager"), target="x86-64-v3").raised is None


NEAR_AND_FAR = """
graph @main(%q: f32[2,4,3,8], %k: f32[2,4,8,3], %v: f32[2,4,3,8], %x: f32[2,4,3,3]) {
  %half: f32[] = const dense<0.5>
  %far: f32[2,4,3,3] = Softmax(%x)
  %f: f32[2,4,3,3] = Identity(%far)
  %s: f32[2,4,3,3] = MatMul(%q, %k)
  %scaled: f32[2,4,3,3] = Mul(%s, %half)
  %near: f32[2,4,3,3] = Softmax(%scaled)
  %y: f32[2,4,3,8] = MatMul(%near, %v)
  return %y, %f
}
"""


def test_the_nearest_miss_is_the_one_that_found_most() -> None:
    found = explain("fuse-attention", parse_model(NEAR_AND_FAR), before="")
    (rule,) = found.rules
    assert rule.nearest is not None
    assert rule.nearest["at"].startswith("%near")
    assert rule.nearest["matched"] >= 4
    assert found.prepared == ""


@pytest.mark.parametrize("name", ["fuse-attention", "fuse-gelu", "fold-constants"])
def test_what_runs_in_front_in_the_default_pipeline(name: str) -> None:
    before = [pass_name(type(p)) for p in flatten(in_front(name))]
    assert name not in before
    assert ("fuse-rotary" in before) == (name == "fuse-attention")


def test_a_pass_outside_of_the_default_pipeline_has_nothing_in_front() -> None:
    assert in_front("fuse-mish") == []
