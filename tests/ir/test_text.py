"""Printing and parsing are each other's inverse, and a text that does not parse says where and why."""

from __future__ import annotations

import math
import random
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.ir.constants import (
    ArrayConstant,
    Constant,
    SeededConstant,
    SplatConstant,
    same_data,
)
from planish.ir.dtypes import DType
from planish.ir.errors import TextError, UsageError
from planish.ir.graph import AttrRef, EmptyAttr, Graph, Model, Node
from planish.ir.onnx_proto import SparseConstant
from planish.ir.repetition import RepeatedConstant, repeated
from planish.ir.schema import INTS
from planish.ir.text import names, parse_graph, parse_model, print_graph, print_model, print_node
from planish.ir.text.lexer import MAX_DEPTH
from planish.ir.text.literals import float_attribute, float_text
from planish.ir.types import TensorType

from .random_models import bits, random_model, random_type

SHOWCASE = Path(__file__).with_name("showcase.ir").read_text()
"""Everything the textual form can say, in the form in which it prints."""


def test_the_showcase_prints_as_it_was_written() -> None:
    model = parse_model(SHOWCASE)
    for out in (v for node in model.graph for v in node.outputs if v.name in ("g", "h")):
        assert out.type is not None, "the call's result is inferred through the function"
        out.type = None
    for node in model.functions["my.domain", "F", "ov"].graph:
        for out in node.outputs:
            out.type = None
    assert print_model(model) == SHOWCASE
    function = model.functions["my.domain", "F", "ov"]
    assert function.attributes == ("alpha", "be ta")
    assert function.defaults == {"gamma": 1.0}
    leaky = next(iter(function.graph))
    assert leaky.attrs == {"alpha": AttrRef("alpha", 1)}
    assert model.graph.defaults[model.graph.inputs[1]].numpy().tolist() == [3]
    foo = next(n for n in model.graph if n.op == "Foo")
    assert isinstance(foo.attrs["empty"], EmptyAttr)
    assert foo.attrs["empty"].kind == INTS
    assert foo.origin == ("a", "b")


@given(st.integers(0, 1 << 30))
@settings(max_examples=150, deadline=None)
def test_random_models_come_back_the_same(seed: int) -> None:
    model = random_model(seed)
    collected: dict[str, Constant] = {}
    text = print_model(model, resources=collected, explicit=True)
    back = parse_model(text, resources=collected)
    assert print_model(back, explicit=True) == text
    inline = print_model(model, resources="inline", explicit=True)
    assert print_model(parse_model(inline), resources="inline", explicit=True) == inline
    assert_same(model, back)


def assert_same(a: Model, b: Model) -> None:
    """Structure, types and bits; names are hints."""
    assert (a.metadata, a.doc, a.producer, a.opsets) == (b.metadata, b.doc, b.producer, b.opsets)
    assert [p.name for p in a.graph.ports] == [p.name for p in b.graph.ports]
    assert [p.declared for p in a.graph.ports] == [p.declared for p in b.graph.ports]
    mine, theirs = list(a.all_nodes()), list(b.all_nodes())
    assert [(n.domain, n.op, n.name, n.origin, n.extra) for n in mine] == [
        (n.domain, n.op, n.name, n.origin, n.extra) for n in theirs
    ]
    for n, m in zip(mine, theirs, strict=True):
        assert [v.type for v in n.outputs] == [v.type for v in m.outputs]
        assert [v is None for v in n.inputs] == [v is None for v in m.inputs]
        for key, attr in n.attrs.items():
            assert_same_attr(attr, m.attrs[key])
    constants = [c for g in a.all_graphs() for c in g.constants], [c for g in b.all_graphs() for c in g.constants]
    for c, d in zip(*constants, strict=True):
        assert type(c.data) is type(d.data)
        assert c.data is not None
        assert d.data is not None
        assert same_data(c.data, d.data)


def assert_same_attr(a: object, b: object) -> None:
    if isinstance(a, Constant):
        assert isinstance(b, Constant)
        assert same_data(a, b)
    elif isinstance(a, float):
        assert isinstance(b, float)
        assert np.float32(a).tobytes() == np.float32(b).tobytes()
    elif isinstance(a, tuple) and not isinstance(a, EmptyAttr):
        assert isinstance(b, tuple)
        for x, y in zip(a, b, strict=True):
            assert_same_attr(x, y)
    elif not isinstance(a, Graph):
        assert a == b
        assert type(a) is type(b)


def test_repetitions_stay_repetitions() -> None:
    for base in (np.arange(6, dtype=np.float32), np.arange(90, dtype=np.float32)):
        graph = Graph(opsets={"": 21})
        graph.add_constant(repeated(base.reshape(1, -1, 1), DType.F32, (30, base.size, 20)), "c")
        text = print_model(Model(graph), resources="inline")
        back = next(iter(parse_model(text).graph.constants)).data
        assert isinstance(back, RepeatedConstant)
        assert back.digest() == repeated(base.reshape(1, -1, 1), DType.F32, (30, base.size, 20)).digest()
        assert print_model(parse_model(text), resources="inline") == text
    with pytest.raises(TextError, match=r"f32\[3,1\] cannot be repeated to f32\[2,5\]"):
        parse_model("graph @m() { %a: f32[2,5] = const repeat<splat<f32[3,1] 1>> return %a }")


@pytest.mark.parametrize("dtype", list(DType), ids=lambda d: d.text)
def test_every_bit_of_every_element_type_survives(dtype: DType) -> None:
    rng = random.Random(dtype.code)
    for kind in (ArrayConstant, SplatConstant):
        for shape in ((), (16,), (0, 3), (40,)):
            array = bits(rng, dtype, () if kind is SplatConstant else shape)
            data = ArrayConstant(array, dtype) if kind is ArrayConstant else SplatConstant(array, dtype, shape)
            graph = Graph(opsets={"": 21})
            graph.add_constant(data, "c")
            model = Model(graph)
            back = parse_model(print_model(model, resources="inline"))
            found = next(iter(back.graph.constants)).data
            assert found is not None
            assert same_data(found, data)
            assert found.digest() == data.digest()


@pytest.mark.parametrize("dtype", [d for d in DType if d.is_float and d.bits <= 8], ids=lambda d: d.text)
def test_all_values_of_narrow_floats(dtype: DType) -> None:
    everything = np.arange(1 << dtype.bits, dtype=np.uint8).view(dtype.numpy)
    for start in range(0, everything.size, 16):
        piece = everything[start : start + 16]
        text = print_graph(_with_constant(ArrayConstant(piece, dtype)))
        assert "dense<" in text
        assert next(iter(parse_graph(text).constants)).numpy().tobytes() == piece.tobytes()


def _with_constant(data: Constant) -> Graph:
    graph = Graph(opsets={"": 21})
    graph.add_constant(data, "c")
    return graph


@given(st.floats(width=32))
def test_float_attributes_survive_as_float32(x: float) -> None:
    text = float_text(x)
    assert struct.pack("<f", float_attribute(text)) == struct.pack("<f", x)
    assert any(c in text for c in ".einf"), "a float must not look like an integer"


@given(st.integers(0, 1 << 30))
def test_types_survive(seed: int) -> None:
    t = random_type(random.Random(seed))
    graph = Graph(opsets={"": 21})
    graph.add_input("x", t)
    assert parse_graph(print_graph(graph)).inputs[0].type == t


@given(st.text(), st.binary())
def test_strings_survive(text: str, raw: bytes) -> None:
    graph = Graph(text, {"d": 1})
    x = graph.add_input(text)
    node = graph.append(Node(text or "Op", [x], {"a": text, "b": raw, text: (text, raw)}, domain="d", outputs=["y"]))
    node.name, node.origin = text, (text, text)
    node.extra = {text: [text, raw]}
    node.output.extra = {"doc": text}
    graph.set_outputs([node.output], [text])
    printed = print_graph(graph)
    assert len(printed.split("\n")) == 5, "one node a line"
    back = parse_graph(printed, opset={"d": 1})
    again = next(iter(back))
    assert (back.name, again.name, again.origin) == (text, node.name, node.origin)
    assert again.attrs == node.attrs
    assert again.extra == node.extra
    assert again.output.extra == node.output.extra
    assert back.ports[0].name == text


def test_sparse_constants_survive() -> None:
    values = ArrayConstant(np.arange(40, dtype=np.float32))
    indices = ArrayConstant(np.arange(40, dtype=np.int64))
    graph = Graph(opsets={"d": 1})
    graph.append(Node("Op", [], {"s": SparseConstant(values, indices, (8, 9))}, domain="d", outputs=["y"]))
    text = print_model(Model(graph), resources="inline")
    found = next(iter(parse_model(text).graph)).attrs["s"]
    assert isinstance(found, SparseConstant)
    assert same_data(found.values, values)
    assert same_data(found.indices, indices)
    assert found.shape == (8, 9)


def test_a_clash_of_names_goes_to_the_interface() -> None:
    graph = Graph(opsets={"": 17})
    x = graph.add_input("x")
    first = graph.append(Node("Relu", [x], outputs=["y"]))
    second = graph.append(Node("Relu", [first.output], outputs=["y"]))
    graph.set_outputs([second.output], ["y"])
    printed = names(graph)
    assert printed[second.output] == "%y"
    assert printed[first.output] == "%y_1"
    assert [p.name for p in parse_graph(print_graph(graph)).ports] == ["y"]


def test_defaults_of_the_schema_are_left_out_unless_asked_for() -> None:
    text = "graph @m(%x: f32[4]) {\n  %y = LeakyRelu(%x) {alpha = 0.01}\n  return %y\n}\n"
    graph = parse_graph(text)
    assert "alpha" not in print_graph(graph)
    assert "{alpha = 0.01}" in print_graph(graph, explicit=True)


def test_one_line_for_messages() -> None:
    model = parse_model(SHOWCASE, check=False)
    for node in [*model.all_nodes(), model.graph.ret]:
        assert "\n" not in print_node(node)
    assert print_node(model.graph.ret) == 'return %c as "y", %r as "odd name"'


def test_types_that_are_not_written_are_inferred() -> None:
    graph = parse_graph("graph @m(%x: f32[N,4]) { %y = Relu(%x) return %y }")
    assert str(graph.outputs[0].type) == "f32[N,4]"


def test_a_written_type_stays_even_where_inference_knows_more() -> None:
    graph = parse_graph("graph @m(%x: f32[N,4]) { %y: f32[?,4] = Relu(%x) return %y }")
    assert str(graph.outputs[0].type) == "f32[?,4]"


def test_a_headerless_text_imports_what_it_uses() -> None:
    graph = parse_graph("graph @m(%x) { %y = com.microsoft::Foo(%x) %z = ai.onnx.ml::Bar(%y) return %z }", opset=13)
    assert graph.opsets == {"": 13, "com.microsoft": 1, "ai.onnx.ml": 5}


def test_comments_go_and_names_of_nodes_stay() -> None:
    text = (
        '// head\ngraph @m(%x: f32[1]) { // a remark\n %y = Relu(%x) // no name\n %z = Relu(%y) // "name"\n return %z }'
    )
    assert [n.name for n in parse_graph(text)] == ["", "name"]


def test_resources_by_digest_only() -> None:
    data = ArrayConstant(np.arange(100, dtype=np.float32))
    text = print_graph(_with_constant(data))
    assert f"const #{data.digest()}" in text
    with pytest.raises(TextError, match=f"#{data.digest()} is missing"):
        parse_graph(text)
    found = next(iter(parse_graph(text, resources={data.digest(): data}).constants))
    assert found.data is data
    with pytest.raises(UsageError, match="resources"):
        print_model(Model(Graph()), resources="everywhere")


def test_damaged_resources() -> None:
    text = print_model(Model(_with_constant(ArrayConstant(np.arange(100, dtype=np.float32)))), resources="inline")
    for damaged in (text.replace('"AAAA', '"BAAA'), text.replace('"AAAA', '"'), text.replace('"AAAA', '"*!AA')):
        with pytest.raises(TextError, match="the data of #"):
            parse_model(damaged)


def test_no_tensor_is_allocated_that_the_text_does_not_spell_out() -> None:
    graph = parse_graph(
        "graph @m() { %a: f32[1000000,1000000] = const splat<0> %b: i8[9999999,999999] = const rand<1> return %a }"
    )
    assert next(iter(graph.constants)).tensor.nbytes == 4 * 10**12  # type: ignore[union-attr]
    with pytest.raises(TextError, match=r"2 elements found, f32\[1000000,1000000\] takes 1000000000000"):
        parse_graph("graph @m() { %a: f32[1000000,1000000] = const dense<[1, 2]> return %a }")


def nested(levels: int) -> str:
    return (
        "graph @m(%c: bool[]) { %y = "
        + "d::W(%c) {b = graph @b() { %y = " * levels
        + "d::W(%c)"
        + (" return %y }}" * levels)
        + " return %y }"
    )


def renamed(text: str) -> str:
    """Every result its own name: bodies may not define what is visible around them."""
    parts = text.split("%y = ")
    return parts[0] + "".join(f"%y{i} = {p}" for i, p in enumerate(parts[1:])).replace(" return %y }", " return %c }")


def test_nesting_has_a_stated_limit() -> None:
    parse_graph(renamed(nested(MAX_DEPTH - 1)))
    for text in (
        renamed(nested(5000)),
        "graph @m(%x: " + "seq<" * 5000,
        "graph @m(%x: f32[" + "floordiv(" * 5000,
        "graph @m() { d::W() {a = " + "[" * 5000,
        'graph @m() extra {"a" = ' + "[" * 5000,
    ):
        with pytest.raises(TextError, match=f"nesting of at most {MAX_DEPTH} levels"):
            parse_graph(text)


def line(text: str) -> str:
    return f"graph @m(%x: f32[2,3], %i: i64[4]) {{\n  {text}\n  return %x\n}}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1, column 1: found the end of the text, expected 'graph' or 'model'"),
        ("graph main", "column 7: found the word main, expected '@' and the graph's name"),
        ("model ir=10\ngraph @m() { return }", "line 2, column 1: found the word graph, expected 'opset {...}'"),
        ("graph @m() {", "found the end of the text, expected an operator"),
        ("graph @m() { return } x", "column 23: found the word x, expected 'function', 'resources' or the end"),
        ("graph @m() { return } ~", "found the character '~'"),
        ('graph @m(%"x) { return }', "a string that does not end on its line"),
        (line("%y = Relu(%z)"), "line 2, column 13: %z is not defined here"),
        (line("%x = Relu(%x)"), "line 2, column 3: found %x again, expected each name defined once"),
        (line("%y = Relu(%x"), "line 3, column 3: found the word return, expected ',' or ')'"),
        (line("%y: q8[2] = Relu(%x)"), "line 2, column 7: found the word q8, expected a type"),
        (line("%y: f32[2"), "expected ',' or ']'"),
        (line("%y: f32[-2] = Relu(%x)"), "found -2, expected an integer from 0 to 2^63-1"),
        (line("%y = Relu(%x) {a = 1, a = 2}"), "found a again, expected each attribute once"),
        (line("%y = Relu(%x) {a = 99999999999999999999}"), "99999999999999999999 is beyond 64 bits"),
        (line("%y = Relu(%x) {a = 1e39}"), "1e39 is beyond the range of f32"),
        (line("%y = Relu(%x) {a = wat<1>}"), "found wat<, expected type<...>"),
        (line('%y = Relu(%x) {a = "\\q"}'), "unknown escape \\q"),
        (line("%c: f32[2] = const dense<[1]>"), "1 elements found, f32[2] takes 2"),
        (line("%c: f32[2] = const dense<[1, 2, 3]>"), "more than the 2 elements that f32[2] takes"),
        (line("%c: u8[1] = const dense<[256]>"), "256 is beyond the range of u8, 0 to 255"),
        (line("%c: i4[1] = const dense<[8]>"), "8 is beyond the range of i4, -8 to 7"),
        (line("%c: u8[1] = const dense<[1.5]>"), "expected an integer"),
        (line("%c: f16[1] = const dense<[1e6]>"), "1e6 is beyond the range of f16"),
        (line("%c: f8e4m3fn[1] = const dense<[inf]>"), "f8e4m3fn has no infinity"),
        (line("%c: f4e2m1[1] = const dense<[nan]>"), "f4e2m1 has no not-a-number"),
        (line("%c: f32[1] = const dense<[nan:0x1]>"), "are not the bits of a not-a-number"),
        (line("%c: f32[N] = const splat<1>"), "found f32[N], expected a constant's type"),
        (line("%c = const splat<1>"), "a constant needs its type"),
        (line("%c: f32[9,9] = const #0123"), "the data of constant #0123 is missing"),
        (line("%c: string[1] = const rand<3>"), "rand of string"),
        (line("%a: f32[2], %c: f32[1] = const splat<1>"), "a constant is one named value"),
        (line("%c: f32[2] = const sparse<dense<f32[1] 1>, dense<i64[1] [9]>>"), "indices i64[1] do not fit"),
        (line("%y: f32[3,3] = Relu(%x)"), "%y cannot be f32[3,3], Relu gives f32[2,3]: extents 3 and 2 of axis 0"),
        (line("%y: f16[2,3] = Relu(%x)"), "element types f16 and f32"),
        (line("%y: f32[2] = Relu(%x)"), "ranks 1 and 2"),
        (line("%y = Relu(%x) // x") + "}", "line 4, column 2: found '}'"),
        ("graph @m(%x) -> (%a, %b) { return %x }", "the graph returns x, its first line declares a, b"),
        ("graph @m() { return _ }", "expected a value to return"),
        ('model ir=1 opset {"" = "x"} graph @m() { return }', "found 'x', expected a version number"),
        ("model ir=1 opset {} {wat = 1} graph @m() { return }", "the model line has wat = 1"),
        ("graph @m(%x: f32[" + "9*" * 300 + "9]) { return }", "found a longer one, expected a product"),
        ("graph @m(%x: f32[" + "9" * 5000 + "]) { return }", "a number of at most 400 characters"),
    ],
)
def test_errors_say_where_and_what(text: str, message: str) -> None:
    with pytest.raises(TextError) as caught:
        parse_model(text)
    assert message in caught.value.message
    assert caught.value.at is not None
    assert caught.value.at.split("\n")[1].strip() == "^"


def test_the_caret_stands_under_the_fault() -> None:
    with pytest.raises(TextError) as caught:
        parse_graph(line("%y = Relu(%z)"))
    shown = str(caught.value).split("\n")
    assert shown[1][shown[2].index("^") :].startswith("%z)")


@given(st.integers(0, 1 << 20), st.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_text_parses_or_is_refused(seed: int, data: st.DataObject) -> None:
    text = SHOWCASE if seed % 2 else print_model(random_model(seed), resources="inline")
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 6))
        text = (
            text[:at]
            + data.draw(st.sampled_from(("", "%", '"', "{", "}", "<", ">", "[", "9", "-", "\n", "%x", "x")))
            + text[at + cut :]
        )
    with suppress(TextError):
        parse_model(text)


@given(st.text())
def test_any_text_is_refused_with_a_message(text: str) -> None:
    with pytest.raises(TextError):
        parse_model(text)


def test_not_a_number_keeps_its_sign_and_payload_as_attribute() -> None:
    odd = struct.unpack("<d", struct.pack("<Q", 0xFFF8000020000000))[0]
    assert float_text(odd) == "nan:0xffc00001"
    assert struct.pack("<d", float_attribute("nan:0xffc00001")) == struct.pack("<d", odd)
    assert math.isnan(float_attribute("nan"))


def test_symbols_are_what_they_were() -> None:
    graph = parse_graph(
        "graph @m(%x: f32[2*N*M+3*N-1,min(N, 4),mod(-N+7, 3),floordiv(-5, N),'a\\nb','it\\'s']) { return }"
    )
    t = graph.inputs[0].type
    assert isinstance(t, TensorType)
    assert parse_graph(print_graph(graph)).inputs[0].type == t
    assert SeededConstant(1, DType.F32, (2,)).digest()
