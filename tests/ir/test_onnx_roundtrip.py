"""Read and write loses nothing that matters: onnx's own models, trained ones, and one with everything in it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from planish.ir import AttrRef, SparseConstant, clone_graph, clone_model, model_to_bytes, model_to_proto, read_model
from planish.ir.text import print_model
from planish.ir.verify import verify

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("share", ["3/16", pytest.param("1/1", marks=pytest.mark.slow)])
def test_the_corpus(share: str) -> None:
    command = [sys.executable, "-P", str(ROOT / "scripts" / "corpus.py"), "--share", share, "--text"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def trained() -> list[Path]:
    """Models inside packages that may be installed; nothing is imported."""
    found: list[Path] = []
    for package in ("rapidocr_onnxruntime", "magika", "silero_vad", "nudenet", "basic_pitch"):
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec is not None else []:
            found.extend(Path(folder).rglob("*.onnx"))
    return sorted(found)


@pytest.mark.parametrize("path", trained(), ids=lambda p: p.name)
def test_trained_models(path: Path) -> None:
    model = read_model(path)
    verify(model)
    before, after = onnx.load(path), model_to_proto(model)
    onnx.checker.check_model(after, full_check=True)
    constants = {t.name for t in before.graph.initializer} if before.ir_version < 4 else set[str]()
    assert [i for i in before.graph.input if i.name not in constants] == list(after.graph.input)
    assert list(before.graph.output) == list(after.graph.output)
    assert {o.domain: o.version for o in before.opset_import}.items() <= {
        o.domain: o.version for o in after.opset_import
    }.items()
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string", "metadata_props"):
        assert getattr(before, field) == getattr(after, field)
    kept = [n for n in before.graph.node if n.op_type != "Constant"]
    assert [(n.op_type, n.name, list(n.input), list(n.output)) for n in kept] == [
        (n.op_type, n.name, list(n.input), list(n.output)) for n in after.graph.node
    ]
    raw = after.SerializeToString(deterministic=True)
    assert model_to_bytes(read_model(raw)) == raw
    copy = clone_model(model)
    assert model_to_bytes(copy) == raw
    assert print_model(copy) == print_model(model)


# -- one model with everything


def info(name: str, *dims: int | str, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, dims)


def everything() -> onnx.ModelProto:
    """Every construct of ONNX that planish carries, each so that a loss shows."""
    constants = [
        helper.make_node("Constant", [], ["c_value"], value=numpy_helper.from_array(np.ones((2, 2)), "inner")),
        helper.make_node("Constant", [], ["c_float"], value_float=1.5),
        helper.make_node("Constant", [], ["c_floats"], value_floats=[1.5, -0.0]),
        helper.make_node("Constant", [], ["c_int"], value_int=-7),
        helper.make_node("Constant", [], ["c_ints"], value_ints=[1, 2, 3]),
        helper.make_node("Constant", [], ["c_string"], value_string="é"),
        helper.make_node("Constant", [], ["c_strings"], value_strings=[b"a", b"\xff"]),
        helper.make_node("Constant", [], ["c_sparse"], sparse_value=sparse("inside")),
    ]
    then = helper.make_graph(
        [helper.make_node("Add", ["x", "local"], ["same"])],
        "then",
        [],
        [info("same", "N", 3)],
        [numpy_helper.from_array(np.ones(3, np.float32), "local")],
    )
    other = helper.make_graph([helper.make_node("Neg", ["x"], ["same"])], "else", [], [info("same", "N", 3)])
    nodes = [
        *constants,
        helper.make_node("If", ["flag"], ["branch"], name="if", then_branch=then, else_branch=other),
        helper.make_node("Scale", ["branch"], ["scaled"], domain="f", name="call", by=2.0, doc_string="a call"),
        helper.make_node("Scale", ["scaled"], ["twice"], domain="f", overload="twice"),
        helper.make_node(
            "Mystery", ["twice", ""], ["", "m"], domain="vendor", empty=numpy_helper.from_array(np.empty(0))
        ),
        helper.make_node("SequenceConstruct", ["m"], ["seq"]),
    ]
    nodes[-2].attribute.append(helper.make_attribute("none", [], attr_type=onnx.AttributeProto.INTS))
    nodes[-2].metadata_props.add(key="k", value="v")
    graph = helper.make_graph(
        nodes,
        "main graph",
        [info("x", "N", 3), info("flag", dtype=TensorProto.BOOL), info("bias", 3)],
        [info("m", "N", 3), helper.make_tensor_sequence_value_info("seq", 1, ["N", 3]), info("c_sparse", 2, 3)],
        [
            numpy_helper.from_array(np.zeros(3, np.float32), "bias"),
            numpy_helper.from_array(np.array(["q"], object), "s"),
        ],
        doc_string="about the graph",
        value_info=[info("m", "N", 3), info("twice", "N", 3)],
        sparse_initializer=[sparse("sparse")],
    )
    graph.input[0].type.denotation = "IMAGE"
    graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    graph.input[0].doc_string = "about x"
    graph.output[0].metadata_props.add(key="unit", value="m")
    graph.initializer[1].doc_string = "about s"
    graph.metadata_props.add(key="a", value="b")
    note = graph.quantization_annotation.add(tensor_name="bias")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="c_float")
    imports = [helper.make_opsetid("", 20)]
    body = [
        helper.make_node("Constant", [], ["k"]),
        helper.make_node("Constant", [], ["two"], value_float=2.0),
        helper.make_node("Mul", ["a", "k"], ["b"]),
    ]
    body[0].attribute.add(name="value_float", ref_attr_name="by", type=onnx.AttributeProto.FLOAT)
    scale = helper.make_function(
        "f", "Scale", ["a"], ["b"], body, imports, ["mode"], [helper.make_attribute("by", 3.0)], doc_string="scales"
    )
    twice = helper.make_function("f", "Scale", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], imports)
    twice.overload = "twice"
    domains = [helper.make_opsetid(d, v) for d, v in (("", 21), ("f", 1), ("vendor", 4))]
    model = helper.make_model(graph, opset_imports=domains, functions=[scale, twice], ir_version=10)
    model.producer_name, model.producer_version, model.domain, model.model_version = "me", "1.2", "org.me", 7
    model.doc_string = "about the model"
    helper.set_model_props(model, {"license": "none", "b": ""})
    return model


def sparse(name: str) -> onnx.SparseTensorProto:
    values = numpy_helper.from_array(np.array([1, 2], np.float32), name)
    return helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([[0, 1], [1, 2]])), [2, 3])


def test_everything_survives() -> None:
    before = everything()
    model = read_model(before)
    after = model_to_proto(model)
    for field in ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string"):
        assert getattr(before, field) == getattr(after, field)
    for field in ("opset_import", "metadata_props"):
        assert list(getattr(before, field)) == list(getattr(after, field))
    g, h = before.graph, after.graph
    for field in ("name", "doc_string"):
        assert getattr(g, field) == getattr(h, field)
    for field in ("input", "output", "quantization_annotation", "metadata_props"):
        assert list(getattr(g, field)) == list(getattr(h, field)), field
    assert [n.op_type for n in h.node] == ["If", "Scale", "Scale", "Mystery", "SequenceConstruct"]
    assert [n for n in h.node if n.op_type != "If"] == list(g.node)[9:]
    assert [v.name for v in h.value_info] == ["twice"]  # of an operator whose type no rule can find
    assert [s.values.name for s in h.sparse_initializer] == ["sparse", "c_sparse"]
    arrays: dict[str, Any] = {t.name: numpy_helper.to_array(t) if t.name != "c_strings" else t for t in h.initializer}
    assert list(arrays) == ["bias", "s", "c_value", "c_float", "c_floats", "c_int", "c_ints", "c_string", "c_strings"]
    assert arrays["c_floats"].tobytes() == np.array([1.5, -0.0], np.float32).tobytes()
    assert list(arrays["c_strings"].string_data) == [b"a", b"\xff"]
    assert h.initializer[1].doc_string == "about s"
    assert_functions(before, after)
    assert model_to_bytes(read_model(after)) == after.SerializeToString(deterministic=True)


def assert_functions(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    for f, g in zip(before.functions, after.functions, strict=True):
        for field in ("name", "domain", "overload", "doc_string"):
            assert getattr(f, field) == getattr(g, field)
        for field in ("input", "output", "attribute", "attribute_proto", "opset_import"):
            assert list(getattr(f, field)) == list(getattr(g, field))
    nodes = {n.output[0]: n for n in after.functions[0].node}
    assert nodes["k"].attribute[0].ref_attr_name == "by"
    assert numpy_helper.to_array(nodes["two"].attribute[0].t) == 2


def test_how_everything_is_represented() -> None:
    model = read_model(everything())
    graph = model.graph
    assert [v.name for v in graph.inputs] == ["x", "flag", "bias"]
    assert [v.name for v in graph.defaults] == ["bias"]
    values = {v.name: v for v in graph.constants}
    assert isinstance(values["sparse"].data, SparseConstant)
    assert values["c_sparse"].numpy().tolist() == [[0, 1, 0], [0, 0, 2]]
    assert values["c_string"].numpy().item() == "é".encode()
    nodes = {n.name or n.op: n for n in graph}
    assert nodes["if"].subgraphs[0].outer is graph
    add = next(iter(nodes["if"].subgraphs[0]))
    assert add.inputs[0] is graph.inputs[0]
    assert (add, 0) in graph.inputs[0].uses
    constant, multiply = model.functions["f", "Scale", ""].graph
    assert constant.attrs["value_float"] == AttrRef("by", onnx.AttributeProto.FLOAT)
    assert multiply.inputs[1] is constant.output
    assert str(multiply.version) == "20"


def test_clones_are_exact_and_independent() -> None:
    model = read_model(everything())
    raw, text = model_to_bytes(model), print_model(model)
    copy = clone_model(model)
    verify(copy)
    assert print_model(copy) == text
    for a, b in zip(model.all_graphs(), copy.all_graphs(), strict=True):
        assert a is not b
        for v, w in zip(a.constants, b.constants, strict=True):
            assert v.data is w.data
            assert uses(v) == uses(w)
    for node in list(copy.graph):
        node.name = "changed"
        node.set_inputs([copy.graph.inputs[0]] * len(node.inputs))
    copy.graph.extra = {}
    copy.metadata["more"] = "x"
    assert model_to_bytes(model) == raw


def uses(value: Any) -> list[tuple[str, int]]:
    return [(node.op, i) for node, i in value.uses]


def test_a_body_cloned_alone_captures_the_same_values() -> None:
    graph = read_model(everything()).graph
    node = next(n for n in graph if n.op == "If")
    x = graph.inputs[0]
    before = len(x.uses)
    body = node.subgraphs[0]
    copy = clone_graph(body)
    assert next(iter(copy)).inputs[0] is x
    assert len(x.uses) == before + 1
    other = clone_graph(body, {x: graph.inputs[2]})
    assert next(iter(other)).inputs[0] is graph.inputs[2]
    assert len(x.uses) == before + 1
    assert (next(iter(other)), 0) in graph.inputs[2].uses
