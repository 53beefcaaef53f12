"""Patterns: what they match, what they decline, and the reason they give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planish.ir.dtypes import DType
from planish.ir.errors import PassError
from planish.ir.graph import Model
from planish.ir.text.parser import parse_model
from planish.ir.verify import verify
from planish.passes.core import Context
from planish.passes.rewrite import ANY, KEEP, Const, Match, Rewriter, Rule, Scalar
from planish.passes.rewrite.greedy import apply_rules
from planish.passes.rewrite.matcher import Matcher, close
from planish.passes.rewrite.rule import RuleBase


def graph(text: str, opset: int = 21) -> Model:
    return parse_model(text, opset=opset)


def ops(model: Model) -> list[str]:
    return [node.op for node in model.all_nodes()]


def run(model: Model, *rules: RuleBase, **context: Any) -> Context:
    ctx = Context(trace=True, **context)
    r = Rewriter(ctx, "test")
    for rule in rules:
        rule.owner = "test"
    apply_rules(model, rules, r)
    verify(model)
    return ctx


def try_match(rule: Rule, model: Model, op: str) -> tuple[Match | None, str]:
    node = next(n for n in model.all_nodes() if n.op == op)
    matcher = Matcher(rule.compiled, node, trace=True)
    return matcher.match(), matcher.reason


# -- patterns


class SoftmaxOfAdd(Rule):
    def pattern(self, op: Any, x: Any, y: Any) -> Any:
        return op.Softmax(op.Add(x, y))

    def rewrite(self, r: Rewriter, m: Match) -> Any:
        return r.Softmax(r.Sum(m.x, m.y))


def softmax_of_add(attrs: str = "", after: str = "") -> Model:
    return graph(f"""
        graph @main(%x: f32[2,3], %y: f32[2,3]) {{
          %a = Add(%x, %y)
          %s = Softmax(%a){attrs}
          {after}
          return %s{", %z" if after else ""}
        }}""")


def test_an_unmentioned_attribute_must_be_the_default() -> None:
    assert try_match(SoftmaxOfAdd(), softmax_of_add(), "Softmax")[0] is not None
    assert try_match(SoftmaxOfAdd(), softmax_of_add(" {axis = -1}"), "Softmax")[0] is not None
    match, reason = try_match(SoftmaxOfAdd(), softmax_of_add(" {axis = 0}"), "Softmax")
    assert match is None
    assert reason == "axis is 0, the pattern wants -1"


def test_an_inner_result_must_have_no_other_user() -> None:
    match, reason = try_match(SoftmaxOfAdd(), softmax_of_add(after="%z = Relu(%a)"), "Softmax")
    assert match is None
    assert "%a has another user: %z = Relu(%a)" in reason


def test_an_inner_result_that_is_a_graph_output_has_another_user() -> None:
    model = graph("graph @main(%x: f32[2], %y: f32[2]) { %a = Add(%x, %y)\n %s = Softmax(%a)\n return %a, %s }")
    match, reason = try_match(SoftmaxOfAdd(), model, "Softmax")
    assert match is None
    assert "the graph's return" in reason


def test_an_inner_result_that_a_body_captures_has_another_user() -> None:
    model = graph("""
        graph @main(%x: f32[2], %y: f32[2], %c: bool[]) {
          %a = Add(%x, %y)
          %s = Softmax(%a)
          %i = If(%c) {
            then_branch = graph @t() { %u = Relu(%a)
              return %u }, else_branch = graph @e() { %v = Neg(%x)
              return %v } }
          return %s, %i
        }""")
    assert try_match(SoftmaxOfAdd(), model, "Softmax")[0] is None


def test_an_unmentioned_operand_must_be_absent() -> None:
    class Clip(Rule):
        def pattern(self, op: Any, x: Any) -> Any:
            return op.Clip(x)

        def rewrite(self, r: Rewriter, m: Match) -> Any:
            return m.x

    model = graph("graph @main(%x: f32[2], %m: f32[]) { %y = Clip(%x, _, %m)\n return %y }")
    match, reason = try_match(Clip(), model, "Clip")
    assert match is None
    assert "3 operands, the pattern wants 1" in reason


def test_open_attributes_and_optional_leaves() -> None:
    class Conv(Rule):
        def pattern(self, op: Any, x: Any, w: Const, b: Const | None) -> Any:
            return op.Relu(op.Conv(x, w, b, attrs=KEEP, bind="conv"))

        def rewrite(self, r: Rewriter, m: Match) -> Any:
            return r.Conv(m.x, m.w, m.b, **m.conv.attrs)

    model = graph("""
        graph @main(%x: f32[1,2,5,5]) {
          %w: f32[2,2,3,3] = const rand<1>
          %c = Conv(%x, %w) {pads = [1, 1, 1, 1]}
          %y = Relu(%c)
          return %y
        }""")
    match, _ = try_match(Conv(), model, "Relu")
    assert match is not None
    assert match.b is None
    assert match.conv.attr("pads") == (1, 1, 1, 1)
    run(model, Conv())
    assert ops(model) == ["Conv"]
    assert next(iter(model.graph)).attr("pads") == (1, 1, 1, 1)


def test_a_constant_leaf_refuses_an_overridable_initializer() -> None:
    class MulConst(Rule):
        def pattern(self, op: Any, x: Any, c: Const) -> Any:
            return op.Mul(x, c)

        def rewrite(self, r: Rewriter, m: Match) -> Any:
            return m.x

    model = graph("""
        graph @main(%x: f32[2], %w: f32[2] = dense<[1.0, 1.0]>) {
          %y = Mul(%x, %w)
          return %y
        }""")
    match, reason = try_match(MulConst(), model, "Mul")
    assert match is None
    assert "is not a constant" in reason


def test_commutative_operands_are_tried_both_ways_with_backtracking() -> None:
    """tanh-Gelu nests commutative operators: the first order tried is wrong at several levels at once."""

    class Nested(Rule):
        def pattern(self, op: Any, x: Any) -> Any:
            return op.Mul(op.Mul(x, op.Add(op.Tanh(x), 1.0)), 0.5)

        def rewrite(self, r: Rewriter, m: Match) -> Any:
            return r.Relu(m.x)

    for first in ("Mul(%half, %p)", "Mul(%p, %half)"):
        for second in ("Mul(%x, %a)", "Mul(%a, %x)"):
            for third in ("Add(%one, %t)", "Add(%t, %one)"):
                model = graph(f"""
                    graph @main(%x: f32[2,3]) {{
                      %one: f32[] = const dense<1.0>
                      %half: f32[] = const dense<0.5>
                      %t = Tanh(%x)
                      %a = {third}
                      %p = {second}
                      %y = {first}
                      return %y
                    }}""")
                run(model, Nested())
                assert ops(model) == ["Relu"], (first, second, third)


def test_the_same_leaf_twice_is_the_same_value() -> None:
    class Square(Rule):
        def pattern(self, op: Any, x: Any) -> Any:
            return op.Mul(x, x)

        def rewrite(self, r: Rewriter, m: Match) -> Any:
            return r.Pow(m.x, 2.0)

    assert ops_after(Square(), "%y = Mul(%x, %x)") == ["Pow"]
    assert ops_after(Square(), "%a = Abs(%x)\n%y = Mul(%x, %a)") == ["Abs", "Mul"]


def ops_after(rule: RuleBase, body: str) -> list[str]:
    model = graph(f"graph @main(%x: f32[2,3]) {{\n{body}\nreturn %y }}")
    run(model, rule)
    return ops(model)


def test_subtraction_does_not_commute() -> None:
    class FromOne(Rule):
        def pattern(self, op: Any, x: Any) -> Any:
            return op.Sub(1.0, x)

        def rewrite(self, r: Rewriter, m: Match) -> Any:
            return r.Neg(m.x)

    assert ops_after(FromOne(), "%c: f32[] = const dense<1.0>\n%y = Sub(%x, %c)") == ["Sub"]
    assert ops_after(FromOne(), "%c: f32[] = const dense<1.0>\n%y = Sub(%c, %x)") == ["Neg"]


@pytest.mark.parametrize(
    ("found", "wanted", "dtype", "expected"),
    [
        (np.float32(0.044715).item(), 0.044715, DType.F32, True),
        (np.float16(0.044715).item(), 0.044715, DType.F16, True),
        (0.0447, 0.044715, DType.F32, False),
        (1e-10, 0.0, DType.F32, False),
        (float("nan"), 1.0, DType.F32, False),
        (1, 1.0, DType.I64, True),
        (2, 1.0, DType.I64, False),
        (1.4142135381698608, 2**0.5, DType.F64, False),  # what it computes differs by more than roundings
    ],
)
def test_scalars_match_up_to_rounding(found: Any, wanted: float, dtype: DType, expected: bool) -> None:
    assert close(found, wanted, 4, dtype) is expected


def test_a_scalar_of_higher_rank_does_not_match() -> None:
    """Multiplying a vector by a constant of shape [1,1,1] changes the result's rank."""

    class MulOne(Rule):
        def pattern(self, op: Any, x: Any) -> Any:
            return op.Mul(x, Scalar(1.0))

        def rewrite(self, r: Rewriter, m: Match) -> Any:
            return m.x

    model = graph("graph @main(%x: f32[3]) { %c: f32[1,1,1] = const dense<1.0>\n %y = Mul(%x, %c)\n return %y }")
    match, reason = try_match(MulOne(), model, "Mul")
    assert match is None
    assert "is not a scalar constant" in reason
    assert ops_after(MulOne(), "%c: f32[1,1] = const dense<1.0>\n%y = Mul(%x, %c)") == []


def test_a_named_scalar_gives_its_value() -> None:
    class AnyScale(Rule):
        def pattern(self, op: Any, x: Any) -> Any:
            return op.Mul(x, Scalar(name="factor"))

        def rewrite(self, r: Rewriter, m: Match) -> Any:
            return r.Div(m.x, 1 / m.factor)

    model = graph("graph @main(%x: f32[3]) { %c: f32[] = const dense<4.0>\n %y = Mul(%x, %c)\n return %y }")
    run(model, AnyScale())
    assert [v.numpy().item() for v in model.graph.constants] == [0.25]


def test_shared_lets_an_inner_result_have_other_users() -> None:
    class Shared(Rule):
        def pattern(self, op: Any, x: Any) -> Any:
            return op.Relu(op.Neg(op.Exp(x, shared=True), shared=True))

        def rewrite(self, r: Rewriter, m: Match) -> Any:
            return r.Abs(m.x)

    model = graph("graph @main(%x: f32[3]) { %e = Exp(%x)\n %n = Neg(%e)\n %y = Relu(%n)\n return %y, %e }")
    run(model, Shared())
    assert ops(model) == ["Exp", "Abs"]


def test_a_pattern_with_several_results() -> None:
    class SecondOfTopK(Rule):
        def pattern(self, op: Any, x: Any, k: Const) -> Any:
            values, _ = op.TopK(x, k, outputs=2, attrs=KEEP)
            return op.Relu(values)

        def rewrite(self, r: Rewriter, m: Match) -> Any:
            return r.Abs(m.x)

    text = "%k: i64[1] = const dense<[2]>\n %v, %i = TopK(%x, %k) {{axis = 0}}\n %y = Relu(%{})"
    float_model = graph("graph @main(%x: f32[2]) { " + text.format("v") + "\n return %y }")
    assert try_match(SecondOfTopK(), float_model, "Relu")[0] is not None
    index_model = graph("graph @main(%x: f32[2]) { " + text.format("i") + "\n return %y }", opset=21)
    match, reason = try_match(SecondOfTopK(), index_model, "Relu")
    assert match is None
    assert "another result" in reason


def test_any_of_several_operators() -> None:
    class Either(Rule):
        def pattern(self, op: Any, x: Any) -> Any:
            return op("Sigmoid|Tanh", op.Neg(x), bind="f")

        def rewrite(self, r: Rewriter, m: Match) -> Any:
            return r.op(m.f.op, m.x)

    assert ops_after(Either(), "%n = Neg(%x)\n%y = Tanh(%n)") == ["Tanh"]
    assert ops_after(Either(), "%n = Neg(%x)\n%y = Sigmoid(%n)") == ["Sigmoid"]
    assert ops_after(Either(), "%n = Neg(%x)\n%y = Relu(%n)") == ["Neg", "Relu"]


def test_any_attribute() -> None:
    class AnyAlpha(Rule):
        def pattern(self, op: Any, x: Any) -> Any:
            return op.LeakyRelu(x, alpha=ANY, bind="f")

        def rewrite(self, r: Rewriter, m: Match) -> Any:
            return r.Elu(m.x, alpha=m.f.attr("alpha"))

    assert ops_after(AnyAlpha(), "%y = LeakyRelu(%x) {alpha = 0.3}") == ["Elu"]


def test_a_pattern_value_has_no_truth_value() -> None:
    class Branches(Rule):
        def pattern(self, op: Any, x: Any) -> Any:
            return op.Relu(x) if x else op.Neg(x)

    with pytest.raises(PassError, match="truth value"):
        _ = Branches().compiled


def test_a_pattern_does_not_match_across_graphs() -> None:
    class ReluNeg(Rule):
        def pattern(self, op: Any, x: Any) -> Any:
            return op.Relu(op.Neg(x))

        def rewrite(self, r: Rewriter, m: Match) -> Any:
            return r.Abs(m.x)

    model = graph("""
        graph @main(%x: f32[2], %c: bool[]) {
          %n = Neg(%x)
          %i = If(%c) {
            then_branch = graph @t() { %u = Relu(%n)
              return %u }, else_branch = graph @e() { %m = Neg(%x)
              %v = Relu(%m)
              return %v } }
          return %i
        }""")
    run(model, ReluNeg())
    assert sorted(ops(model)) == ["Abs", "If", "Neg", "Relu"]
