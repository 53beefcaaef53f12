"""Sound models pass the verifier, and every kind of fault that is planted is found and named."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.ir.constants import ArrayConstant, LazyConstant
from planish.ir.dtypes import DType
from planish.ir.errors import VerifyError
from planish.ir.graph import AttrRef, EmptyAttr, Function, Graph, Model, Node, Value
from planish.ir.schema import INTS
from planish.ir.text import parse_model, print_model
from planish.ir.types import SequenceType, TensorType
from planish.ir.verify import MAX_DEPTH, check_node, problems, verify

from .random_models import random_model

SOUND = """model ir=10 opset {"" = 17, "com.microsoft" = 1, "my.domain" = 1}
graph @main(%x: f32[2,4], %d: f32[1] = dense<[3]>) -> (%out: f32[2,4]) {
  %w: f32[4] = const dense<[1, 2, 3, 4]>
  %flag: bool[] = const dense<true>
  %a = Add(%x, %w) // "add"
  %b = Relu(%a)
  %i = If(%flag) {else_branch = graph @e() {
    %k: f32[4] = const splat<1>
    %e0 = Mul(%a, %k)
    return %e0
  }, then_branch = graph @t() {
    %t0 = Neg(%b)
    %t1 = Abs(%t0)
    return %t1
  }}
  %f = my.domain::F(%i) {alpha = 0.5}
  %p, %q = Split(%f) {axis = 0}
  %s = Shape(%x)
  return %f as "out"
}
function @my.domain::F(%u) opset {"" = 17, "my.domain" = 1} attributes [alpha] {
  %l = LeakyRelu(%u) {alpha = ref<alpha, float>}
  %g = my.domain::G(%l)
  return %g
}
function @my.domain::G(%u) opset {"" = 17, "my.domain" = 1} {
  %l = Relu(%u)
  return %l
}
"""


def sound() -> Model:
    return parse_model(SOUND)


def node(model: Model, op: str) -> Node:
    return next(n for n in model.all_nodes() if n.op == op)


def value(model: Model, name: str) -> Value:
    for graph in model.all_graphs():
        for v in [*graph.inputs, *graph.constants, *(o for n in graph for o in n.outputs)]:
            if v.name == name:
                return v
    raise LookupError(name)


def function(model: Model, name: str) -> Function:
    return model.functions["my.domain", name, ""]


def test_the_sound_model_is_sound() -> None:
    verify(sound())
    verify(sound(), types=True)


@given(st.integers(0, 1 << 30))
@settings(max_examples=100, deadline=None)
def test_random_models_are_sound(seed: int) -> None:
    model = random_model(seed)
    before = print_model(model)
    assert problems(model) == []
    assert problems(parse_model(print_model(model, resources="inline"))) == []
    assert print_model(model) == before


# -- planting faults

Plant = Callable[[Model], object]
FAULTS: dict[str, tuple[Plant, str]] = {}


def fault(message: str) -> Callable[[Plant], Plant]:
    def register(plant: Plant) -> Plant:
        FAULTS[plant.__name__] = plant, message
        return plant

    return register


@fault("operand 0 is %b, which Relu '' defines later or in a body that is not around it")
def use_before_definition(m: Model) -> None:
    relu = node(m, "Relu")
    rebuild(m.graph, [n for n in m.graph if n is not relu] + [relu])


def rebuild(graph: Graph, nodes: list[Node]) -> None:
    """Links the nodes in the given order."""
    chain = [graph.ret, *nodes, graph.ret]
    for a, b in pairwise(chain):
        a.next_link, b.prev_link = b, a
    graph.count = len(nodes)


@fault("defines later or in a body that is not around it")
def use_of_a_bodys_value_outside(m: Model) -> None:
    node(m, "Shape").set_input(0, value(m, "t1"))


@fault("defines later or in a body that is not around it")
def use_of_a_siblings_value(m: Model) -> None:
    node(m, "Mul").set_input(0, value(m, "t0"))


@fault("an input or constant of no graph around it")
def use_of_a_siblings_constant(m: Model) -> None:
    node(m, "Neg").set_input(0, value(m, "k"))


@fault("defines later or in a body that is not around it")
def own_result_as_operand(m: Model) -> None:
    node(m, "Shape").set_input(0, value(m, "s"))


@fault("defines later or in a body that is not around it")
def result_used_in_own_body(m: Model) -> None:
    node(m, "Neg").set_input(0, value(m, "i"))


@fault("whose producer Exp 'gone' is not in the graph")
def use_of_an_erased_nodes_value(m: Model) -> None:
    gone = m.graph.insert_before(node(m, "Shape"), Node("Exp", [value(m, "x")], name="gone"))
    gone.erase()
    node(m, "Shape").set_input(0, gone.output)


@fault("an input or constant of no graph around it")
def function_captures(m: Model) -> None:
    node(m, "LeakyRelu").set_input(0, value(m, "x"))


@fault("an input or constant of no graph around it")
def constant_without_owner(m: Model) -> None:
    m.graph.constants.pop(value(m, "w"))


@fault("operand 0 is a str, expected a value")
def operand_that_is_no_value(m: Model) -> None:
    node(m, "Shape").inputs[0] = "x"  # type: ignore[call-overload]


@fault("operand 1, %w, does not list this use")
def forgotten_use(m: Model) -> None:
    value(m, "w").uses.clear()


@fault("lists a use as operand 1, which is another value")
def stale_use(m: Model) -> None:
    value(m, "x").uses[(node(m, "Add"), 1)] = None


@fault("lists a use as operand 7, which is another value")
def use_beyond_the_operands(m: Model) -> None:
    value(m, "x").uses[(node(m, "Add"), 7)] = None


@fault("lists a use by Exp 'stray', which is not in the graph")
def use_by_a_stray_node(m: Model) -> None:
    Node("Exp", [value(m, "x")], name="stray")


@fault("result 0, %b, does not say that it is result 0 of this node")
def wrong_producer(m: Model) -> None:
    value(m, "b").producer = node(m, "Add")


@fault("does not say that it is result 1 of this node")
def wrong_index(m: Model) -> None:
    value(m, "q").index = 0


@fault("does not say that it is result 0 of this node")
def result_with_data(m: Model) -> None:
    value(m, "b").data = value(m, "w").data


@fault("is defined twice")
def value_defined_twice(m: Model) -> None:
    split = node(m, "Split")
    split.outputs[1] = split.outputs[0]


@fault("input %d of graph 'main' does not say that it is input 1 of it")
def wrong_input_index(m: Model) -> None:
    value(m, "d").index = 0


@fault("a node in the list of graph 'main' is erased")
def erased_node_in_the_list(m: Model) -> None:
    # Iteration over the graph skips it, so it is marked where nothing uses it.
    node(m, "Shape").erased = True


@fault("says that it is in another graph")
def wrong_graph(m: Model) -> None:
    node(m, "Relu").graph = function(m, "G").graph


@fault("link to the next one is not answered by a link back")
def broken_link(m: Model) -> None:
    node(m, "Relu").prev_link = m.graph.ret


@fault("link to the next one is not answered by a link back")
def circle_in_the_list(m: Model) -> None:
    node(m, "Split").next_link = node(m, "Add")


@fault("link to the next one is not answered by a link back")
def list_without_an_end(m: Model) -> None:
    node(m, "Split").next_link = None


@fault("graph 'main' counts 9 nodes, its list has 6")
def wrong_count(m: Model) -> None:
    m.graph.count = 9


@fault("body 't' has another parent than the node that runs it")
def wrong_parent(m: Model) -> None:
    body = node(m, "If").attrs["then_branch"]
    assert isinstance(body, Graph)
    body.parent = node(m, "Relu")


@fault("body 't' is owned twice")
def shared_body(m: Model) -> None:
    branch = node(m, "If")
    branch.attrs["else_branch"] = branch.attrs["then_branch"]


@fault("body 't' has opsets of its own")
def own_opsets(m: Model) -> None:
    body = node(m, "If").attrs["then_branch"]
    assert isinstance(body, Graph)
    body.opsets = dict(body.opsets)


@fault("graph 't' does not belong to the model that holds it")
def wrong_model(m: Model) -> None:
    body = node(m, "If").attrs["then_branch"]
    assert isinstance(body, Graph)
    body.model = None


@fault("graph 'G' of function my.domain::G has a parent node")
def function_with_a_parent(m: Model) -> None:
    function(m, "G").graph.parent = node(m, "Relu")


@fault("graph 'main' has 2 ports for 1 outputs")
def port_too_many(m: Model) -> None:
    m.graph.ports = m.graph.ports * 2


@fault("output 0 of graph 'main' is omitted")
def omitted_output(m: Model) -> None:
    m.graph.ret.set_input(0, None)


@fault("the return node of graph 'main' is damaged")
def damaged_return(m: Model) -> None:
    m.graph.ret.graph = None


@fault("output 1 is named 'out', expected a name that no other output has")
def port_names_twice(m: Model) -> None:
    m.graph.set_outputs([value(m, "f"), value(m, "b")], ["out", "out"])


@fault("output 0 has the name 'x' of an input")
def port_named_as_an_input(m: Model) -> None:
    m.graph.ports[0].name = "x"


@fault("output 0 is named ''")
def port_without_name(m: Model) -> None:
    m.graph.ports[0].name = ""


@fault("input 1 is named 'x', expected a name that no other input has")
def input_names_twice(m: Model) -> None:
    value(m, "d").name = "x"


@fault("constant %w of graph 'main' has no data")
def constant_without_data(m: Model) -> None:
    value(m, "w").data = None


@fault("constant %w has type f32[5], its data f32[4]")
def constant_of_another_type(m: Model) -> None:
    value(m, "w").type = TensorType(DType.F32, (5,))


@fault("constant %c has known elements [1, 3], its data others")
def constant_with_wrong_elements(m: Model) -> None:
    c = m.graph.add_constant(ArrayConstant(np.array([1, 2])), "c")
    c.known = (1, 3)


@fault("%s has 3 known elements, its type is i64[2]")
def known_elements_too_many(m: Model) -> None:
    value(m, "s").known = (1, 2, 3)


@fault("%s has 1 known elements, its type is seq<?>")
def known_elements_of_a_sequence(m: Model) -> None:
    s = value(m, "s")
    s.known, s.type = (1,), SequenceType(None)


@fault("input %d is f32[1], its default i64[1]: element types f32 and i64")
def default_of_another_type(m: Model) -> None:
    m.graph.defaults[value(m, "d")] = ArrayConstant(np.array([1]))


@fault("graph 'main' has a default for %b, which is not an input of it")
def default_of_no_input(m: Model) -> None:
    m.graph.defaults[value(m, "b")] = ArrayConstant(np.array([1.0], np.float32))


@fault("%b has type f32[-1,4]: a negative extent")
def negative_extent(m: Model) -> None:
    value(m, "b").type = TensorType(DType.F32, (-1, 4))


@fault("function calls itself: my.domain::F -> my.domain::G -> my.domain::F")
def mutual_recursion(m: Model) -> None:
    g = function(m, "G").graph
    g.append(Node("F", [g.inputs[0]], domain="my.domain"))


@fault("function calls itself: my.domain::G -> my.domain::G")
def recursion_through_a_body(m: Model) -> None:
    g = function(m, "G").graph
    bodies: dict[str, Graph] = {}
    for name in ("then_branch", "else_branch"):
        body = Graph(name, g.opsets)
        call = body.append(Node("G", [g.inputs[0]], domain="my.domain", outputs=["o"]))
        body.set_outputs([call.output])
        bodies[name] = body
    g.append(Node("If", [g.inputs[0]], dict(bodies)))


@fault("is filed under ('my.domain', 'H', '')")
def function_under_another_key(m: Model) -> None:
    m.functions["my.domain", "H", ""] = m.functions.pop(("my.domain", "G", ""))


@fault("attribute alpha refers to a caller's 'alpha', but this is no function")
def reference_outside_a_function(m: Model) -> None:
    m.graph.append(Node("LeakyRelu", [value(m, "x")], {"alpha": AttrRef("alpha", 1)}))


@fault("attribute alpha refers to 'beta', which function my.domain::F does not have")
def reference_to_nothing(m: Model) -> None:
    node(m, "LeakyRelu").attrs["alpha"] = AttrRef("beta", 1)


@fault("F: 2 operands, the function takes 1")
def call_with_too_many_operands(m: Model) -> None:
    node(m, "F").set_inputs([value(m, "i"), value(m, "i")])


@fault("F: 2 results, the function gives 1")
def call_with_too_many_results(m: Model) -> None:
    node(m, "F").add_output()


@pytest.mark.parametrize("name", FAULTS)
def test_every_planted_fault_is_found(name: str) -> None:
    plant, message = FAULTS[name]
    model = sound()
    plant(model)
    found = problems(model)
    assert any(message in e.message for e in found), [e.message for e in found]
    with pytest.raises(VerifyError) as caught:
        verify(model)
    assert str(caught.value) == str(found[0])
    assert caught.value.help


def placed(proto: Node) -> Node:
    """A node like ``proto``, whose operands are named, in a graph with ``%x: f32``, ``%n: i64``, ``%q: seq``."""
    graph = Graph(opsets={"": 17, "com.custom": 1})
    named = {
        "x": graph.add_input("x", TensorType(DType.F32, (2, 2))),
        "n": graph.add_input("n", TensorType(DType.I64, (2, 2))),
        "q": graph.add_input("q", SequenceType(TensorType(DType.F32))),
    }
    operands = [None if v is None else named[v] for v in proto.extra["operands"]]  # type: ignore[index]
    made = Node(proto.op, operands, proto.attrs, domain=proto.domain, outputs=len(proto.outputs))
    Model(graph)
    return graph.append(made)


def spec(op: str, operands: list[str | None], attrs: dict[str, object] | None = None, **kw: object) -> Node:
    made = Node(op, [], attrs, **kw)  # type: ignore[arg-type]
    made.extra = {"operands": operands}
    return made


SCHEMA_FAULTS = [
    (spec("Nope", ["x"]), "version 17 of domain 'ai.onnx' has no operator Nope"),
    (spec("Gelu", ["x"]), "has no operator Gelu (a newer version has)"),
    (spec("Relu", ["x"], domain="ai.onnx.ml"), "domain 'ai.onnx.ml' is not among the imported ones"),
    (spec("Relu", []), "0 operands, expected 1"),
    (spec("Relu", ["x", "x"]), "2 operands, expected 1"),
    (spec("Concat", [], {"axis": 0}), "0 operands, expected at least 1"),
    (spec("Clip", ["x", None, None, None]), "4 operands, expected 1 to 3"),
    (spec("Relu", ["x"], outputs=2), "2 results, expected 1"),
    (spec("Add", ["x", None]), "operand 1 (B) is omitted, it is not optional"),
    (spec("Concat", ["x", None], {"axis": 0}), "operand 1 (inputs) is omitted"),
    (spec("Add", ["x", "n"]), "operand 1 (B) is i64, expected f32 like operand 0 (A)"),
    (spec("Concat", ["x", "n"], {"axis": 0}), "operand 1 (inputs) is i64, expected f32 like operand 0 (inputs)"),
    (spec("Not", ["x"]), "operand 0 (X) is f32, expected bool"),
    (spec("Relu", ["q"]), "operand 0 (X) is seq(tensor(float)), expected one of"),
    (spec("Relu", ["x"], {"alpha": 1.0}), "unknown attribute alpha in version 14 of the operator, it has none"),
    (spec("LeakyRelu", ["x"], {"alpha": 1}), "attribute alpha is an int, expected a float"),
    (spec("Concat", ["x"]), "attribute axis is missing, it is required"),
    (spec("Concat", ["x"], {"axis": (0,)}), "attribute axis is ints, expected an int"),
    (spec("Transpose", ["x"], {"perm": 0}), "attribute perm is an int, expected ints"),
    (spec("Transpose", ["x"], {"perm": (0, "a")}), "attribute perm is an object that ONNX cannot hold, expected ints"),
    (spec("Foo", ["x"], {"a": object()}, domain="com.custom"), "attribute a is an object that ONNX cannot hold"),
]


@pytest.mark.parametrize(("proto", "message"), SCHEMA_FAULTS, ids=lambda p: p if isinstance(p, str) else p.op)
def test_a_node_that_its_schema_does_not_describe(proto: Node, message: str) -> None:
    made = placed(proto)
    found = check_node(made)
    assert found is not None
    assert message in found
    assert made.graph is not None
    assert made.graph.model is not None
    assert any(message in e.message for e in problems(made.graph.model))


@pytest.mark.parametrize(
    "proto",
    [
        spec("Clip", ["x", None, None]),
        spec("Clip", ["x"]),
        spec("Foo", ["x", None], {"a": (1, 2.5), "b": "text"}, domain="com.custom"),
        spec("Transpose", ["x"], {"perm": EmptyAttr(INTS)}),
        spec("Transpose", ["x"], {"perm": ()}),
        spec("Cast", ["n"], {"to": True}),
        spec("Where", ["n", "x", "x"], domain="com.custom"),
        spec("Resize", ["x", None, "x"]),
        spec("SequenceAt", ["q", "n"]),
        spec("Dropout", ["x"], outputs=2),
    ],
    ids=lambda p: p.op,
)
def test_a_node_that_its_schema_describes(proto: Node) -> None:
    assert check_node(placed(proto)) is None


def test_operands_of_unknown_type_pass() -> None:
    made = placed(spec("Add", ["x", "n"]))
    for v in made.inputs:
        assert v is not None
        v.type = None
    assert check_node(made) is None
    made.outputs[0].type = TensorType(None)
    assert check_node(made) is None


def test_a_node_outside_any_graph() -> None:
    assert check_node(Node("Relu", [])) == "the node is in no graph"


def test_recorded_types_are_compared_with_inference_on_request_only() -> None:
    model = sound()
    b = value(model, "b")
    b.type = TensorType(DType.F32, (3, 4))
    assert problems(model) == []
    with pytest.raises(VerifyError, match=r"%b: recorded f32\[3,4\], inferred f32\[2,4\]: extents 3 and 2"):
        verify(model, types=True)
    assert b.type == TensorType(DType.F32, (3, 4)), "the model is not changed"
    b.type = TensorType(DType.F32, (2, 4))
    value(model, "s").known = (2, 5)
    with pytest.raises(VerifyError, match=r"%s: recorded elements \[2, 5\], inferred \[2, 4\]"):
        verify(model, types=True)


def test_checking_types_leaves_those_inside_bodies_alone() -> None:
    model = sound()
    inner = value(model, "t1")
    inner.type = None
    verify(model, types=True)
    assert inner.type is None


def test_the_number_of_problems_is_bounded() -> None:
    model = sound()
    for _ in range(50):
        model.graph.append(Node("Nope", []))
    assert len(problems(model)) == 50
    assert len(problems(model, limit=7)) == 7


def nested(levels: int) -> Model:
    root = Graph(opsets={"": 17})
    flag = root.add_input("flag", TensorType(DType.BOOL, ()))
    graph = root
    for _ in range(levels):
        body = Graph("b", root.opsets)
        graph.append(Node("Loop", [None, flag], {"body": body}, outputs=0))
        graph = body
    for g in root.all_graphs():
        if g is not root:
            g.set_outputs([flag], ["flag"])
    return Model(root)


def test_depth_is_limited_and_never_a_recursion_error() -> None:
    def too_deep(model: Model) -> bool:
        return any(f"nest deeper than {MAX_DEPTH}" in e.message for e in problems(model))

    assert not too_deep(nested(MAX_DEPTH))
    assert too_deep(nested(MAX_DEPTH + 1))
    assert too_deep(nested(3000))


def test_long_chains_of_calls_are_walked_without_recursion() -> None:
    model = Model(Graph(opsets={"f": 1}))
    for i in range(3000):
        graph = Graph(f"f{i}", {"f": 1})
        graph.append(Node(f"f{i + 1}", [], domain="f", outputs=0))
        model.add_function(Function("f", f"f{i}", graph))
    assert problems(model) == []
    model.functions["f", "f2999", ""].graph.append(Node("f0", [], domain="f", outputs=0))
    assert "calls itself" in problems(model)[0].message


def test_data_of_constants_is_not_read() -> None:
    def compute() -> np.ndarray:
        raise AssertionError("read")

    graph = Graph(opsets={"": 17})
    graph.add_constant(LazyConstant(compute, DType.F32, (1 << 20, 1 << 20)))
    verify(Model(graph))


def test_a_message_names_the_line_and_the_origin() -> None:
    model = sound()
    node(model, "Add").set_input(1, None)
    with pytest.raises(VerifyError) as caught:
        verify(model)
    text = str(caught.value)
    assert "error[verify]: Add: operand 1 (B) is omitted" in text
    assert "%a: f32[2,4] = Add(%x, _)" in text
    assert "from 'add'" in text


@given(st.integers(0, 1 << 30))
@settings(max_examples=100, deadline=None)
def test_a_random_fault_in_a_random_model_is_found(seed: int) -> None:
    rng = random.Random(seed)
    model = random_model(seed)
    victims = [n for n in model.all_nodes() if any(v is not None for v in n.inputs)]
    victim = rng.choice(victims)
    i = rng.choice([i for i, v in enumerate(victim.inputs) if v is not None])
    operand = victim.inputs[i]
    assert operand is not None
    kind = rng.randrange(4)
    if kind == 0:
        victim.inputs[i] = victim.outputs[0]
    elif kind == 1:
        del operand.uses[(victim, i)]
    elif kind == 2:
        victim.set_input(i, Value("nobody's"))
    else:
        victim.erased = True
    assert problems(model)
