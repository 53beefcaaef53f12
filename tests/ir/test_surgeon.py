"""GraphSurgeon scripts run as passes: nothing is lost, weights stay where they are, faults are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from planish.ir import (
    Builder,
    DType,
    FileConstant,
    Graph,
    LazyConstant,
    Model,
    OptionalType,
    PassError,
    SeededConstant,
    SparseConstant,
    TensorType,
    UsageError,
    from_surgeon,
    model_to_bytes,
    model_to_proto,
    read_model,
    to_surgeon,
    write_model,
)

F32 = DType.F32
X = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 64)


def run(model: Model, **inputs: Any) -> list[Any]:
    raw = model_to_bytes(model)
    onnx.checker.check_model(raw, full_check=True)
    return list(ort.InferenceSession(raw, providers=["CPUExecutionProvider"]).run(None, inputs))


def perceptron() -> Model:
    b = Builder(opset=17)
    x = b.input("x", F32, ("N", 64))
    hidden = b.Relu(b.MatMul(x, b.weight("w1", (64, 32), 1)))
    b.output(b.Add(b.MatMul(hidden, b.weight("w2", (32, 8), 2)), b.const(np.ones(8, np.float32), "bias")), "y")
    model = b.model()
    model.metadata["author"] = "me"
    model.doc, model.domain, model.version = "doc", "org", 3
    return model


def test_there_and_back_changes_nothing() -> None:
    model = perceptron()
    back = from_surgeon(to_surgeon(model))
    assert model_to_bytes(back) == model_to_bytes(model)
    assert [v.data for v in back.graph.constants] == [v.data for v in model.graph.constants]


def test_a_script_edits_the_graph() -> None:
    """Relu becomes LeakyRelu, a bias is replaced, a node appended: what such scripts do."""
    model = perceptron()
    before = run(model, x=X)[0]
    graph: Any = to_surgeon(model)
    relu = next(n for n in graph.nodes if n.op == "Relu")
    relu.op, relu.attrs = "LeakyRelu", {"alpha": 0.0}
    add = next(n for n in graph.nodes if n.op == "Add")
    add.inputs[1].values = add.inputs[1].values + 1
    out = graph.outputs[0]
    doubled = gs.Variable("doubled", np.float32, ["N", 8])
    two = gs.Constant("two", np.full((), 2, np.float32))
    graph.nodes.append(gs.Node("Mul", "twice", inputs=[out, two], outputs=[doubled]))
    graph.outputs = [doubled]
    back = from_surgeon(graph.cleanup().toposort())
    assert np.allclose(run(back, x=X)[0], 2 * (before + 1), rtol=1e-6)
    assert np.allclose(run(model, x=X)[0], before)
    assert [v.name for v in back.graph.constants] == ["w1", "w2", "bias", "two"]
    assert back.metadata == {"author": "me"}
    assert (back.doc, back.domain, back.version) == ("doc", "org", 3)


def test_nodes_in_any_order() -> None:
    graph: Any = to_surgeon(perceptron())
    graph.nodes.reverse()
    assert np.array_equal(run(from_surgeon(graph), x=X)[0], run(perceptron(), x=X)[0])


def test_weights_are_not_touched_unless_the_script_looks() -> None:
    def fail() -> Any:
        raise AssertionError("looked")

    b = Builder(opset=17)
    w = b.const(LazyConstant(fail, F32, (64, 8)), "w")
    b.output(b.MatMul(b.input("x", F32, (1, 64)), w), "y")
    graph: Any = to_surgeon(b.model())
    assert graph.nodes[0].inputs[1].shape == [64, 8]
    assert graph.nodes[0].inputs[1].dtype == np.float32
    back = from_surgeon(graph)
    assert next(iter(back.graph.constants)).data is w.data
    with pytest.raises(AssertionError, match="looked"):
        _ = graph.nodes[0].inputs[1].values


def test_the_graph_can_still_be_exported_by_graphsurgeon_itself() -> None:
    model = perceptron()
    graph: Any = to_surgeon(model)
    exported = gs.export_onnx(graph)
    raw = numpy_helper.to_array(exported.graph.initializer[0])
    assert np.array_equal(raw, SeededConstant(1, F32, (64, 32)).numpy())
    assert from_surgeon(graph).graph.count == model.graph.count
    assert gs.export_onnx(graph) == exported


def test_weights_in_files_stay_there(tmp_path: Path) -> None:
    write_model(perceptron(), tmp_path / "m.onnx", external_data=True)
    back = from_surgeon(to_surgeon(read_model(tmp_path / "m.onnx")))
    kinds = [type(v.data) for v in back.graph.constants]
    assert kinds[:2] == [FileConstant, FileConstant]
    write_model(back, tmp_path / "n.onnx")
    assert (tmp_path / "n.onnx.data").exists()


def test_inputs_with_defaults_stay_inputs() -> None:
    infos = [helper.make_tensor_value_info(n, 1, [4]) for n in ("x", "w", "unused", "y")]
    weights = [numpy_helper.from_array(np.full(4, 2, np.float32), n) for n in ("w", "unused")]
    graph = helper.make_graph([helper.make_node("Add", ["w", "x"], ["y"])], "g", infos[:3], infos[3:], weights)
    model = read_model(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]))
    back = from_surgeon(to_surgeon(model))
    assert [v.name for v in back.graph.inputs] == ["x", "w", "unused"]
    assert [v.name for v in back.graph.defaults] == ["w", "unused"]
    assert model_to_proto(back) == model_to_proto(model)


def test_captured_constants_are_not_multiplied() -> None:
    b = Builder(opset=17)
    x, flag = b.input("x", F32, (4,)), b.input("flag", DType.BOOL, ())
    k = b.const(np.full(4, 3, np.float32), "k")
    bodies: list[Graph] = []
    for op in ("Add", "Mul"):
        inner = Builder(Graph(op, b.graph.opsets))
        inner.graph.set_outputs([inner.op(op, x, k)], [op])
        bodies.append(inner.graph)
    b.output(b.If(flag, then_branch=bodies[0], else_branch=bodies[1]), "y")
    model = b.model()
    back = from_surgeon(to_surgeon(model))
    assert [len(g.constants) for g in back.all_graphs()] == [1, 0, 0]
    v = np.arange(4, dtype=np.float32)
    for which in (True, False):
        want = run(model, x=v, flag=np.array(which))
        assert np.array_equal(run(back, x=v, flag=np.array(which))[0], want[0])


def test_functions_sparse_and_odd_types_survive() -> None:
    b = Builder(opsets={"": 21, "f": 1})
    values = np.array([1, 2], np.float32)
    sparse = SparseConstant(b.const(values).data, b.const(np.array([0, 3])).data, (4,))  # pyright: ignore
    b.graph.constants.clear()
    s = b.const(sparse, "s")
    half = b.Cast(b.const(SeededConstant(1, DType.BF16, (4,)), "half"), to=1)
    b.output(b.Add(b.Add(b.input("x", F32, (4,)), s), half), "y")
    back = from_surgeon(to_surgeon(b.model()))
    assert {v.name: type(v.data) for v in back.graph.constants} == {"s": SparseConstant, "half": SeededConstant}
    graph = to_surgeon(b.model())
    tensors = graph.tensors()
    assert tensors["s"].values.tolist() == [1, 0, 0, 2]
    assert tensors["half"].values.shape == (4,)


def test_what_graphsurgeon_would_lose_is_refused() -> None:
    b = Builder(opset=17)
    b.output(b.op("Optional", b.input("x", F32, (4,)), type=TensorType(F32)), "y")
    model = b.model()
    with pytest.raises(UsageError, match="attribute 'type' of kind type, which onnx-graphsurgeon cannot carry"):
        to_surgeon(model)
    b = Builder(opset=17)
    b.output(b.op("OptionalHasElement", b.input("x", OptionalType(TensorType(F32)))), "y")
    with pytest.raises(UsageError, match="of the interface has type optional"):
        to_surgeon(b.model())


def test_faults_of_the_script_are_its_own() -> None:
    graph: Any = to_surgeon(perceptron())
    graph.nodes[0].outputs[0].name = graph.nodes[1].outputs[0].name
    with pytest.raises(PassError, match=r"the GraphSurgeon script left an unsound graph: .* is defined twice"):
        from_surgeon(graph)
    graph: Any = to_surgeon(perceptron())
    graph.nodes[0].attrs["bad"] = object()
    with pytest.raises(PassError, match="GraphSurgeon cannot export its graph"):
        from_surgeon(graph)


def test_graphs_made_by_graphsurgeon_alone() -> None:
    x = gs.Variable("x", np.float32, ["N", 4])
    y = gs.Variable("y")
    node = gs.Node("Add", inputs=[x, gs.Constant("k", np.ones(4, np.float32))], outputs=[y])
    model = from_surgeon(gs.Graph([node], [x], [y], opset=17, ir_version=8))
    assert str(model.graph.outputs[0].type) == "f32[N,4]"
    assert run(model, x=np.zeros((1, 4), np.float32))[0].tolist() == [[1, 1, 1, 1]]
