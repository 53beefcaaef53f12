"""What is written is valid ONNX with the interface to the letter, and appears whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from planish.ir import (
    ArrayConstant,
    Builder,
    DType,
    ExternalDataError,
    FileConstant,
    Function,
    Graph,
    LazyConstant,
    Model,
    Node,
    Port,
    SeededConstant,
    SparseConstant,
    SplatConstant,
    TensorType,
    UsageError,
    Value,
    VerifyError,
    clone_model,
    model_to_bytes,
    model_to_proto,
    read_model,
    write_model,
)
from planish.ir.infer import infer_model
from planish.ir.repetition import repeated

F32 = DType.F32
VEC = TensorType(F32, (4,))


def run(model: Model | bytes | Path, **inputs: Any) -> list[np.ndarray[Any, Any]]:
    """Outputs under ONNX Runtime without its optimizations, after onnx's checker."""
    source = str(model) if isinstance(model, Path) else model if isinstance(model, bytes) else model_to_bytes(model)
    onnx.checker.check_model(source, full_check=True)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)  # pyright: ignore[reportReturnType]


X = np.array([-1, 2, -3, 4], np.float32)


def two_layers(scale: float = 1.0, side: int = 64) -> Model:
    """x[1,side] through two constants of ``4 * side**2`` bytes."""
    b = Builder(opset=21)
    x = b.input("x", F32, (1, side))
    draw = np.random.default_rng(0)
    w1 = b.const((draw.standard_normal((side, side)) * scale).astype(np.float32), "w1")
    w2 = b.const(draw.standard_normal((side, side)).astype(np.float32), "w2")
    b.output(b.MatMul(b.Relu(b.MatMul(x, w1)), w2), "y")
    return b.model()


# -- names and outputs


def test_names_are_unique_and_kept_where_they_are() -> None:
    b = Builder()
    x = b.input("x", F32, (4,))
    a = b.op("Neg", x, _outputs=["same"])
    c = b.op("Abs", a, _outputs=["same"])
    d = b.op("Exp", c, _outputs=[""])
    e = b.op("Neg", d, _outputs=["Exp_1"], _name="my node")
    b.output(b.op("Neg", e, _outputs=["x"]), "y")
    proto = model_to_proto(b.model())
    assert [list(n.output) for n in proto.graph.node] == [["same"], ["same_1"], ["Exp_2"], ["Exp_1"], ["y"]]
    assert proto.graph.node[3].name == "my node"
    assert np.allclose(run(b.model(), x=X)[0], np.exp(np.abs(X)), rtol=1e-6)


def test_outputs_that_onnx_cannot_say_directly() -> None:
    """An input, a constant of another name, one value twice: copies. A constant of that name: itself."""
    b = Builder()
    x = b.input("x", F32, (4,))
    y = b.Neg(x)
    k = b.const(np.ones(4, np.float32), "k")
    z = b.const(np.zeros(4, np.float32), "z")
    for value, name in ((y, "y"), (y, "again"), (x, "copy"), (k, "other"), (z, "z")):
        b.output(value, name)
    proto = model_to_proto(b.model())
    assert [n.op_type for n in proto.graph.node] == ["Neg", "Identity", "Identity", "Identity"]
    assert [o.name for o in proto.graph.output] == ["y", "again", "copy", "other", "z"]
    assert [o.tolist() for o in run(b.model(), x=X)] == [(-X).tolist(), (-X).tolist(), X.tolist(), [1] * 4, [0] * 4]


def test_an_output_takes_its_name_from_others() -> None:
    b = Builder()
    x = b.input("x", F32, (4,))
    inner = b.op("Neg", x, _outputs=["y"])
    last = b.op("Exp", inner, _outputs=["exp"])
    b.graph.set_outputs([last], ["y"])
    proto = model_to_proto(b.model())
    assert [list(n.output) for n in proto.graph.node] == [["y_1"], ["y"]]


def test_names_of_the_interface_cannot_clash() -> None:
    b = Builder()
    x = b.input("x", F32, (4,))
    b.graph.set_outputs([b.Neg(x), b.Exp(x)], ["y", "y"])
    with pytest.raises(VerifyError, match="name 'y' for two values"):
        model_to_proto(b.model())
    b.graph.set_outputs([b.Neg(x)], ["x"])
    with pytest.raises(VerifyError, match="name 'x' for two values"):
        model_to_proto(b.model())
    b.graph.set_outputs([b.const(np.ones(4, np.float32), "c")], ["x"])
    with pytest.raises(VerifyError, match="name 'x' for two values"):
        model_to_proto(b.model())


def test_the_same_output_twice_under_one_name_stays() -> None:
    b = Builder()
    y = b.Neg(b.input("x", F32, (4,)))
    b.graph.set_outputs([y, y], ["y", "y"])
    assert len(run(b.model(), x=X)) == 2


def branch(name: str, value: Value, opsets: dict[str, int]) -> Graph:
    body = Graph(name, opsets)
    body.set_outputs([value], [f"{name}_out"])
    return body


def test_bodies_return_captures_constants_and_one_value_twice() -> None:
    b = Builder()
    x, flag = b.input("x", F32, (4,)), b.input("flag", DType.BOOL, ())
    k = b.const(np.full(4, 7, np.float32), "k")
    then, other = branch("then", x, b.graph.opsets), Graph("else", b.graph.opsets)
    own = other.add_constant(ArrayConstant(np.full(4, 5, np.float32)), "k")
    then.set_outputs([x, x], ["a", "b"])
    other.set_outputs([own, k], ["a", "b"])
    outs = b.op("If", flag, _outputs=2, then_branch=then, else_branch=other)
    for i, out in enumerate(outs):
        out.type = VEC
        b.output(out, f"y{i}")
    assert [o.tolist() for o in run(b.model(), x=X, flag=np.array(True))] == [X.tolist()] * 2
    assert [o.tolist() for o in run(b.model(), x=X, flag=np.array(False))] == [[5.0] * 4, [7.0] * 4]
    ops = [[n.op_type for n in a.g.node] for a in model_to_proto(b.model()).graph.node[0].attribute]
    assert ops == [["Identity", "Identity"], ["Identity"]]


def test_omitted_outputs_and_operands() -> None:
    b = Builder()
    x = b.input("x", F32, (1, 2, 8))
    w = b.const(np.ones((1, 12, 8), np.float32), "w")
    r = b.const(np.ones((1, 12, 3), np.float32), "r")
    _, _, c = b.op("LSTM", x, w, r, None, None, _outputs=["", "", "c"], hidden_size=3)
    b.output(c, "c")
    node = model_to_proto(b.model()).graph.node[0]
    assert list(node.output) == ["", "", "c"]
    assert list(node.input) == ["x", "w", "r", "", ""]
    pooled = b.op("MaxPool", b.input("p", F32, (1, 1, 4, 4)), _outputs=["m", ""], kernel_shape=(2, 2))[0]
    b.output(pooled, "m")
    assert list(model_to_proto(b.model()).graph.node[1].output) == ["m"]
    b.op("Neg", x, _outputs=[""])
    assert list(model_to_proto(b.model()).graph.node[2].output) == ["Neg_1"]


def test_uses_out_of_scope_are_the_passes_fault() -> None:
    b = Builder()
    x = b.input("x", F32, (4,))
    late = Node("Neg", [x])
    b.output(b.op("Exp", late.output), "y")
    with pytest.raises(VerifyError, match=r"node Exp .* not defined before it"):
        model_to_proto(b.model())


def test_functions_get_constants_as_nodes_and_copies() -> None:
    b = Builder(opsets={"": 21, "f": 1})
    inner = Builder(opset=21)
    a = inner.input("a", F32, (4,))
    k = inner.const(np.full(4, 3, np.float32), "k")
    inner.graph.set_outputs([inner.Add(a, k), a, k], ["sum", "same", "three"])
    b.output(b.op("Shift", b.input("x", F32, (4,)), _domain="f", _outputs=["p", "q", "r"])[0], "p")
    for i, name in ((1, "q"), (2, "r")):
        b.output(next(iter(b.graph)).outputs[i], name)
    model = b.model(ir_version=4)
    model.add_function(Function("f", "Shift", inner.graph))
    infer_model(model)
    proto = model_to_proto(model)
    assert proto.ir_version == 8
    assert [n.op_type for n in proto.functions[0].node] == ["Constant", "Add", "Identity", "Identity"]
    assert [o.tolist() for o in run(model, x=X)] == [(X + 3).tolist(), X.tolist(), [3.0] * 4]


# -- versions and interface


@pytest.mark.parametrize(
    ("dtype", "needs"),
    [(F32, 4), (DType.BF16, 4), (DType.F8E5M2, 9), (DType.I4, 10), (DType.F4E2M1, 11), (DType.U2, 13)],
)
def test_ir_version_grows_to_what_is_used(dtype: DType, needs: int) -> None:
    b = Builder(opset=21)
    b.output(b.Cast(b.const(SplatConstant(1, dtype, (2,)), "k"), to=1), "y")
    assert model_to_proto(b.model(ir_version=3)).ir_version == needs


def test_old_models_list_initializers_as_inputs_which_are_constants() -> None:
    from onnx import helper, numpy_helper

    infos = [helper.make_tensor_value_info(n, 1, [4]) for n in ("x", "w", "y")]
    weight = numpy_helper.from_array(np.ones(4, np.float32), "w")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", infos[:2], infos[2:], [weight])
    for ir_version in (3, 4):
        source = helper.make_model(graph, ir_version=ir_version, opset_imports=[helper.make_opsetid("", 8)])
        model = read_model(source)
        written = model_to_proto(model)
        assert written.ir_version == 4
        names = [i.name for i in written.graph.input]
        assert names == (["x"] if ir_version == 3 else ["x", "w"])
        assert len(model.graph.defaults) == (0 if ir_version == 3 else 1)
        assert np.array_equal(run(model, x=X)[0], X + 1)
    assert run(model, x=X, w=X)[0].tolist() == (2 * X).tolist()


def test_used_domains_are_imported() -> None:
    b = Builder(opset=21)
    b.output(b.op("Gelu", b.input("x", F32, (4,)), _domain="com.microsoft"), "y")
    assert [(o.domain, o.version) for o in model_to_proto(b.model()).opset_import] == [("", 21), ("com.microsoft", 1)]


def test_declared_types_of_outputs_are_kept_and_value_info_comes_on_request() -> None:
    b = Builder()
    y = b.Neg(b.Exp(b.input("x", F32, ("N", 4))))
    b.output(y, "y")
    model = b.model()
    wrong = TensorType(F32, (None, 5))
    model.graph.ports[0] = Port("y", wrong)
    proto = model_to_proto(model)
    assert [d.dim_value for d in proto.graph.output[0].type.tensor_type.shape.dim] == [0, 5]
    assert not proto.graph.value_info
    assert [v.name for v in model_to_proto(model, value_info=True).graph.value_info] == ["_Exp_1"]


def test_slices_of_opset_10_come_with_their_types() -> None:
    """onnx's rule of that version copies the operand's symbol, and ONNX Runtime shares buffers by symbols."""
    for opset, expected in ((10, [["N", "max(min(S, 4)-1, 0)", 8]]), (11, [])):
        b = Builder(opset=opset)
        cut = b.Slice(b.input("x", F32, ("N", "S", 8)), *(b.const(np.array([i])) for i in (1, 4, 1)))
        b.output(b.Neg(cut), "y")
        infos = model_to_proto(b.model()).graph.value_info
        assert [[d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim] for i in infos] == expected


# -- files


KINDS = {
    "array": lambda: ArrayConstant(np.arange(600, dtype=np.float32)),
    "splat": lambda: SplatConstant(2.5, F32, (256,)),
    "seeded": lambda: SeededConstant(3, F32, (700,)),
    "packed": lambda: ArrayConstant(np.arange(5000).astype(np.int8) % 8, DType.I4),
    "lazy": lambda: LazyConstant(lambda: np.arange(300.0), DType.F64, (300,)),
    "zeros": lambda: ArrayConstant(np.zeros(3 << 20, np.float32)),
}


def all_kinds() -> Model:
    b = Builder(opset=21)
    for name, make in KINDS.items():
        b.output(b.Cast(b.const(make(), name), to=1), f"y_{name}")
    return b.model()


@pytest.mark.parametrize("external", [False, True, "weights.bin"])
def test_every_kind_of_constant_survives(tmp_path: Path, external: bool | str) -> None:
    model, path = all_kinds(), tmp_path / "m.onnx"
    write_model(model, path, external_data=external)
    names = {False: [], True: ["m.onnx.data"], "weights.bin": ["weights.bin"]}[external]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", *names]
    read = read_model(path)
    for before, after in zip(model.graph.constants, read.graph.constants, strict=True):
        assert before.data is not None
        assert after.data is not None
        assert before.data.digest() == after.data.digest()
        assert isinstance(after.data, FileConstant) == bool(external)
    again = tmp_path / "again.onnx"
    write_model(read, again)
    assert bool(list(tmp_path.glob("again.onnx.data"))) == bool(external)
    assert [a.tolist() for a in run(path)] == [a.tolist() for a in run(again)]


@pytest.mark.parametrize("external", [False, True])
def test_a_large_tensor_of_one_value_takes_no_room(tmp_path: Path, external: bool) -> None:
    """It becomes a ConstantOfShape node where the operator set has one."""
    b = Builder(opset=21)
    x = b.input("x", F32, (1,))
    b.output(b.ReduceSum(b.Mul(b.const(SplatConstant(2.5, F32, (1 << 20,)), "w"), x), keepdims=0), "y")
    write_model(b.model(), tmp_path / "m.onnx", external_data=external)
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) < 1000
    assert [n.op for n in read_model(tmp_path / "m.onnx").graph] == ["ConstantOfShape", "Mul", "ReduceSum"]
    old = Builder(opset=8)
    old.output(old.Neg(old.const(SplatConstant(2.5, F32, (1 << 10,)), "w")), "y")
    assert [n.op for n in read_model(model_to_bytes(old.model())).graph] == ["Neg"]


def test_a_tensor_that_repeats_a_small_one_takes_the_room_of_that(tmp_path: Path) -> None:
    """It becomes an Expand node; equal shapes are written once, names and bodies do not get in each other's way."""
    base = np.arange(40, dtype=np.float32).reshape(40, 1)
    data = repeated(base, F32, (40, 500))
    b = Builder(opset=21)
    x = b.input("shape_1", F32, (500,))
    first = b.Mul(b.const(data, "w"), x)
    b.output(b.Add(first, b.const(SplatConstant(2.5, F32, (40, 500)), "w/base_1")), "y")
    model = b.model()
    write_model(model, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").stat().st_size < 800
    back = read_model(tmp_path / "m.onnx")
    assert sorted(n.op for n in back.graph) == ["Add", "ConstantOfShape", "Expand", "Mul"]
    assert len(back.graph.constants) == 2  # the base and one shape
    given = np.linspace(-1, 1, 500, dtype=np.float32)
    found = run(model, shape_1=given)[0]
    assert np.array_equal(found, base * given + np.float32(2.5))


def test_large_splats_of_functions_take_no_room() -> None:
    b = Builder(opsets={"": 21, "f": 1})
    inner = Builder(opset=21)
    k = inner.const(SplatConstant(2, F32, (3, 4, 500)), "k")
    m = inner.const(repeated(np.arange(4, dtype=np.float32).reshape(1, 4, 1), F32, (3, 4, 500)), "m")
    inner.graph.set_outputs([inner.Mul(inner.Add(inner.input("a", F32, (500,)), k), m)], ["sum"])
    b.output(b.op("Shift", b.input("x", F32, (500,)), _domain="f", _outputs=["p"]), "p")
    model = b.model()
    model.add_function(Function("f", "Shift", inner.graph))
    infer_model(model)
    raw = model_to_bytes(model)
    assert len(raw) < 800
    want = np.broadcast_to((np.ones(500) + 2) * np.arange(4).reshape(4, 1), (3, 4, 500))
    assert np.array_equal(run(raw, x=np.ones(500, np.float32))[0], want)


def test_large_constants_lie_on_pages_and_shared_ones_once(tmp_path: Path) -> None:
    b = Builder(opset=21)
    big = ArrayConstant(np.ones(1 << 18, np.float32))
    for i, data in enumerate(
        [ArrayConstant(np.ones(257, np.float32)), big, big, ArrayConstant(np.ones(3, np.float32))]
    ):
        b.output(b.Neg(b.const(data, f"w{i}")), f"y{i}")
    write_model(b.model(), tmp_path / "m.onnx", external_data=True)
    data = [v.data for v in read_model(tmp_path / "m.onnx").graph.constants]
    assert [d.offset if isinstance(d, FileConstant) else None for d in data] == [0, 4096, 4096, None]
    assert (tmp_path / "m.onnx.data").stat().st_size == 4096 + (1 << 20)


def test_bytes_depend_on_the_model_alone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_model(two_layers(), tmp_path / name / "m.onnx", external_data=True)
    for file in ("m.onnx", "m.onnx.data"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert model_to_bytes(two_layers()) == model_to_bytes(clone_model(two_layers()))


def test_a_model_written_over_its_own_files_stays_usable(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    write_model(two_layers(side=600), path, external_data=True)
    want = run(path, x=np.ones((1, 600), np.float32))
    model = read_model(path)
    sibling = clone_model(model)
    digests = [v.data.digest() for v in model.graph.constants if v.data is not None]
    first = next(iter(model.graph.constants))
    mapped = first.numpy()
    model.graph.add_constant(ArrayConstant(np.ones(5000, np.float32)), "more")
    model.graph.constants = dict(reversed(model.graph.constants.items()))  # other offsets
    write_model(model, path)
    for value, digest in zip(sibling.graph.constants, digests, strict=True):
        assert value.data is not None
        value.data._digest = None
        assert value.data.digest() == digest
    assert np.array_equal(mapped, first.numpy())
    assert np.array_equal(run(path, x=np.ones((1, 600), np.float32))[0], want[0])
    write_model(model, path, threshold=10_000_000)  # everything moves into the model file, the old data stays
    assert read_model(path).graph.count == 3
    write_model(model, path, external_data=False)
    assert np.array_equal(run(path, x=np.ones((1, 600), np.float32))[0], want[0])


def test_constants_that_the_new_file_leaves_out_come_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    write_model(two_layers(side=64), path, external_data=True)
    model = read_model(path)
    (w1, w2) = (v.data for v in model.graph.constants)
    assert isinstance(w1, FileConstant)
    assert isinstance(w2, FileConstant)
    sparse = SparseConstant(w1, ArrayConstant(np.arange(64 * 64)), (64 * 64,))
    next(iter(model.graph)).set_attr("hidden", w2)
    model.graph.add_constant(sparse, "sparse")
    for value in list(model.graph.constants)[:2]:
        model.graph.constants.pop(value)
    model.graph.add_constant(ArrayConstant(np.ones(9999, np.float32)), "new")
    want = [w1.digest(), w2.digest()]
    for node in list(model.graph):
        node.set_inputs([model.graph.inputs[0]] * len(node.inputs))
    write_model(model, path, external_data=True)
    w1._digest = w2._digest = None
    assert [w1.digest(), w2.digest()] == want


def test_a_link_at_the_target_is_replaced_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    for name in ("m.onnx", "m.onnx.data"):
        os.symlink(precious, tmp_path / name)
    write_model(two_layers(), tmp_path / "m.onnx", external_data=True)
    assert precious.read_text() == "keep me"
    assert not (tmp_path / "m.onnx").is_symlink()
    assert read_model(tmp_path / "m.onnx").graph.count == 3


def test_permissions_of_an_old_file_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    write_model(two_layers(), path)
    path.chmod(0o640)
    write_model(two_layers(), path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


class Stop(ArrayConstant):
    """A constant that stops the writing when its data is asked for."""

    error: BaseException = KeyboardInterrupt()

    def chunks(self) -> Iterator[bytes | memoryview]:
        yield b"\1" * 100
        raise self.error


def snapshot(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), MemoryError(), OSError(28, "No space left on device"), ValueError("x")]
)
def test_nothing_changes_when_writing_stops(tmp_path: Path, error: BaseException, external: bool) -> None:
    path = tmp_path / "m.onnx"
    write_model(two_layers(), path, external_data=external)
    before = snapshot(tmp_path)
    model = two_layers(2.0)
    stop = Stop(np.zeros(1000, np.float32))
    stop.error = error
    model.graph.add_constant(stop, "stop")
    with pytest.raises((type(error), UsageError)):
        write_model(model, path, external_data=external)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(5, "Input/output error")])
@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("new", [False, True])
def test_nothing_changes_when_putting_in_place_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, step: str, at: int, new: bool
) -> None:
    path = tmp_path / "m.onnx"
    if not new:
        write_model(two_layers(), path, external_data=True)
    before = snapshot(tmp_path)
    calls = 0
    real = getattr(os, step)

    def failing(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise error
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, step, failing)
        with pytest.raises((KeyboardInterrupt, UsageError)):
            write_model(two_layers(2.0), path, external_data=True)
    assert snapshot(tmp_path) == before
    write_model(two_layers(2.0), path, external_data=True)
    assert set(snapshot(tmp_path)) == {"m.onnx", "m.onnx.data"}


@pytest.mark.parametrize("name", ["../w.bin", "/tmp/w.bin", "sub/w.bin", "m.onnx", "~w", "a\\b", ""])
def test_names_of_weights_that_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot store weights in"):
        write_model(two_layers(), tmp_path / "m.onnx", external_data=name)
    assert not list(tmp_path.iterdir())


def test_targets_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot write .*No such file"):
        write_model(two_layers(), tmp_path / "absent" / "m.onnx")
    with pytest.raises(UsageError, match="it is a folder"):
        write_model(two_layers(), tmp_path)
    (tmp_path / "m.onnx.data").mkdir()
    with pytest.raises(UsageError, match="it is a folder"):
        write_model(two_layers(), tmp_path / "m.onnx", external_data=True)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx.data"]


def test_over_two_gigabytes(tmp_path: Path) -> None:
    b = Builder(opset=21)
    b.output(b.Neg(b.const(LazyConstant(lambda: np.zeros(1 << 29, np.float32), F32, (1 << 29,)), "w")), "y")
    for write in (model_to_proto, model_to_bytes, lambda m: write_model(m, tmp_path / "m.onnx", external_data=False)):
        with pytest.raises(UsageError, match="takes 2147483648 bytes in one file"):
            write(b.model())
    assert not list(tmp_path.iterdir())


def test_weights_that_vanished_stop_the_writing(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    write_model(two_layers(), path, external_data=True)
    model = read_model(path)
    (tmp_path / "m.onnx.data").unlink()
    with pytest.raises(ExternalDataError, match="changed or vanished"):
        write_model(model, tmp_path / "n.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
