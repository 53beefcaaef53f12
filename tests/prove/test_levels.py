"""``--validate each-rewrite``: what the report says, and that a wrong rewrite is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import planish
from planish.driver.checks.validation import REWRITES, level_of
from planish.driver.prove.ledger import CHECKED, DIFFERENT, PROVED, TESTED, UNCHECKED, Verdict
from planish.driver.prove.watch import NOT_ASKED, Watch
from planish.ir.errors import NotEquivalentError, UsageError
from planish.ir.graph import Model, Node
from planish.ir.text import parse_model
from planish.passes.core import Context, Numbers, Pass, RewritePass
from planish.passes.manager import Pipeline
from planish.passes.rewrite import MODIFIED, NodeRule, NoMatch, Rewriter
from planish.passes.rewrite.rule import Replacement
from planish.tests.bisect.planted import registered

NETWORK = """
graph @main(%x: f32[N,2,8,8]) {
  %w: f32[3,2,3,3] = const rand<1>
  %one: f32[3] = const dense<[1.5, 0.5, 2]>
  %zero: f32[3] = const dense<[0.25, -1, 0.125]>
  %shape: i64[2] = const dense<[0, -1]>
  %half: f32[] = const dense<0.6>
  %c: f32[N,3,6,6] = Conv(%x, %w)
  %b: f32[N,3,6,6] = BatchNormalization(%c, %one, %zero, %zero, %one)
  %i: f32[N,3,6,6] = Identity(%b)
  %r: f32[N,3,6,6] = Relu(%i)
  %s: f32[N,3,6,6] = Relu(%r)
  %m: f32[N,3,6,6] = Mul(%s, %half)
  %y: f32[N,108] = Reshape(%m, %shape)
  return %y
}
"""


@pytest.fixture
def planted() -> Iterator[None]:
    with registered():
        yield


def optimized(level: str, pipeline: str = "default", **options: Any) -> planish.Result:
    return planish.optimize(parse_model(NETWORK), pipeline=pipeline, validate=level, measure=False, **options)


def test_the_report_says_what_is_known_of_each_rewrite() -> None:
    result = optimized("each-rewrite:all")
    ledger = result.report.validation.rewrites
    assert ledger is not None
    changes = sum(sum(p.hits.values()) for p in result.report.passes)
    assert sum(map(ledger.total, (PROVED, CHECKED, TESTED, UNCHECKED, DIFFERENT))) >= changes > 2
    assert ledger.total(PROVED) + ledger.total(CHECKED) >= changes
    assert not ledger.total(UNCHECKED)
    assert not ledger.total(DIFFERENT)
    assert ledger.reasons["fold-batchnorm/Behind"] == {"exactly checked: equal up to the rounding of constants": 1}
    assert f"{ledger.total(PROVED)} proved" in str(result.report)
    plain = result.report.to_dict()["validation"]["rewrites"]
    assert plain["totals"][PROVED] == ledger.total(PROVED)
    assert plain["asked"] == "each-rewrite:all"


def test_lower_levels_say_nothing_of_rewrites() -> None:
    assert optimized("final").report.validation.rewrites is None


def test_a_wrong_rewrite_is_refused_by_name(planted: None) -> None:
    with pytest.raises(NotEquivalentError) as raised:
        optimized("each-rewrite", "drop-factor-near-one,clean")
    assert raised.value.where == "drop-factor-near-one/DropFactorNearOne"
    assert "different" in raised.value.message
    assert "--disable drop-factor-near-one/DropFactorNearOne" in (raised.value.help or "")


def test_a_wrong_rewrite_that_is_allowed_is_reported(planted: None) -> None:
    found = optimized("each-rewrite", "drop-factor-near-one", allow_different=True).report.validation.rewrites
    assert found is not None
    assert found.counts["drop-factor-near-one/DropFactorNearOne"] == {DIFFERENT: 1}


MANY = 60


def sampled(seed: int) -> list[int]:
    """Which of many rewrites of one rule are checked where two are asked for."""
    lines = "\n".join(f"%a{i + 1}: f32[N,3] = Identity(%b{i})\n%b{i + 1} = Relu(%a{i + 1})" for i in range(MANY))
    model = parse_model(f"graph @main(%b0: f32[N,3]) {{\n{lines}\nreturn %b{MANY}\n}}")
    watch, found = Watch(each=2, run=False), list[int]()
    judged = watch.ledger.add

    def add(rule: str, verdict: Verdict, count: int = 1) -> None:
        if verdict.kind == PROVED:
            found.append(sum(sum(kinds.values()) for kinds in watch.ledger.counts.values()))
        judged(rule, verdict, count)

    watch.ledger.add = add
    Pipeline("remove-identity").run(model, Context(witness=watch, seed=seed), [watch])
    kinds = watch.ledger.counts["remove-identity/SameValue"]
    assert sum(kinds.values()) == MANY
    reasons = watch.ledger.reasons["remove-identity/SameValue"]
    assert reasons[f"{UNCHECKED}: {NOT_ASKED}"] == kinds[UNCHECKED] == MANY - len(found)
    return found


def test_a_sample_of_the_rewrites_is_drawn_from_all_of_them() -> None:
    """The first two, and of the others ever fewer: about ``2 log(MANY / 2)`` in the mean."""
    draws = [sampled(seed) for seed in range(12)]
    assert all(found[:2] == [0, 1] and len(found) < MANY / 3 for found in draws)
    assert len({tuple(found) for found in draws}) == 12
    assert sum(any(n >= MANY / 2 for n in found) for found in draws) >= 6
    assert sampled(3) == draws[3]


def test_no_time_left_leaves_rewrites_unchecked() -> None:
    watch = Watch(seconds=-1)
    Pipeline("clean").run(parse_model(NETWORK), Context(witness=watch), [watch])
    assert watch.ledger.total(UNCHECKED) == sum(sum(k.values()) for k in watch.ledger.counts.values()) > 0


def test_watching_changes_nothing() -> None:
    plain, watched, watch = parse_model(NETWORK), parse_model(NETWORK), Watch()
    Pipeline("default").run(plain, Context())
    Pipeline("default").run(watched, Context(witness=watch), [watch])
    assert str(plain) == str(watched)


class DropBias(NodeRule):
    """Wrong, and in place: the operand is taken away, nothing is put in its stead."""

    roots = ("Conv",)

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        if node.input(2) is None:
            raise NoMatch("there is none")
        r.set_input(node, 2, None)
        return MODIFIED


class SwapBranches(NodeRule):
    """Wrong, inside a body: what it returns is exchanged behind the rewriter's back."""

    roots = ("If",)

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        ret = node.subgraphs[0].ret
        if ret.inputs[0] is ret.inputs[1] or ret.extra:
            raise NoMatch("nothing to exchange")
        ret.extra = {"seen": True}
        ret.set_inputs(list(reversed(ret.inputs)))
        return MODIFIED


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (
            DropBias(),
            """graph @main(%x: f32[N,2,5,5]) {
              %w: f32[3,2,3,3] = const rand<1>
              %b: f32[3] = const rand<2>
              %y: f32[N,3,3,3] = Conv(%x, %w, %b)
              return %y
            }""",
        ),
        (
            SwapBranches(),
            """graph @main(%c: bool[], %x: f32[N], %y: f32[N]) {
              %a: f32[N], %b: f32[N] = If(%c) {else_branch = graph @else() {
                %d: f32[N] = Neg(%x)
                return %d, %y
              }, then_branch = graph @then() {
                return %x, %y
              }}
              return %a, %b
            }""",
        ),
    ],
    ids=["operand", "body"],
)
def test_changes_in_place_are_seen(rule: NodeRule, text: str) -> None:
    class Wrong(RewritePass):
        def rules(self) -> Iterator[NodeRule]:
            yield rule

    watch, model = Watch(run=False), parse_model(text)
    Pipeline([Wrong()]).run(model, Context(witness=watch), [watch])
    assert watch.ledger.counts == {f"wrong/{type(rule).__name__}": {UNCHECKED: 1}}
    assert "differ" in str(watch.ledger.reasons)


class IntoSine(NodeRule):
    """Right by ``sin(x - y) = sin(x) cos(y) - cos(x) sin(y)``, of which the check knows nothing."""

    roots = ("Sub",)

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        assert node.graph is not None
        x, y = node.graph.inputs
        return r.Sin(r.Add(x, r.Neg(y)))


def test_real_values_decide_where_the_exact_check_cannot() -> None:
    class Fuse(RewritePass):
        numbers = Numbers.REASSOCIATES

        def rules(self) -> Iterator[NodeRule]:
            yield IntoSine()

    text = """
    graph @main(%x: f32[2,4], %y: f32[2,4]) {
      %sx: f32[2,4] = Sin(%x)
      %cx: f32[2,4] = Cos(%x)
      %sy: f32[2,4] = Sin(%y)
      %cy: f32[2,4] = Cos(%y)
      %a: f32[2,4] = Mul(%sx, %cy)
      %b: f32[2,4] = Mul(%cx, %sy)
      %z: f32[2,4] = Sub(%a, %b)
      return %z
    }"""
    random = np.random.default_rng(0)
    samples = [{name: random.standard_normal((2, 4)).astype(np.float32) for name in "xy"}]
    watch = Watch(samples=samples)
    Pipeline([Fuse()]).run(parse_model(text), Context(witness=watch), [watch])
    assert watch.ledger.total(TESTED) == 1
    assert "samples" in next(iter(watch.ledger.reasons["fuse/IntoSine"]))


OPSET_11 = """
model ir=6 opset {"" = 11}
graph @main(%x: f32[N,3,1,4]) {
  %a = Squeeze(%x) {axes = [2]}
  %b = Softmax(%a)
  %c = Neg(%b)
  return %c
}
"""


def test_a_new_opset_is_checked_value_by_value() -> None:
    watch = Watch()
    Pipeline("raise-opset").run(parse_model(OPSET_11), Context(witness=watch), [watch])
    assert watch.ledger.counts == {"raise-opset": {CHECKED: 1}}


class ForgetSoftmax(Pass):
    """Wrong: Softmax flattens before opset 13, and no longer from there on."""

    def run(self, model: Model, r: Rewriter) -> None:
        squeeze = next(iter(model.graph))
        r.begin(squeeze)
        model.opsets[""] = 13
        r.replace(squeeze, [r.op("Squeeze", squeeze.inputs[0], np.array([2]))])


def test_an_operator_that_means_something_else_in_a_new_opset_is_found() -> None:
    watch, model = Watch(run=False), parse_model(OPSET_11)
    Pipeline([ForgetSoftmax()]).run(model, Context(witness=watch), [watch])
    assert watch.ledger.counts == {"forget-softmax": {UNCHECKED: 1}}
    assert "Softmax at %b: the results differ" in str(watch.ledger.reasons)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("final", ("final", REWRITES)),
        ("each-rewrite", ("each-rewrite", REWRITES)),
        ("each-rewrite:3", ("each-rewrite", 3)),
        ("each-rewrite:all", ("each-rewrite", None)),
    ],
)
def test_levels_are_read(text: str, wanted: tuple[str, int | None]) -> None:
    level, each = level_of(text)
    assert (level, each if level == "each-rewrite" else REWRITES) == wanted


@pytest.mark.parametrize("text", ["much", "final:3", "each-rewrite:0", "each-rewrite:some"])
def test_what_is_no_level_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        level_of(text)
