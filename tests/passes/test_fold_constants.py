"""Folding against ONNX Runtime: operator by operator, with the values that rounding and flushing get wrong."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from planish.ir.builder import Builder
from planish.ir.constants import SplatConstant
from planish.ir.graph import Model, Node
from planish.ir.onnx_writer import model_to_bytes
from planish.ir.text.parser import parse_model
from planish.passes.core import Context
from planish.passes.manager import Pipeline
from planish.passes.shared.evaluate import evaluate
from planish.passes.shared.kernels import KERNELS, NoKernel

Array = np.ndarray[Any, Any]
F32 = np.array([[0.0, -0.0, 1.5, -2.5], [1e-45, -1e-45, 3.4e38, 0.1], [7.0, -7.5, 2.0, 0.5]], np.float32)
F16 = np.array([6e-8, -6e-8, 5.9e-5, 65504, -0.0, 1.0, 0.33325], np.float16)
I64 = np.array([[7, -7, 3, -3], [1, 0, -1, 1 << 40], [5, 2, -9, 4]], np.int64)
POS = np.array([[1, 2, 3, 5], [2, 7, 4, 1], [3, 3, 2, 6]], np.int64)
B = np.array([True, False, True, True])


def ints(*v: int) -> Array:
    return np.array(v, np.int64)


# (operator, operands, attributes, outputs)
EXACT: list[tuple[str, list[Any], dict[str, Any], int]] = [
    ("Identity", [F32], {}, 1),
    ("Reshape", [F32, ints(2, -1)], {}, 1),
    ("Flatten", [F32], {}, 1),
    ("Squeeze", [F32[None], ints(0)], {}, 1),
    ("Unsqueeze", [F16, ints(0, 2)], {}, 1),
    ("Transpose", [I64], {}, 1),
    ("Concat", [F16, F16], {"axis": 0}, 1),
    ("Split", [I64], {"axis": 0, "num_outputs": 2}, 2),
    ("Split", [F32, ints(1, 2)], {"axis": 0}, 2),
    ("Slice", [F32, ints(-1), ints(-5), ints(1), ints(-2)], {}, 1),
    ("Slice", [F32, ints(1, -3), ints(100, -1)], {}, 1),
    ("Slice", [F32, ints(3), ints(1), ints(1)], {}, 1),
    ("Gather", [F32, ints(-1, 0)], {"axis": 1}, 1),
    ("Gather", [F16, np.array(2)], {}, 1),
    ("GatherElements", [F32, np.array([[0, -1], [1, 0]])], {"axis": 1}, 1),
    ("GatherND", [F32, np.array([[0, 1], [2, -1]])], {}, 1),
    ("ScatterND", [F32, np.array([[1], [0]]), np.ones((2, 4), np.float32)], {}, 1),
    ("ScatterElements", [F32, np.array([[2, 0]]), np.ones((1, 2), np.float32)], {"axis": 0}, 1),
    ("ScatterElements", [F32, np.array([[-1], [0]]), np.ones((2, 1), np.float32)], {"axis": 1}, 1),
    ("EyeLike", [I64[:, :3]], {"k": 1, "dtype": 1}, 1),
    ("Expand", [F16, ints(2, 1)], {}, 1),
    ("Tile", [F16, ints(3)], {}, 1),
    ("Pad", [F32, ints(1, 0, 0, 2), np.array(-0.5, np.float32)], {}, 1),
    ("Where", [B, F32, np.float32(9)], {}, 1),
    ("ConstantOfShape", [ints(2, 3)], {}, 1),
    ("Shape", [F32], {"start": 1}, 1),
    ("Size", [F32], {}, 1),
    ("Range", [np.array(2), np.array(11), np.array(3)], {}, 1),
    ("Range", [np.array(2.0, np.float32), np.array(-4.0, np.float32), np.array(-1.0, np.float32)], {}, 1),
    ("NonZero", [I64], {}, 1),
    ("Trilu", [F32, np.array(1)], {"upper": 0}, 1),
    ("OneHot", [ints(0, -1, 2), np.array(3), np.array([0.5, 2.0], np.float32)], {}, 1),
    ("DepthToSpace", [np.arange(32, dtype=np.float32).reshape(1, 8, 2, 2)], {"blocksize": 2}, 1),
    ("DepthToSpace", [np.arange(32, dtype=np.float32).reshape(1, 8, 2, 2)], {"blocksize": 2, "mode": "CRD"}, 1),
    ("SpaceToDepth", [np.arange(32, dtype=np.float32).reshape(1, 2, 4, 4)], {"blocksize": 2}, 1),
    ("Add", [F32, F32[0]], {}, 1),
    ("Sub", [F32, np.float32(0.1)], {}, 1),
    ("Mul", [F32, F32], {}, 1),
    ("Div", [F32, np.float32(3)], {}, 1),
    ("Div", [I64, POS], {}, 1),
    ("Div", [I64, np.array(-2)], {}, 1),
    ("Mod", [I64, POS], {}, 1),
    ("Mod", [I64, np.array(-3)], {}, 1),
    ("Mod", [I64, POS], {"fmod": 1}, 1),
    ("Mod", [F32[2], np.float32(1.25)], {"fmod": 1}, 1),
    ("Pow", [POS, np.array(3)], {}, 1),
    ("Add", [I64, np.array((1 << 63) - 1)], {}, 1),
    ("And", [B, ~B], {}, 1),
    ("Or", [B, ~B], {}, 1),
    ("Xor", [B, B], {}, 1),
    ("Not", [B], {}, 1),
    ("Equal", [F32, np.float32(0)], {}, 1),
    ("Greater", [F32, np.float32(0)], {}, 1),
    ("GreaterOrEqual", [F32, np.float32(0)], {}, 1),
    ("Less", [I64, np.array(3)], {}, 1),
    ("LessOrEqual", [I64, np.array(3)], {}, 1),
    ("BitwiseAnd", [I64, POS], {}, 1),
    ("BitwiseOr", [I64, POS], {}, 1),
    ("BitwiseXor", [I64, POS], {}, 1),
    ("BitwiseNot", [I64], {}, 1),
    ("Max", [F32[1:], F32[1:][::-1].copy()], {}, 1),
    ("Min", [I64, POS], {}, 1),
    ("Neg", [F32], {}, 1),
    ("Neg", [I64], {}, 1),
    ("Abs", [F32], {}, 1),
    ("Sign", [I64], {}, 1),
    ("Relu", [F32[1:]], {}, 1),
    ("Floor", [F32], {}, 1),
    ("Ceil", [F32], {}, 1),
    ("Round", [F32], {}, 1),
    ("Sqrt", [np.abs(F32)], {}, 1),
    ("Reciprocal", [F32[2]], {}, 1),
    ("IsNaN", [F32], {}, 1),
    ("IsInf", [np.array([1, np.inf, -np.inf], np.float32)], {}, 1),
    ("CastLike", [F32, np.zeros(1, np.float16)], {}, 1),
    ("Clip", [F32[1:], np.float32(-1), np.float32(2)], {}, 1),
    ("Cast", [F32], {"to": 10}, 1),
    ("Cast", [F16], {"to": 1}, 1),
    ("Cast", [F32], {"to": 16}, 1),
    ("Cast", [F32], {"to": 9}, 1),
    ("Cast", [F16], {"to": 9}, 1),
    ("Cast", [np.array([1.9, -1.9, 100.0], np.float32)], {"to": 7}, 1),
    ("Cast", [I64], {"to": 6}, 1),
    ("Cast", [I64], {"to": 3}, 1),
    ("Cast", [I64], {"to": 1}, 1),
    ("Cast", [B], {"to": 10}, 1),
    ("Cast", [POS], {"to": 10}, 1),
    ("ReduceSum", [I64, ints(0)], {}, 1),
    ("ReduceProd", [POS], {"keepdims": 0}, 1),
    ("ReduceMax", [F32[1:], ints(-1)], {"keepdims": 0}, 1),
    ("ReduceMin", [I64], {}, 1),
    ("CumSum", [I64, np.array(1)], {}, 1),
    ("MatMul", [POS.astype(np.int32), POS.T.astype(np.int32)], {}, 1),
    ("ArgMax", [F32], {"axis": 1}, 1),
    ("ArgMin", [I64], {"axis": 0, "keepdims": 0}, 1),
]
X = np.array([[0.3, -1.2, 2.5, 0.0], [1.5, -0.7, 3.1, -2.2], [0.01, 5.0, -4.0, 1.0]], np.float32)
CLOSE: list[tuple[str, list[Any], dict[str, Any], int]] = [
    *((op, [X], {}, 1) for op in ("Exp", "Sin", "Cos", "Tan", "Tanh", "Sinh", "Cosh", "Atan", "Erf", "Sigmoid")),
    *((op, [X / 6], {}, 1) for op in ("Asin", "Acos")),
    ("Log", [np.abs(X) + 0.1], {}, 1),
    ("Pow", [np.abs(X), np.float32(1.7)], {}, 1),
    ("Pow", [X, np.float32(2)], {}, 1),
    ("Sum", [X, X[0], X], {}, 1),
    ("Mean", [X, X[0]], {}, 1),
    ("ReduceSum", [X, ints(0)], {}, 1),
    ("ReduceMean", [X, ints(1)], {"keepdims": 0}, 1),
    ("ReduceProd", [X], {}, 1),
    *((op, [X, ints(1)], {}, 1) for op in ("ReduceL1", "ReduceL2", "ReduceSumSquare")),
    ("LeakyRelu", [X], {"alpha": 0.3}, 1),
    ("Softplus", [X], {}, 1),
    ("Softmax", [X], {"axis": 0}, 1),
    ("CumSum", [X, np.array(0)], {}, 1),
    ("MatMul", [X, X.T.copy()], {}, 1),
    ("Gemm", [X, X, np.float32(1.5)], {"transB": 1, "alpha": 0.5, "beta": 2.0}, 1),
]


def constant_model(op: str, operands: list[Any], attrs: dict[str, Any], outputs: int, opset: int = 21) -> Model:
    """One node with constant operands, whose results a node each passes on (a constant cannot be an output)."""
    b = Builder(opset=opset)
    found = b.op(op, *(b.const(np.asarray(v)) for v in operands), _outputs=outputs, **attrs)
    for i, value in enumerate(found if isinstance(found, list) else [found]):
        b.output(b.Identity(value), f"y{i}")
    return b.model()


def run(model: Model) -> list[Array]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(model_to_bytes(model), options, providers=["CPUExecutionProvider"])
    return [np.asarray(v) for v in session.run(None, {})]


def folded(op: str, operands: list[Any], attrs: dict[str, Any], outputs: int) -> tuple[list[Array], list[Array]]:
    model = constant_model(op, operands, attrs, outputs)
    node = next(iter(model.graph))
    results = evaluate(node, max_bytes=1 << 20, max_work=1 << 20)
    return [r.numpy() for r in results], run(constant_model(op, operands, attrs, outputs))


@pytest.mark.parametrize(
    ("op", "operands", "attrs", "outputs"), EXACT, ids=[f"{i}-{c[0]}" for i, c in enumerate(EXACT)]
)
def test_exact_operators_give_the_runtimes_bits(
    op: str, operands: list[Any], attrs: dict[str, Any], outputs: int
) -> None:
    if attrs.get("to") == 16:  # numpy knows no bfloat16 from the runtime: compare through float32
        (found,), _ = folded(op, operands, {"to": 10}, 1)
        model = constant_model(op, operands, attrs, 1)
        (bits,) = evaluate(next(iter(model.graph)), max_bytes=1 << 20, max_work=1 << 20)
        assert bits.numpy().dtype == np.dtype(ml_dtypes.bfloat16)
        np.testing.assert_array_equal(
            bits.numpy().view(np.uint16), operands[0].astype(ml_dtypes.bfloat16).view(np.uint16)
        )
        return
    found, expected = folded(op, operands, attrs, outputs)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes(), (a, b)


@pytest.mark.parametrize(
    ("op", "operands", "attrs", "outputs"), CLOSE, ids=[f"{i}-{c[0]}" for i, c in enumerate(CLOSE)]
)
def test_other_operators_are_closer_to_the_truth_than_the_runtime(
    op: str, operands: list[Any], attrs: dict[str, Any], outputs: int
) -> None:
    (found,), (expected,) = folded(op, operands, attrs, outputs)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    # 4 units in the last place cover the polynomials of the runtime's vector functions; sums have at most 12 terms.
    bound = 4 * np.finfo(np.float32).eps * np.maximum(np.abs(expected), np.float32(np.abs(expected).max()) / 8)
    assert (np.abs(found - expected) <= bound).all(), (found, expected)


def test_every_kernel_is_tested() -> None:
    assert set(KERNELS) == {c[0] for c in EXACT + CLOSE}


# -- what must not be computed


def refusal(op: str, *operands: Any, **attrs: Any) -> str:
    node = next(iter(constant_model(op, list(operands), attrs, 1).graph))
    with pytest.raises(NoKernel) as caught:
        evaluate(node, max_bytes=1 << 20, max_work=1 << 16)
    return str(caught.value)


def test_what_the_specification_leaves_open_is_refused() -> None:
    nan = np.array([1.0, np.nan], np.float32)
    assert "by zero" in refusal("Div", ints(1, 2), ints(1, 0))
    assert "overflows" in refusal("Div", ints(-(1 << 63)), ints(-1))
    assert "by zero" in refusal("Mod", ints(1, 2), ints(1, 0))
    assert "NaN" in refusal("Max", nan, np.float32(0))
    assert "NaN" in refusal("ReduceMax", nan)
    assert "-0.0" in refusal("Relu", np.float32(-0.0))
    assert "does not fit" in refusal("Cast", np.array([3e9], np.float32), to=6)
    assert "does not fit" in refusal("Cast", np.array([np.nan], np.float32), to=7)
    assert "does not fit" in refusal("Cast", np.array([-1.0], np.float32), to=2)
    assert "out of range" in refusal("Gather", ints(1, 2), np.array(5))
    assert "not an exact integer" in refusal("Pow", ints(10), ints(30))


def test_rounding_that_depends_on_the_intermediate_type_is_refused() -> None:
    """float64 to float16 through float32 rounds twice."""
    halfway = np.array([1 + 2**-11 + 2**-40])
    assert "intermediate" in refusal("Cast", halfway, to=10)


def test_work_is_bounded_before_it_is_done() -> None:
    a = np.ones((64, 64), np.float32)
    assert "262144 operations" in refusal("MatMul", a, a)


def test_size_is_bounded_before_memory_is_taken() -> None:
    huge = ints(1 << 20, 1 << 20)
    assert "would take" in refusal("Tile", np.ones((1, 2), np.float32), huge)
    assert "would take" in refusal("Pad", np.ones((1, 2), np.float32), ints(0, 0, 1 << 30, 0))


# -- splats


def only_node(model: Model) -> Node:
    return next(iter(model.graph))


@pytest.mark.parametrize(
    ("op", "operands", "attrs"),
    [
        ("Expand", [np.array(2.0, np.float32), ints(1 << 20, 1 << 12)], {}),
        ("Tile", [np.array([2.0], np.float32), ints(1 << 32)], {}),
        ("ConstantOfShape", [ints(1 << 20, 1 << 12)], {}),
    ],
)
def test_a_tensor_of_one_value_takes_no_memory(op: str, operands: list[Any], attrs: dict[str, Any]) -> None:
    (found,) = evaluate(only_node(constant_model(op, operands, attrs, 1)), max_bytes=0, max_work=0)
    assert isinstance(found, SplatConstant)
    assert found.nbytes == 1 << 34


def test_splats_stay_splats_through_arithmetic_and_movement() -> None:
    model = parse_model("""
        graph @main(%x: f32[N,200]) {
          %a: f32[100,200] = const splat<2.0>
          %k: f32[1] = const dense<[0.25]>
          %b = Mul(%a, %k)
          %c = Transpose(%b)
          %d = Sqrt(%c)
          %y = MatMul(%x, %d)
          %f = Cast(%d) {to = 10}
          return %f
        }""")
    Pipeline("fold-constants").run(model, Context())
    (out,) = model.graph.outputs
    assert isinstance(out.data, SplatConstant)
    assert str(out.type) == "f16[200,100]"
    assert out.data.value == np.float16(0.5**0.5)


def test_float16_subnormals_survive() -> None:
    tiny = np.array([6e-8, -6e-8, 1.2e-7], np.float16)
    (found,), (expected,) = folded("Identity", [tiny], {}, 1)
    assert found.tobytes() == expected.tobytes() == tiny.tobytes()
    (found,), (expected,) = folded("Cast", [tiny], {"to": 1}, 1)
    assert found.tobytes() == expected.tobytes()
    assert (found != 0).all()
