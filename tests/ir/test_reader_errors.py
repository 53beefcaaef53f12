"""Files that are not sound models: each is refused with a ``ReadError`` whose message names the culprit."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from planish.ir import Limits, ReadError, read_model
from planish.ir.constants import SparseConstant

F32 = TensorProto.FLOAT
Model = onnx.ModelProto
Break = Callable[[Model], Any]


def sound(nodes: list[onnx.NodeProto] | None = None, **model: Any) -> Model:
    """x[2] -> y[2] with one initializer w[2]."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"], name="sum")] if nodes is None else nodes,
        "main",
        [helper.make_tensor_value_info("x", F32, [2])],
        [helper.make_tensor_value_info("y", F32, [2])],
        [numpy_helper.from_array(np.ones(2, np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10, **model)


def test_the_sound_model_reads() -> None:
    assert read_model(sound()).graph.count == 1


# -- bytes that are no model


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "it is empty"),
        (b"\x07" * 40, "protobuf says"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"PK\x03\x04" + bytes(40), "ZIP"),
        (b"GGUF\x03\x00\x00\x00", "GGUF"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (onnx.ModelProto(ir_version=10).SerializeToString(), "no graph"),
        (sound().SerializeToString()[:-7], "protobuf says"),
    ],
)
def test_bytes_that_are_no_model(raw: bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(ReadError, match=says):
        read_model(raw)
    path = tmp_path / "m.onnx"
    path.write_bytes(raw)
    with pytest.raises(ReadError, match=says) as caught:
        read_model(path)
    assert str(path) in str(caught.value)


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="cannot open the model: No such file"):
        read_model(tmp_path / "absent.onnx")
    with pytest.raises(ReadError, match="it is a folder"):
        read_model(tmp_path)
    with pytest.raises(ReadError, match="embedded null"):
        read_model("a\0b")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ReadError, match="not a plain file"):
        read_model(tmp_path / "pipe")
    with pytest.raises(ReadError, match="cannot read a model from int"):
        read_model(3)  # pyright: ignore[reportArgumentType]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"x")
    path.chmod(0)
    with pytest.raises(ReadError, match="Permission denied"):
        read_model(path)


def test_a_file_over_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.touch()
    os.truncate(path, 3 << 30)
    with pytest.raises(ReadError, match="has 3221225472 bytes, the limit is 2147483647"):
        read_model(path)
    with pytest.raises(ReadError, match="the limit is 10"):
        read_model(sound().SerializeToString(), limits=Limits(file_bytes=10))


# -- models that are not sound


def tensor(model: Model) -> TensorProto:
    return model.graph.initializer[0]


def node(model: Model) -> onnx.NodeProto:
    return model.graph.node[0]


def add_constant(m: Model, **attrs: Any) -> None:
    m.graph.node.insert(0, helper.make_node("Constant", [], ["k"], name="const", **attrs))


def sparse(m: Model, values: Any, indices: Any, dims: list[int]) -> None:
    made = helper.make_sparse_tensor(
        numpy_helper.from_array(np.asarray(values), "s"), numpy_helper.from_array(np.asarray(indices)), dims
    )
    m.graph.sparse_initializer.append(made)


def duplicate_attribute(m: Model) -> None:
    for _ in range(2):
        node(m).attribute.append(helper.make_attribute("axis", 1))


def shadowed_after_use(m: Model) -> None:
    body = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["z"]), helper.make_node("Neg", ["z"], ["x"])],
        "branch",
        [],
        [helper.make_tensor_value_info("x", F32, [2])],
    )
    flag = numpy_helper.from_array(np.array(True), "flag")
    m.graph.initializer.append(flag)
    m.graph.node.append(helper.make_node("If", ["flag"], ["q"], then_branch=body, else_branch=body))


def nested(m: Model, depth: int) -> None:
    m.graph.initializer.append(numpy_helper.from_array(np.array(True), "flag"))
    graph = m.graph
    for _ in range(depth):  # in place: protobuf neither copies nor parses so deep a message
        inner = graph.node.add(op_type="If", input=["flag"], output=["q"])
        graph = inner.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g
        graph.output.add(name="w")


def functions(m: Model, calls: dict[str, list[str]]) -> None:
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("f", 1)]
    m.opset_import.append(imports[1])
    for name, callees in calls.items():
        chain = ["a", *(f"t{i}" for i in range(len(callees)))]
        nodes = [helper.make_node(c, [chain[i]], [chain[i + 1]], domain="f") for i, c in enumerate(callees)]
        nodes.append(helper.make_node("Neg", [chain[-1]], ["b"]))
        m.functions.append(helper.make_function("f", name, ["a"], ["b"], nodes, imports))
    node(m).CopyFrom(helper.make_node(next(iter(calls)), ["x"], ["y"], domain="f"))


BROKEN: dict[str, tuple[Break, str]] = {
    "no IR version": (lambda m: m.ClearField("ir_version"), "IR version 0, known are 1 to"),
    "future IR version": (lambda m: setattr(m, "ir_version", 99), "IR version 99"),
    "no opset": (lambda m: m.ClearField("opset_import"), "imports no operator set"),
    "future opset": (lambda m: setattr(m.opset_import[0], "version", 999), "imports version 999 of domain 'ai.onnx'"),
    "negative opset": (lambda m: setattr(m.opset_import[0], "version", -1), "imports version -1"),
    "two opsets": (lambda m: m.opset_import.add(domain="ai.onnx", version=7), "in versions 21 and 7"),
    "no standard opset": (
        lambda m: setattr(m.opset_import[0], "domain", "else"),
        "operator 'Add' is of domain 'ai.onnx'",
    ),
    "training": (lambda m: m.training_info.add(), "training_info"),
    "undefined operand": (
        lambda m: node(m).input.append("ghost"),
        "node Add 'sum' takes 'ghost', which nothing defines",
    ),
    "undefined output": (lambda m: m.graph.output.add(name="ghost"), "output of graph 'main' takes 'ghost'"),
    "cycle": (
        lambda m: m.graph.node.extend(
            [helper.make_node("Neg", ["b"], ["a"], name="n1"), helper.make_node("Neg", ["a"], ["b"], name="n2")]
        ),
        "a cycle of 2 nodes: .*Neg 'n.' -> Neg 'n.'",
    ),
    "self loop": (lambda m: node(m).input.append("y"), "a cycle of 1 nodes: Add 'sum'"),
    "output defined twice": (lambda m: m.graph.node.append(node(m)), "output of node Add 'sum', 'y' is defined twice"),
    "node redefines an input": (lambda m: node(m).output.append("x"), "output of node Add 'sum', 'x' is defined twice"),
    "inputs of one name": (
        lambda m: m.graph.input.append(m.graph.input[0]),
        "input of graph 'main' 'x' is defined twice",
    ),
    "initializers of one name": (lambda m: m.graph.initializer.append(tensor(m)), "two initializers .* 'w'"),
    "nameless input": (lambda m: m.graph.input.add(), "an input of graph 'main' has no name"),
    "nameless output": (lambda m: m.graph.output.add(), "an output of graph 'main' has no name"),
    "nameless initializer": (lambda m: setattr(tensor(m), "name", ""), "an initializer of graph 'main' has no name"),
    "no operator": (lambda m: setattr(node(m), "op_type", ""), "node  'sum' has operator type ''"),
    "the return operator": (lambda m: setattr(node(m), "op_type", "return"), "has operator type 'return'"),
    "two attributes of one name": (duplicate_attribute, "node Add 'sum' has two attributes 'axis'"),
    "unknown attribute kind": (lambda m: node(m).attribute.add(name="axis"), "attribute 'axis' has kind 0"),
    "name shadowed after use": (shadowed_after_use, "name 'x' means an outer value and"),
    "nesting": (lambda m: nested(m, 70), "bodies are nested over 64 deep"),
    # tensors
    "too few bytes": (
        lambda m: setattr(tensor(m), "raw_data", b"\0" * 7),
        "tensor 'w': 7 bytes of data found, .* takes 8",
    ),
    "too many bytes": (lambda m: setattr(tensor(m), "raw_data", b"\0" * 9), "tensor 'w': 9 bytes"),
    "no data": (lambda m: tensor(m).ClearField("raw_data"), "tensor 'w': 0 bytes"),
    "huge shape": (lambda m: tensor(m).dims.extend([1 << 40]), "tensor 'w'"),
    "overflowing shape": (lambda m: tensor(m).dims.extend([1 << 62] * 4), "tensor 'w' has shape .* over"),
    "negative extent": (lambda m: tensor(m).dims.append(-1), "tensor 'w' has shape .* an extent is negative"),
    "undefined element type": (lambda m: tensor(m).ClearField("data_type"), "tensor 'w' has no element type"),
    "unknown element type": (
        lambda m: setattr(tensor(m), "data_type", 77),
        "tensor 'w' has element type 77, known are",
    ),
    "unknown type of an input": (
        lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 77),
        "element type 77, known are",
    ),
    "segment": (lambda m: setattr(tensor(m).segment, "begin", 1), "tensor 'w' is one segment"),
    "strings of a number type": (
        lambda m: tensor(m).string_data.append(b"a") or tensor(m).ClearField("raw_data"),
        "'w'",
    ),
    "missing strings": (lambda m: setattr(tensor(m), "data_type", TensorProto.STRING), "0 strings found"),
    "external without a folder": (
        lambda m: tensor(m).ClearField("raw_data") or setattr(tensor(m), "data_location", 1),
        "came without a folder",
    ),
    "data in the message and elsewhere": (
        lambda m: setattr(tensor(m), "data_location", 1),
        "tensor 'w' holds its data twice, in raw_data and another file",
    ),
    "constant of two attributes": (
        lambda m: add_constant(m, value_int=1, value_float=1.0),
        r"\['value_float', 'value_int'\]",
    ),
    "constant of a wrong kind": (
        lambda m: add_constant(m, value_ints=1.5),
        "node Constant 'const' has attribute 'value_ints'",
    ),
    "constant of an unknown attribute": (lambda m: add_constant(m, value_bool=1), "node Constant 'const'"),
    "constant without output": (lambda m: m.graph.node.add(op_type="Constant", name="c"), "node Constant 'c'"),
    "attribute tensor too short": (
        lambda m: add_constant(m, value=TensorProto(name="t", data_type=1, dims=[3], raw_data=b"\0" * 4)),
        "tensor 't': 4 bytes of data found, .* takes 12(.|\n)*node Constant 'const', attribute 'value'",
    ),
    # sparse tensors
    "sparse index out of range": (
        lambda m: sparse(m, np.ones(1, np.float32), [9], [3]),
        "tensor 's' has indices outside",
    ),
    "sparse index negative": (lambda m: sparse(m, np.ones(1, np.float32), [-1], [3]), "tensor 's' has indices outside"),
    "sparse indices of a wrong count": (
        lambda m: sparse(m, np.ones(2, np.float32), [1], [3]),
        "not one for each value",
    ),
    "sparse indices of a wrong rank": (lambda m: sparse(m, np.ones(1, np.float32), [[1, 1]], [3]), "tensor 's'"),
    "sparse indices of a wrong type": (
        lambda m: sparse(m, np.ones(1, np.float32), np.zeros(1, np.float32), [3]),
        "at indices of f32",
    ),
    "sparse and absurd": (lambda m: sparse(m, np.ones(1, np.float32), [0], [1 << 50]), "over .* bytes when dense"),
    "sparse and negative": (lambda m: sparse(m, np.ones(1, np.float32), [0], [-4]), "shape .-4.: negative"),
    # functions
    "a function calls itself": (lambda m: functions(m, {"f": ["f"]}), "call each other in a circle: f -> f"),
    "functions in a circle": (lambda m: functions(m, {"f": ["g"], "g": ["h"], "h": ["g"]}), "circle: g -> h -> g"),
    "a deep chain of functions": (
        lambda m: functions(m, {f"f{i}": [f"f{i + 1}"] for i in range(80)} | {"f80": []}),
        "functions call functions over 64 deep",
    ),
    "functions that explode": (
        lambda m: functions(m, {f"f{i}": [f"f{i + 1}"] * 4 for i in range(20)} | {"f20": []}),
        "with all function calls expanded the model has .* nodes",
    ),
    "two functions of one name": (
        lambda m: functions(m, {"f": []}) or m.functions.append(m.functions[0]),
        "function f::'f' has no name or is defined twice",
    ),
    "opaque type": (
        lambda m: setattr(m.graph.input.add(name="o").type.opaque_type, "name", "thing"),
        "'o' has an opaque type",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_models(name: str) -> None:
    spoil, says = BROKEN[name]
    model = sound()
    spoil(model)
    with pytest.raises(ReadError, match=says) as caught:
        read_model(model, infer=False)
    assert caught.value.help


@pytest.mark.parametrize("name", ["sum", "Add", "x", "y", "w", "main"])
def test_names_that_are_not_utf8(name: str) -> None:
    raw = sound().SerializeToString()
    field = bytes([len(name)]) + name.encode()
    assert field in raw
    with pytest.raises(ReadError, match="is not UTF-8"):
        read_model(raw.replace(field, bytes([len(name)]) + b"\xff" * len(name)))


def test_remarks_that_are_not_utf8_do_no_harm() -> None:
    raw = sound(doc_string="caf?", producer_name="m?ller").SerializeToString()
    model = read_model(raw.replace(b"caf?", b"caf\xe9").replace(b"m?ller", b"m\xfcller"))
    assert (model.doc, model.producer[0]) == ("caf\ufffd", "m\ufffdller")


def test_limits_on_nodes() -> None:
    with pytest.raises(ReadError, match="over 3 nodes and outputs"):
        read_model(
            sound([helper.make_node("Neg", ["x"], [f"y{i}" if i else "y"]) for i in range(3)]), limits=Limits(nodes=3)
        )


def test_protobuf_nesting_bombs() -> None:
    raw = b""
    for _ in range(4000):
        raw = b"\x22" + _varint(len(raw)) + raw
    with pytest.raises(ReadError):
        read_model(b"\x08\x0a" + b"\x3a" + _varint(len(raw)) + raw)


def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes([*out, n])


def test_no_order_of_nodes_is_needed() -> None:
    model = sound([helper.make_node("Neg", ["z"], ["y"], name="b"), helper.make_node("Abs", ["x"], ["z"], name="a")])
    assert [node.name for node in read_model(model).graph] == ["a", "b"]


def test_captures_count_for_the_order() -> None:
    out = helper.make_empty_tensor_value_info("o")
    body = helper.make_graph([helper.make_node("Neg", ["late"], ["o"])], "b", [], [out])
    nodes = [
        helper.make_node("If", ["flag"], ["y"], name="if", then_branch=body, else_branch=body),
        helper.make_node("Abs", ["x"], ["late"], name="abs"),
    ]
    model = sound(nodes)
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "flag"))
    assert [node.name for node in read_model(model).graph] == ["abs", "if"]


@pytest.mark.parametrize("seed", range(8))
def test_random_damage_never_escapes_as_another_error(seed: int) -> None:
    """Byte mutations of a model with bodies, functions, sparse and string tensors."""
    model = sound()
    out = helper.make_empty_tensor_value_info("o")
    functions(model, {"f": ["g"], "g": []})
    sparse(model, np.ones(1, np.float32), [1], [3])
    body = helper.make_graph([helper.make_node("Neg", ["x"], ["o"])], "b", [], [out])
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "flag"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(["a", "b"], object), "s2"))
    model.graph.node.append(helper.make_node("If", ["flag"], ["q"], then_branch=body, else_branch=body))
    add_constant(model, value_floats=[1.0, 2.0])
    raw = model.SerializeToString()
    assert any(isinstance(v.data, SparseConstant) for v in read_model(raw).graph.constants)
    draw = random.Random(seed)
    refused = 0
    for _ in range(400):
        damaged = bytearray(raw)
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(damaged))
            kind = draw.randrange(3)
            if kind == 0:
                damaged[at] = draw.randrange(256)
            elif kind == 1:
                del damaged[at : at + draw.randint(1, 8)]
            else:
                damaged[at:at] = bytes(draw.randrange(256) for _ in range(draw.randint(1, 8)))
        try:
            read_model(bytes(damaged), infer=False)
        except ReadError:
            refused += 1
    assert refused > 100
