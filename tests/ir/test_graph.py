"""The graph: uses, erasure, iteration while it changes, captures, bodies."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.ir.constants import ArrayConstant
from planish.ir.dtypes import DType
from planish.ir.errors import PassError
from planish.ir.graph import Function, Graph, Model, Node, Value
from planish.ir.text import parse_graph
from planish.ir.types import SequenceType, TensorType
from planish.ir.verify import verify


def chain(n: int) -> tuple[Graph, list[Node]]:
    """``n0 -> n1 -> ...`` of one operand each, with the last one returned."""
    graph = Graph(opsets={"": 17})
    value = graph.add_input("x", TensorType(DType.F32, (4,)))
    nodes: list[Node] = []
    for i in range(n):
        nodes.append(graph.append(Node("Relu", [value], outputs=[f"v{i}"], name=f"n{i}")))
        value = nodes[-1].output
    graph.set_outputs([value], ["y"])
    return graph, nodes


def bypass(node: Node) -> None:
    """Erases a node whose users take its operand instead."""
    operand = node.inputs[0]
    assert operand is not None
    node.output.replace_uses(operand)
    node.erase()


def with_branch() -> tuple[Graph, Node, Graph, Node]:
    """A graph, its If node, the then-body, and a node in it that captures ``%x``."""
    graph = parse_graph(
        "graph @m(%x: f32[4], %c: bool[]) { %r = If(%c) {then_branch = graph @t() { %a = Neg(%x) return %a }, "
        "else_branch = graph @e() { %b = Abs(%x) return %b }} return %r }"
    )
    branch = next(iter(graph))
    body = branch.attrs["then_branch"]
    assert isinstance(body, Graph)
    return graph, branch, body, next(iter(body))


# -- uses


def test_uses_follow_operands() -> None:
    graph, (a, b, _) = chain(3)
    x = graph.inputs[0]
    assert list(x.uses) == [(a, 0)]
    b.set_input(0, x)
    assert list(x.uses) == [(a, 0), (b, 0)]
    assert not a.output.uses
    b.set_inputs([x, None, x])
    assert list(x.uses) == [(a, 0), (b, 0), (b, 2)]
    assert list(x.users) == [a, b, b]
    assert x.sole_user is None
    b.set_input(2, None)
    b.set_input(1, None)
    b.set_inputs([])
    assert x.sole_user is a


def test_replacing_uses_keeps_what_the_new_value_had() -> None:
    graph, (a, b, c) = chain(3)
    x = graph.inputs[0]
    b.output.replace_uses(x)
    assert c.inputs == [x]
    assert list(x.uses) == [(a, 0), (c, 0)]
    x.replace_uses(x)
    assert len(x.uses) == 2


def test_an_output_is_a_use_by_the_return_node() -> None:
    graph, (a, b) = chain(2)
    assert b.output.is_output
    assert not a.output.is_output
    assert b.output.sole_user is graph.ret
    assert graph.outputs == [b.output]
    graph.set_outputs([a.output, a.output], ["p", "q"])
    assert [(n.op, i) for n, i in a.output.uses] == [("Relu", 0), ("return", 0), ("return", 1)]
    assert [p.name for p in graph.ports] == ["p", "q"]


def test_owner_and_shortcuts_of_values() -> None:
    graph, (a,) = chain(1)
    x = graph.inputs[0]
    constant = graph.add_constant(ArrayConstant(np.zeros((2, 3), np.float32)), "c")
    assert x.owner is graph
    assert a.output.owner is graph
    assert constant.owner is graph
    assert (constant.rank, constant.shape, constant.dtype) == (2, (2, 3), DType.F32)
    assert constant.numpy().shape == (2, 3)
    sequence = Value("s", SequenceType(None))
    assert (sequence.tensor, sequence.shape, sequence.rank, sequence.dtype) == (None, None, None, None)
    with pytest.raises(PassError, match="%x is not a constant"):
        x.numpy()


# -- erasing


def test_a_node_that_is_used_is_not_erased() -> None:
    graph, (a, b) = chain(2)
    with pytest.raises(PassError, match="erased node Relu 'n0' still feeds Relu 'n1' through %v0"):
        a.erase()
    with pytest.raises(PassError, match="still feeds return"):
        b.erase()
    assert list(graph) == [a, b]
    assert list(graph.inputs[0].uses) == [(a, 0)]


def test_erasing_forgets_operands_and_the_place() -> None:
    graph, (a, b, c) = chain(3)
    bypass(b)
    assert list(graph) == [a, c]
    assert (b.erased, b.graph, len(graph)) == (True, None, 2)
    assert list(a.output.uses) == [(c, 0)]
    assert a.next is c
    assert c.prev is a


def test_erasing_drops_captures_in_bodies() -> None:
    graph, branch, _, _ = with_branch()
    x, c = graph.inputs
    assert len(x.uses) == 2
    graph.set_outputs([x], ["r"])
    branch.erase()
    assert [n.op for n, _ in x.uses] == ["return"]
    assert not c.uses
    verify(Model(graph))


def test_interface_and_constants_go_only_when_unused() -> None:
    graph, (a,) = chain(1)
    constant = graph.add_constant(ArrayConstant(np.zeros(4, np.float32)), "c")
    second = graph.add_input("second")
    third = graph.add_input("third")
    graph.defaults[second] = ArrayConstant(np.zeros(4, np.float32))
    a.set_inputs([constant])
    with pytest.raises(PassError, match="constant %c is still used"):
        graph.remove_constant(constant)
    graph.remove_input(second)
    assert third.index == 1
    assert not graph.defaults
    a.set_inputs([third])
    graph.remove_constant(constant)
    with pytest.raises(PassError, match="input %third of graph 'main' is still used"):
        graph.remove_input(third)


# -- iteration while the graph changes


def visited(graph: Graph, act: Callable[[Node], None], *, backwards: bool = False) -> list[str]:
    seen: list[str] = []
    for node in reversed(graph) if backwards else graph:
        seen.append(node.name)
        act(node)
    return seen


def test_the_current_node_may_be_erased() -> None:
    graph, _ = chain(4)
    assert visited(graph, bypass) == ["n0", "n1", "n2", "n3"]
    assert len(graph) == 0
    graph, _ = chain(4)
    assert visited(graph, bypass, backwards=True) == ["n3", "n2", "n1", "n0"]
    assert graph.outputs == [graph.inputs[0]]


def test_an_erased_node_is_not_visited() -> None:
    graph, nodes = chain(5)

    def erase_next_two(node: Node) -> None:
        if node is nodes[1]:
            bypass(nodes[2])
            bypass(nodes[3])

    assert visited(graph, erase_next_two) == ["n0", "n1", "n4"]


def test_erasing_the_current_node_and_those_behind_it() -> None:
    graph, nodes = chain(5)

    def erase(node: Node) -> None:
        if node is nodes[1]:
            for victim in nodes[1:4]:
                bypass(victim)

    assert visited(graph, erase) == ["n0", "n1", "n4"]


def test_erasing_the_current_node_and_those_before_it() -> None:
    graph, nodes = chain(5)

    def erase(node: Node) -> None:
        if node is nodes[3]:
            for victim in nodes[1:4]:
                bypass(victim)

    assert visited(graph, erase) == ["n0", "n1", "n2", "n3", "n4"]
    assert [n.name for n in graph] == ["n0", "n4"]


def test_what_is_inserted_behind_is_visited_and_before_it_is_not() -> None:
    graph, nodes = chain(3)
    x = graph.inputs[0]

    def insert(node: Node) -> None:
        if node is nodes[1]:
            graph.insert_before(node, Node("Relu", [x], name="before"))
            graph.insert_after(node, Node("Relu", [x], name="after"))
            graph.append(Node("Relu", [x], name="last"))

    assert visited(graph, insert) == ["n0", "n1", "after", "n2", "last"]
    assert [n.name for n in graph] == ["n0", "before", "n1", "after", "n2", "last"]


def test_replacing_the_current_node_by_one_before_it() -> None:
    graph, _ = chain(3)

    def replace(node: Node) -> None:
        new = graph.insert_before(node, Node("Neg", node.inputs, outputs=[node.output.name], name=node.name + "'"))
        node.output.replace_uses(new.output)
        node.erase()

    assert visited(graph, replace) == ["n0", "n1", "n2"]
    assert [n.name for n in graph] == ["n0'", "n1'", "n2'"]
    verify(Model(graph))


def test_what_is_moved_behind_is_visited_and_before_it_is_not() -> None:
    graph, nodes = chain(5)

    def move(node: Node) -> None:
        if node is nodes[2]:
            nodes[0].move_before(nodes[4])
            nodes[3].move_before(nodes[1])

    assert visited(graph, move) == ["n0", "n1", "n2", "n0", "n4"]
    assert [n.name for n in graph] == ["n3", "n1", "n2", "n0", "n4"]
    assert len(graph) == 5
    nodes[0].move_before(nodes[0])
    assert len(graph) == 5


def test_the_last_node_may_be_erased_and_a_new_one_appended() -> None:
    graph, nodes = chain(2)

    def act(node: Node) -> None:
        if node is nodes[1]:
            bypass(node)
        if len(graph) < 2:
            graph.append(Node("Relu", [graph.inputs[0]], name="new"))

    # The new one stands behind the current position only when the current node still has its place.
    assert visited(graph, act)[:2] == ["n0", "n1"]
    assert [n.name for n in graph] == ["n0", "new"]


@given(st.integers(0, 1 << 30))
@settings(max_examples=200, deadline=None)
def test_iteration_under_random_changes_visits_each_living_node_at_most_once(seed: int) -> None:
    rng = random.Random(seed)
    graph, nodes = chain(12)
    seen: set[Node] = set()
    count = 0
    for node in graph:
        assert node not in seen
        assert not node.erased
        seen.add(node)
        for _ in range(rng.randrange(3)):
            living = [n for n in nodes if not n.erased]
            victim = rng.choice(living) if living else None
            if rng.random() < 0.5 and victim is not None:
                bypass(victim)
            elif count < 20 and not node.erased:
                count += 1
                new = Node("Relu", [graph.inputs[0]], name=f"new{count}")
                nodes.append(graph.insert_after(rng.choice([n for n in nodes if not n.erased]), new))
    assert len(graph) == len(list(graph)) == len(list(reversed(graph)))
    assert list(graph) == list(reversed(graph))[::-1]
    verify(Model(graph))


# -- bodies


def test_captures_are_uses() -> None:
    graph, branch, body, neg = with_branch()
    x = graph.inputs[0]
    assert (neg, 0) in x.uses
    assert body.parent is branch
    assert body.outer is graph
    assert body.root is graph
    assert body.opsets is graph.opsets
    other = graph.add_input("z", x.type)
    x.replace_uses(other)
    assert neg.inputs == [other]
    assert branch.subgraphs == [branch.attrs["then_branch"], branch.attrs["else_branch"]]


def test_walks_go_outer_first() -> None:
    graph, branch, body, neg = with_branch()
    assert [n.op for n in graph.all_nodes()] == ["If", "Neg", "Abs"]
    assert [g.name for g in graph.all_graphs()] == ["m", "t", "e"]
    assert next(iter(body)) is neg
    assert list(graph) == [branch]


def test_a_body_joins_the_model_with_its_node() -> None:
    _, branch, body, _ = with_branch()
    assert branch.graph is not None
    branch.graph.ret.drop_uses()
    branch.graph.ret.inputs.clear()
    branch.graph.unlink(branch)
    other = Graph("other", {"": 21})
    model = Model(other)
    other.append(branch)
    assert body.opsets is other.opsets
    assert body.model is model
    assert next(iter(body)).version == 21
    late = Graph("late", {"": 1})
    branch.set_attr("extra", (late,))
    assert late.parent is branch
    assert late.opsets is other.opsets
    assert late in branch.subgraphs


def test_walks_do_not_recurse() -> None:
    root = Graph(opsets={"": 17})
    graph = root
    for _ in range(3000):
        body = Graph("b", root.opsets)
        graph.append(Node("Loop", [None, None], {"body": body}, outputs=0))
        graph = body
    model = Model(root)
    assert len(list(model.all_graphs())) == 3001
    assert len(list(root.all_nodes())) == 3000
    assert graph.root is root


def test_functions_belong_to_the_model() -> None:
    model = Model(Graph(opsets={"": 17}))
    function = Function("d", "F", Graph("F", {"": 18}), overload="o")
    model.add_function(function)
    assert model.functions[("d", "F", "o")] is function
    assert function.graph.model is model
    assert list(model.roots()) == [model.graph, function.graph]
    assert model.opsets == {"": 17}


def test_reading_nodes() -> None:
    graph = parse_graph("graph @m(%x: f32[4]) { %y = LeakyRelu(%x) return %y }", opset=17)
    node = next(iter(graph))
    assert node.version == 17
    assert node.attr("alpha") == pytest.approx(0.01)
    assert node.attr("nothing", 3) == 3
    assert node.input(0) is graph.inputs[0]
    assert node.input(5) is None
    assert node.add_output("z").index == 1
    assert not node.is_return
    assert graph.ret.is_return
    assert bool(Graph()) is True
    assert repr(node) == "%y, %z = LeakyRelu(%x)"
    assert Node("Relu", []).version == 0


def test_the_first_and_last_node_have_no_neighbours_beyond() -> None:
    graph, (a, b) = chain(2)
    assert a.prev is None
    assert b.next is None
    assert graph.ret.next_link is a
