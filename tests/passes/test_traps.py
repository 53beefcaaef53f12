"""Traps that other optimizers fell into: each is a model that must compute the same after the clean pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper as onh
import pytest

from planish.ir.infer import infer_model
from planish.ir.onnx_reader import read_model
from planish.ir.onnx_writer import model_to_bytes
from planish.ir.text.parser import parse_model
from planish.ir.verify import verify
from planish.passes.core import Context
from planish.passes.manager import Pipeline

Array = np.ndarray[Any, Any]
F, I64, BOOL, F16 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.BOOL, onnx.TensorProto.FLOAT16


def build(
    nodes: list[Any],
    inputs: list[Any],
    outputs: list[Any],
    constants: Mapping[str, Any] | None = None,
    *,
    opset: int = 17,
    more: dict[str, int] | None = None,
) -> onnx.ModelProto:
    init = [onh.from_array(np.asarray(a), n) for n, a in (constants or {}).items()]
    imports = [oh.make_opsetid("", opset), *(oh.make_opsetid(d, v) for d, v in (more or {}).items())]
    return oh.make_model(oh.make_graph(nodes, "g", inputs, outputs, init), opset_imports=imports, ir_version=10)


def info(name: str, dtype: int, shape: list[Any] | None) -> Any:
    return oh.make_tensor_value_info(name, dtype, shape)


def session(raw: bytes) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return ort.InferenceSession(raw, options, providers=["CPUExecutionProvider"])


def clean(proto: onnx.ModelProto, pipeline: str = "clean", ctx: Context | None = None) -> onnx.ModelProto:
    model = read_model(proto.SerializeToString())
    infer_model(model)
    ctx = ctx or Context()
    Pipeline(pipeline).run(model, ctx)
    verify(model)
    raw = model_to_bytes(model)
    if all(o.type.tensor_type.HasField("shape") for o in proto.graph.output):  # the checker refuses outputs without
        onnx.checker.check_model(raw)
    # In one context, because what folding may add to a model is counted there.
    assert Pipeline(pipeline).run(model, ctx).changes == 0, "cleaning twice changed something"
    return onnx.load_from_string(raw)


def same(proto: onnx.ModelProto, *feeds: dict[str, Array]) -> onnx.ModelProto:
    """Cleans; checks interface and outputs to the bit; returns what came out."""
    after = clean(proto)
    assert [(i.name, i.type) for i in after.graph.input] == [(i.name, i.type) for i in proto.graph.input]
    assert [o.name for o in after.graph.output] == [o.name for o in proto.graph.output]
    first, second = session(proto.SerializeToString()), session(after.SerializeToString())
    for feed in feeds:
        for a, b in zip(first.run(None, feed), second.run(None, feed), strict=True):
            assert a.dtype == b.dtype
            assert a.shape == b.shape
            assert a.tobytes() == b.tobytes(), (a, b)
    return after


def ops(proto: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in proto.graph.node]


X = np.array([[0.0, -0.0, 1.5, -2.5], [1e-40, 3.0, np.inf, -1.0]], np.float32)


def test_a_declared_output_shape_that_is_wrong() -> None:
    """The file says [1, n], the model gives [n, 1, k]: a Reshape or Squeeze that trusted it would damage the result."""
    nodes = [
        oh.make_node("Unsqueeze", ["x", "one"], ["u"]),
        oh.make_node("Identity", ["u"], ["v"]),
        oh.make_node("Expand", ["v", "shape"], ["w"]),
        oh.make_node("Relu", ["w"], ["y"]),
    ]
    proto = build(
        nodes,
        [info("x", F, ["n", 4])],
        [info("y", F, [1, "n"])],
        {"one": np.array([1]), "shape": np.array([1, 1, 1])},
    )
    proto.graph.value_info.append(info("u", F, [1, "n"]))
    proto.graph.value_info.append(info("w", F, [1, "n"]))
    after = same(proto, {"x": X}, {"x": X[:1]})
    assert ops(after) == ["Unsqueeze", "Relu"]


def test_captured_values_stay_in_front_of_the_body_that_uses_them() -> None:
    inner = oh.make_graph([oh.make_node("Add", ["late", "x"], ["t"])], "then", [], [info("t", F, ["n", 4])])
    other = oh.make_graph([oh.make_node("Sub", ["x", "late2"], ["e"])], "else", [], [info("e", F, ["n", 4])])
    nodes = [
        oh.make_node("Identity", ["x"], ["i"]),
        oh.make_node("Mul", ["i", "two"], ["late"]),
        oh.make_node("Exp", ["i"], ["late2"]),
        oh.make_node("If", ["c"], ["r"], then_branch=inner, else_branch=other),
        oh.make_node("Mul", ["x", "two"], ["again"]),
        oh.make_node("Add", ["r", "again"], ["y"]),
    ]
    proto = build(
        nodes, [info("x", F, ["n", 4]), info("c", BOOL, [])], [info("y", F, ["n", 4])], {"two": np.float32(2)}
    )
    after = same(proto, {"x": X, "c": np.array(True)}, {"x": X, "c": np.array(False)})
    assert sorted(ops(after)) == ["Add", "Exp", "If", "Mul"]


@pytest.mark.parametrize("tiny", [1e-10, 1e-7, -1e-12])
def test_a_tiny_number_before_a_logarithm_stays(tiny: float) -> None:
    nodes = [oh.make_node("Add", ["x", "eps"], ["a"]), oh.make_node("Log", ["a"], ["y"])]
    proto = build(nodes, [info("x", F, ["n"])], [info("y", F, ["n"])], {"eps": np.float32(tiny)})
    assert ops(same(proto, {"x": np.array([0.0, 1.0], np.float32)})) == ["Add", "Log"]


def test_one_value_as_the_output_of_two_graphs() -> None:
    """Without its Identity a branch returns what the graph around it returns too."""
    then = oh.make_graph([oh.make_node("Identity", ["r"], ["t"])], "then", [], [info("t", F, ["n", 4])])
    other = oh.make_graph([oh.make_node("Identity", ["x"], ["e"])], "else", [], [info("e", F, ["n", 4])])
    nodes = [
        oh.make_node("Relu", ["x"], ["r"]),
        oh.make_node("Identity", ["r"], ["z"]),
        oh.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other),
    ]
    proto = build(
        nodes, [info("x", F, ["n", 4]), info("c", BOOL, [])], [info("y", F, ["n", 4]), info("z", F, ["n", 4])]
    )
    same(proto, {"x": X, "c": np.array(True)}, {"x": X, "c": np.array(False)})


def test_an_intermediate_that_is_an_output_stays() -> None:
    nodes = [
        oh.make_node("Transpose", ["x"], ["a"]),
        oh.make_node("Transpose", ["a"], ["b"]),
        oh.make_node("Identity", ["b"], ["c"]),
        oh.make_node("Relu", ["c"], ["y"]),
    ]
    outputs = [info(n, F, None) for n in ("a", "b", "c", "y")]
    after = same(build(nodes, [info("x", F, ["n", 4])], outputs), {"x": X})
    assert sorted(ops(after)) == ["Identity", "Identity", "Relu", "Transpose"]


def test_an_overridable_initializer_is_no_constant() -> None:
    nodes = [
        oh.make_node("Neg", ["w"], ["nw"]),
        oh.make_node("Mul", ["x", "one"], ["a"]),
        oh.make_node("Add", ["a", "nw"], ["y"]),
    ]
    inputs = [info("x", F, ["n", 4]), info("w", F, [4]), info("one", F, [])]
    constants = {"w": np.arange(4, dtype=np.float32), "one": np.float32(1)}
    proto = build(nodes, inputs, [info("y", F, ["n", 4])], constants)
    after = same(proto, {"x": X}, {"x": X, "w": np.ones(4, np.float32)}, {"x": X, "one": np.array(3, np.float32)})
    assert ops(after) == ["Neg", "Mul", "Add"]


def test_float16_subnormals_survive_folding() -> None:
    tiny = np.array([6e-8, -6e-8, 5.9e-5, 1.0], np.float16)
    nodes = [
        oh.make_node("Reshape", ["w", "s"], ["a"]),
        oh.make_node("Transpose", ["a"], ["b"]),
        oh.make_node("Cast", ["b"], ["c"], to=F),
        oh.make_node("Mul", ["x", "c"], ["y"]),
    ]
    proto = build(nodes, [info("x", F, [4, 1])], [info("y", F, [4, 1])], {"w": tiny, "s": np.array([1, 4])})
    after = same(proto, {"x": np.full((4, 1), 1e4, np.float32)})
    assert ops(after) == ["Mul"]


def test_quantized_weights_stay_quantized() -> None:
    nodes = [
        oh.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=0),
        oh.make_node("QuantizeLinear", ["x", "sx", "zx"], ["qx"]),
        oh.make_node("DequantizeLinear", ["qx", "sx", "zx"], ["dx"]),
        oh.make_node("MatMul", ["dx", "w"], ["y"]),
    ]
    constants = {
        "q": np.arange(-8, 8, dtype=np.int8).reshape(4, 4),
        "s": np.array([0.1, 0.2, 0.3, 0.4], np.float32),
        "z": np.zeros(4, np.int8),
        "sx": np.float32(0.05),
        "zx": np.uint8(128),
    }
    proto = build(nodes, [info("x", F, ["n", 4])], [info("y", F, ["n", 4])], constants)
    after = same(proto, {"x": np.nan_to_num(X, posinf=3)})
    assert ops(after) == [n.op_type for n in nodes]


def size_of(proto: onnx.ModelProto) -> int:
    return len(proto.SerializeToString())


def test_folding_does_not_make_the_file_ten_times_bigger() -> None:
    """Thirty tables of 60 kB, each computed from a few bytes."""
    nodes: list[Any] = []
    row = np.arange(1, 121, dtype=np.float32).reshape(1, 120)
    constants: dict[str, Array] = {"w": np.ones((128, 128), np.float32), "r": row}
    last = "x"
    for i in range(30):
        constants[f"v{i}"] = np.arange(128, dtype=np.float32).reshape(128, 1) + i
        nodes += [
            oh.make_node("Mul", [f"v{i}", "r"], [f"t{i}"]),
            oh.make_node("MatMul", [last, f"t{i}"], [f"m{i}"]),
            oh.make_node("ReduceSum", [f"m{i}", "axis"], [f"s{i}"]),
            oh.make_node("Mul", ["x", f"s{i}"], [f"y{i}"]),
        ]
        last = f"y{i}"
    constants["axis"] = np.array([1])
    proto = build(nodes, [info("x", F, ["n", 128])], [info(last, F, ["n", 128])], constants)
    before = size_of(proto)
    ctx = Context()
    after = clean(proto, ctx=ctx)
    stored = sum(v.nbytes for v in constants.values())
    assert size_of(after) <= 2 * before
    assert 0 < ctx.grown_bytes <= stored


def test_a_large_table_of_one_value_takes_no_room() -> None:
    nodes = [
        oh.make_node("ConstantOfShape", ["s"], ["m"], value=onh.from_array(np.array([-1e9], np.float32))),
        oh.make_node("Add", ["x", "m"], ["y"]),
    ]
    proto = build(nodes, [info("x", F, ["n", 1, 1])], [info("y", F, None)], {"s": np.array([1, 512, 512])})
    after = same(proto, {"x": np.zeros((2, 1, 1), np.float32)})
    assert size_of(after) < 2 * size_of(proto)


def test_no_attribute_is_written_that_the_opset_lacks() -> None:
    """Squeeze and Unsqueeze before 13 and Slice before 10 have attributes where newer ones have operands."""
    nodes = [
        oh.make_node("Unsqueeze", ["x"], ["a"], axes=[0]),
        oh.make_node("Unsqueeze", ["a"], ["b"], axes=[0]),
        oh.make_node("Squeeze", ["b"], ["c"], axes=[1]),
        oh.make_node("Slice", ["c"], ["d"], axes=[1], starts=[0], ends=[2]),
        oh.make_node("Slice", ["d"], ["e"], axes=[2], starts=[1], ends=[3]),
        oh.make_node("Flatten", ["e"], ["y"]),
    ]
    for opset in (7, 9):
        proto = build(nodes, [info("x", F, ["n", 4])], [info("y", F, None)], opset=opset)
        after = same(proto, {"x": X})
        assert len(ops(after)) < len(nodes)


def test_random_operators_are_neither_folded_nor_merged() -> None:
    nodes = [
        oh.make_node("RandomNormal", [], ["a"], shape=[2, 4]),
        oh.make_node("RandomNormal", [], ["b"], shape=[2, 4]),
        oh.make_node("RandomUniformLike", ["k"], ["c"]),
        oh.make_node("RandomUniformLike", ["k"], ["d"]),
        oh.make_node("Sum", ["x", "a", "b", "c", "d"], ["y"]),
    ]
    proto = build(nodes, [info("x", F, [2, 4])], [info("y", F, [2, 4])], {"k": np.ones((2, 4), np.float32)})
    assert ops(clean(proto)) == [n.op_type for n in nodes]


def test_training_mode_stays() -> None:
    nodes = [
        oh.make_node("Dropout", ["x", "ratio", "train"], ["d"]),
        oh.make_node("BatchNormalization", ["d", "s", "b", "m", "v"], ["n", "rm", "rv"], training_mode=1),
        oh.make_node("Dropout", ["n", "ratio", "train"], ["e"]),
        oh.make_node("Add", ["e", "d"], ["y"]),
    ]
    constants = {k: np.ones(4, np.float32) for k in "sbmv"} | {"ratio": np.float32(0.5), "train": np.array(True)}
    proto = build(nodes, [info("x", F, ["n", 4])], [info("y", F, ["n", 4])], constants)
    after = clean(proto)
    assert ops(after) == [n.op_type for n in nodes]
    kept = {a.name: a.i for a in after.graph.node[1].attribute}
    assert kept["training_mode"] == 1


def test_old_batchnormalization_keeps_its_results() -> None:
    """Before opset 14 their number says whether it trains."""
    nodes = [oh.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y", "rm", "rv", "sm", "sv"])]
    constants = {k: np.ones(4, np.float32) for k in "sbmv"}
    proto = build(nodes, [info("x", F, ["n", 4])], [info("y", F, ["n", 4])], constants, opset=9)
    assert len(clean(proto).graph.node[0].output) == 5


def test_an_unknown_operator_is_left_alone() -> None:
    nodes = [
        oh.make_node("Probe", ["x"], ["unused"], domain="vendor"),
        oh.make_node("Identity", ["x"], ["a"], domain="vendor"),
        oh.make_node("Identity", ["a"], ["b"], domain="vendor"),
        oh.make_node("Relu", ["b"], ["y"]),
    ]
    proto = build(nodes, [info("x", F, [2])], [info("y", F, [2])], more={"vendor": 1})
    model = read_model(proto.SerializeToString())
    infer_model(model)
    Pipeline("clean").run(model)
    assert [n.op for n in model.graph] == ["Probe", "Identity", "Identity", "Relu"]
    assert model.opsets == {"": 17, "vendor": 1}


@pytest.mark.parametrize(
    "fill",
    [np.float32(-0.0), np.float32(0.0), np.float32(np.nan), np.float32(np.inf)],
    ids=["minus-zero", "zero", "nan", "inf"],
)
def test_special_constants_keep_their_bits(fill: Any) -> None:
    nodes = [
        oh.make_node("Expand", ["k", "s"], ["e"]),
        oh.make_node("Add", ["e", "e2"], ["f"]),
        oh.make_node("Concat", ["x", "f"], ["y"], axis=0),
    ]
    constants = {"k": np.array([fill]), "s": np.array([2, 4]), "e2": np.full((2, 4), -0.0, np.float32)}
    after = same(build(nodes, [info("x", F, ["n", 4])], [info("y", F, None)], constants), {"x": X})
    assert ops(after)[-1] == "Concat"


def test_empty_tensors_and_zero_extents() -> None:
    nodes = [
        oh.make_node("Concat", ["empty", "x"], ["a"], axis=0),
        oh.make_node("Reshape", ["a", "t"], ["b"]),
        oh.make_node("Relu", ["b"], ["y"]),
    ]
    constants = {"empty": np.zeros((0, 4), np.float32), "t": np.array([-1, 4])}
    proto = build(nodes, [info("x", F, ["n", 4])], [info("y", F, None)], constants)
    assert ops(same(proto, {"x": X}, {"x": X[:0]})) == ["Relu"]


def test_a_shape_that_is_also_an_output() -> None:
    nodes = [
        oh.make_node("Shape", ["x"], ["s"]),
        oh.make_node("Gather", ["s", "i"], ["n"], axis=0),
        oh.make_node("Concat", ["n", "m"], ["t"], axis=0),
        oh.make_node("Reshape", ["x", "t"], ["y"]),
    ]
    constants = {"i": np.array([0]), "m": np.array([-1])}
    proto = build(nodes, [info("x", F, ["n", 2, 2])], [info("y", F, None), info("t", I64, [2])], constants)
    same(proto, {"x": X.reshape(2, 2, 2)})


SHAPES: list[tuple[str, Callable[[Any], Array]]] = [
    ("negative axis", lambda d: d.standard_normal((2, 3, 4)).astype(np.float32)),
    ("one", lambda d: d.standard_normal((1, 1, 1)).astype(np.float32)),
    ("none", lambda d: np.zeros((0, 3, 4), np.float32)),
]


@pytest.mark.parametrize(("name", "make"), SHAPES, ids=[n for n, _ in SHAPES])
def test_symbolic_squeeze_without_axes_stays(name: str, make: Callable[[Any], Array]) -> None:
    """Which axes it removes is only known when it runs."""
    nodes = [oh.make_node("Squeeze", ["x"], ["a"]), oh.make_node("Relu", ["a"], ["y"])]
    proto = build(nodes, [info("x", F, ["a", "b", "c"])], [info("y", F, None)])
    assert ops(same(proto, {"x": make(np.random.default_rng(0))})) == ["Squeeze", "Relu"]


def test_a_branch_that_never_runs_may_contradict_itself() -> None:
    """Once the extents are known, the branch for another rank cannot even be typed: that is no fault."""
    three = oh.make_graph([oh.make_node("Squeeze", ["t", "one"], ["s"])], "three", [], [info("s", F, None)])
    four = oh.make_graph([oh.make_node("Neg", ["t"], ["n"])], "four", [], [info("n", F, None)])
    nodes = [
        oh.make_node("Exp", ["f"], ["e"]),  # the runtime does not see through it, folding does
        oh.make_node("Cast", ["e"], ["r"], to=I64),
        oh.make_node("Tile", ["k", "r"], ["t"]),
        oh.make_node("If", ["c"], ["i"], then_branch=three, else_branch=four),
        oh.make_node("Mul", ["i", "x"], ["y"]),
    ]
    constants = {
        "k": np.ones((1, 1, 2), np.float32),
        "f": np.log([1.1, 4.1, 1.1]).astype(np.float32),
        "one": np.array([1]),
    }
    inputs = [info("x", F, []), info("c", BOOL, [])]
    feed = {"x": np.array(3, np.float32), "c": np.array(False)}
    assert ops(same(build(nodes, inputs, [info("y", F, None)], constants), feed)) == ["Mul"]


REFERENCES = [
    "Concat(%u, %u) {axis = ref<a, int>}",
    "Transpose(%u) {perm = ref<a, ints>}",
    "Cast(%u) {to = ref<a, int>}",
    "Flatten(%u) {axis = ref<a, int>}",
    "Softmax(%u) {axis = ref<a, int>}",
    "Pad(%u, %p) {mode = ref<a, string>}",
    "Split(%u) {axis = ref<a, int>, num_outputs = 1}",
    "Split(%u) {num_outputs = ref<a, int>}",
    "Reshape(%u, %t) {allowzero = ref<a, int>}",
    "Gather(%k, %t) {axis = ref<a, int>}",
    "ReduceSum(%u) {keepdims = ref<a, int>}",
    "LeakyRelu(%k) {alpha = ref<a, float>}",
    "Resize(%u, _, %k) {mode = ref<a, string>}",
    "ConstantOfShape(%t) {value = ref<a, tensor>}",
    "Shape(%u) {start = ref<a, int>}",
]


@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize("op", REFERENCES)
def test_attributes_that_a_functions_caller_gives_are_no_numbers(op: str, trace: bool) -> None:
    """All rules of the pipeline meet each of them twice in a row, in a body that is not inlined."""
    text = f"""
        model ir=10 opset {{"" = 21, "own" = 1}}
        graph @main(%x: f32[2,3]) {{
          %y = own::F(%x)
          return %y
        }}
        function @own::F(%u) opset {{"" = 21}} attributes [a] {{
          %p: i64[4] = const dense<[0, 0, 0, 0]>
          %t: i64[2] = const dense<[1, 40]>
          %k: f32[2] = const dense<[1.0, 1.0]>
          %v = {op}
          %w = {op.replace("%u", "%v")}
          return %w, %v
        }}"""
    model = parse_model(text, check=False)
    rules = str(Pipeline("clean")).removeprefix("inline-functions,")
    Pipeline(rules).run(model, Context(trace=trace))
    verify(model)
