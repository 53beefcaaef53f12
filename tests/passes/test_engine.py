"""The rewriting engine: the worklist, and what the rewriter guarantees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planish.ir.errors import PassError
from planish.ir.graph import Model, Node
from planish.ir.text.parser import parse_model
from planish.ir.verify import verify
from planish.passes.core import Context, Fuel
from planish.passes.rewrite import MODIFIED, Match, NodeRule, NoMatch, Rewriter, Rule
from planish.passes.rewrite.greedy import apply_rules
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


def reasons(ctx: Context) -> list[str]:
    return [reason for s in ctx.statistics.values() for reason in s.reasons]


# -- the greedy engine


class Swap(NodeRule):
    """Turns ``roots[0]`` into ``other``."""

    def __init__(self, root: str, other: str) -> None:
        self.roots = (root,)  # type: ignore[misc]
        self.other = other

    def apply(self, r: Rewriter, node: Node) -> Any:
        return r.op(self.other, node.inputs[0])


class Ping(Swap):
    def __init__(self) -> None:
        super().__init__("Relu", "Neg")


class Pong(Swap):
    def __init__(self) -> None:
        super().__init__("Neg", "Relu")


def test_rules_that_undo_each_other_are_an_error_that_names_them() -> None:
    model = graph("graph @main(%x: f32[2]) { %y = Relu(%x)\n return %y }")
    with pytest.raises(PassError, match="does not end") as caught:
        run(model, Ping(), Pong())
    assert "Ping" in str(caught.value)
    assert "Pong" in str(caught.value)


def test_a_growing_rule_comes_to_an_error() -> None:
    class Grow(NodeRule):
        roots = ("Relu",)

        def apply(self, r: Rewriter, node: Node) -> Any:
            return r.Relu(r.Relu(node.inputs[0]))

    model = graph("graph @main(%x: f32[2]) { %y = Relu(%x)\n return %y }")
    with pytest.raises(PassError, match="does not end"):
        run(model, Grow())


def chain(n: int) -> Model:
    lines = "\n".join(f"%v{i + 1} = Relu(%v{i})" for i in range(n))
    return graph(f"graph @main(%v0: f32[2]) {{\n{lines}\nreturn %v{n} }}")


def test_fuel_stops_after_that_many_rewrites() -> None:
    for limit in (0, 1, 3, 5, 9):
        model = chain(5)
        ctx = run(model, Ping(), fuel=Fuel(limit))
        assert ops(model).count("Neg") == min(limit, 5)
        assert ctx.fuel.spent == min(limit, 5)


def test_every_application_is_logged() -> None:
    model = chain(3)
    ctx = run(model, Ping(), log=[])
    assert ctx.log is not None
    assert [a.number for a in ctx.log] == [1, 2, 3]
    assert {a.rule for a in ctx.log} == {"test/Ping"}
    assert ctx.statistics["test/Ping"].hits == 3


def test_disabled_rules_do_not_fire() -> None:
    for name in ("Ping", "test/Ping"):
        model = chain(2)
        run(model, Ping(), disabled=frozenset({name}))
        assert ops(model) == ["Relu", "Relu"]


def test_a_rewrite_enables_the_next_one_whatever_the_order() -> None:
    class Cancel(Rule):
        def pattern(self, op: Any, x: Any) -> Any:
            return op.Neg(op.Neg(x))

        def rewrite(self, r: Rewriter, m: Match) -> Any:
            return m.x

    model = graph(
        "graph @main(%x: f32[2]) { %a = Neg(%x)\n%b = Neg(%a)\n%c = Neg(%b)\n%d = Neg(%c)\n%y = Relu(%d)\nreturn %y }"
    )
    run(model, Cancel())
    assert ops(model) == ["Relu"]


def test_bodies_and_functions_are_rewritten() -> None:
    model = graph("""
        model ir=10 opset {"" = 21, "own" = 1}
        graph @main(%x: f32[2], %c: bool[]) {
          %i = If(%c) {
            then_branch = graph @t() { %u = Relu(%x)
              return %u }, else_branch = graph @e() { %v = Exp(%x)
              return %v } }
          %f = own::Twice(%i)
          return %f
        }
        function @own::Twice(%a) opset {"" = 21} {
          %b = Relu(%a)
          return %b
        }""")
    run(model, Ping())
    assert sorted(ops(model)) == ["Exp", "If", "Neg", "Neg", "Twice"]


def test_a_rule_for_every_operator_sees_those_that_others_are_filed_under() -> None:
    seen: list[str] = []

    class Everything(NodeRule):
        roots = ("*",)

        def apply(self, r: Rewriter, node: Node) -> Any:
            seen.append(node.op)
            raise NoMatch("just looking")

    model = graph("graph @main(%x: f32[2]) { %a = Relu(%x)\n %y = Exp(%a)\n return %y }")
    run(model, Pong(), Everything())
    assert set(seen) == {"Relu", "Exp"}


def test_an_exception_in_a_rule_names_the_rule() -> None:
    class Broken(NodeRule):
        roots = ("Relu",)

        def apply(self, r: Rewriter, node: Node) -> Any:
            raise ZeroDivisionError("by accident")

    with pytest.raises(PassError, match="by accident") as caught:
        run(chain(1), Broken())
    assert "test/Broken" in str(caught.value)
    assert "Relu" in str(caught.value)


def test_a_rule_that_returns_nothing_is_an_error() -> None:
    class Nothing(NodeRule):
        roots = ("Relu",)

        def apply(self, r: Rewriter, node: Node) -> Any:
            return None

    with pytest.raises(PassError, match="returned None"):
        run(chain(1), Nothing())


# -- the rewriter


def test_a_declined_rewrite_leaves_nothing_behind() -> None:
    class Late(NodeRule):
        roots = ("Relu",)

        def apply(self, r: Rewriter, node: Node) -> Any:
            y = r.Add(node.inputs[0], r.const(np.ones(2, np.float32)))
            r.Exp(y)
            raise NoMatch("changed my mind")

    model = chain(2)
    before = str(model)
    ctx = run(model, Late())
    assert str(model) == before
    assert reasons(ctx) == ["changed my mind"]


def test_a_replacement_of_another_type_is_an_error() -> None:
    class ToBool(NodeRule):
        roots = ("Relu",)

        def apply(self, r: Rewriter, node: Node) -> Any:
            return r.Cast(node.inputs[0], to=9)

    with pytest.raises(PassError, match="different element types"):
        run(chain(1), ToBool())


def test_a_replacement_of_another_shape_is_an_error() -> None:
    class Shorter(NodeRule):
        roots = ("Relu",)

        def apply(self, r: Rewriter, node: Node) -> Any:
            return r.ReduceMax(node.inputs[0])

    with pytest.raises(PassError, match="dimension 0 was 2 and became 1"):
        run(chain(1), Shorter())


def test_proven_types_of_both_sides_are_merged() -> None:
    class Same(NodeRule):
        roots = ("Reshape",)

        def apply(self, r: Rewriter, node: Node) -> Any:
            return r.Identity(node.inputs[0])

    model = graph("""
        graph @main(%x: f32[?,3]) {
          %s: i64[2] = const dense<[4, 3]>
          %y = Reshape(%x, %s)
          return %y
        }""")
    run(model, Same())
    assert str(model.graph.outputs[0].type) == "f32[4,3]"


def test_an_operator_that_the_opset_lacks_is_an_error() -> None:
    class Modern(NodeRule):
        roots = ("Relu",)

        def apply(self, r: Rewriter, node: Node) -> Any:
            return r.Gelu(node.inputs[0])

    model = graph("graph @main(%x: f32[2]) { %y = Relu(%x)\n return %y }", opset=13)
    with pytest.raises(PassError, match="invalid Gelu"):
        run(model, Modern())
    model = graph("graph @main(%x: f32[2]) { %y = Relu(%x)\n return %y }", opset=20)
    run(model, Modern())
    assert ops(model) == ["Gelu"]


def test_an_attribute_that_the_opset_lacks_is_an_error() -> None:
    class AllowZero(NodeRule):
        roots = ("Flatten",)

        def apply(self, r: Rewriter, node: Node) -> Any:
            return r.Reshape(node.inputs[0], np.array([0, -1]), allowzero=1)

    model = graph("graph @main(%x: f32[2,3]) { %y = Flatten(%x)\n return %y }", opset=13)
    with pytest.raises(PassError, match="allowzero"):
        run(model, AllowZero())


def test_names_and_provenance_pass_to_the_replacement() -> None:
    class Pair(Rule):
        def pattern(self, op: Any, x: Any) -> Any:
            return op.Exp(op.Neg(x))

        def rewrite(self, r: Rewriter, m: Match) -> Any:
            return r.Reciprocal(r.Exp(m.x))

    model = graph("""
        graph @main(%x: f32[2]) {
          %n = Neg(%x)  // "layer/neg"
          %e = Exp(%n)  // "layer/exp"
          %y = Relu(%e)
          return %y
        }""")
    run(model, Pair())
    made = next(n for n in model.graph if n.op == "Reciprocal")
    assert made.output.name == "e"
    assert made.name == "layer/exp"
    assert made.origin == ("layer/neg", "layer/exp")


def test_what_a_replaced_node_alone_needed_goes_with_it() -> None:
    class Drop(NodeRule):
        roots = ("Where",)

        def apply(self, r: Rewriter, node: Node) -> Any:
            return node.inputs[1]  # type: ignore[return-value]

    model = graph("""
        graph @main(%x: f32[2], %c: bool[2]) {
          %k: f32[2] = const dense<[1.0, 2.0]>
          %n = Neg(%k)
          %m = Exp(%n)
          %y = Where(%c, %x, %m)
          %z = Relu(%y)
          return %z
        }""")
    run(model, Drop())
    assert ops(model) == ["Relu"]
    assert not model.graph.constants


def test_an_unknown_operator_is_not_erased_with_its_user() -> None:
    class Drop(NodeRule):
        roots = ("Add",)

        def apply(self, r: Rewriter, node: Node) -> Any:
            return node.inputs[0]  # type: ignore[return-value]

    model = graph("""
        model ir=10 opset {"" = 21, "strange" = 1}
        graph @main(%x: f32[2]) {
          %k: f32[2] = strange::Launch(%x)
          %y = Add(%x, %k)
          return %y
        }""")
    run(model, Drop())
    assert ops(model) == ["Launch"]


def test_constants_made_in_a_body_belong_to_the_outermost_graph() -> None:
    class AddConst(NodeRule):
        roots = ("Exp",)

        def apply(self, r: Rewriter, node: Node) -> Any:
            return r.Add(node.inputs[0], np.ones(2, np.float32))

    model = graph("""
        graph @main(%x: f32[2], %c: bool[]) {
          %i = If(%c) {
            then_branch = graph @t() { %u = Relu(%x)
              return %u }, else_branch = graph @e() { %v = Exp(%x)
              return %v } }
          return %i
        }""")
    run(model, AddConst())
    assert len(model.graph.constants) == 1


def test_types_behind_a_rewrite_become_as_precise_as_they_can() -> None:
    class Static(NodeRule):
        roots = ("Shape",)

        def apply(self, r: Rewriter, node: Node) -> Any:
            return r.const(np.array([2, 6]))

    model = graph("""
        graph @main(%x: f32[3,4], %t: f32[?,?]) {
          %s = Shape(%t)
          %y = Reshape(%x, %s)
          %z = Relu(%y)
          return %z
        }""")
    assert str(model.graph.outputs[0].type) != "f32[2,6]"
    run(model, Static())
    assert str(model.graph.outputs[0].type) == "f32[2,6]"


def test_modified_in_place() -> None:
    class SwapOperands(NodeRule):
        roots = ("Add",)

        def apply(self, r: Rewriter, node: Node) -> Any:
            if node.inputs[0].data is None:  # type: ignore[union-attr]
                raise NoMatch("the first operand is no constant")
            r.set_inputs(node, reversed(node.inputs))
            return MODIFIED

    model = graph("graph @main(%x: f32[2]) { %c: f32[2] = const dense<[1.0, 2.0]>\n %y = Add(%c, %x)\n return %y }")
    run(model, SwapOperands())
    assert [v.name for v in next(iter(model.graph)).inputs if v is not None] == ["x", "c"]
