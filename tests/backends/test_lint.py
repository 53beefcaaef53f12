"""The linter for ONNX Runtime, condition by condition: what it says, and that a session does just that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from planish.backends.findings import Finding, LintReport, Runs
from planish.backends.ort.lint import agree, lint, observe
from planish.backends.ort.session import Session, SessionSettings
from planish.driver.calibrate import observer
from planish.ir import DType
from planish.ir.constants import ArrayConstant
from planish.ir.errors import BackendError
from planish.ir.graph import Model
from planish.ir.onnx_reader import read_model
from planish.models.random.quantized import random_quantized
from planish.models.zoo import get
from planish.passes.core import Context
from planish.passes.manager import Pipeline
from planish.passes.target import TARGETS

from .qdq_nets import Net

AVX2, VNNI, ARM = (TARGETS[name] for name in ("x86-64-v3", "x86-64-v4-vnni", "aarch64-dotprod"))


def conv(
    *,
    out: bool = True,
    relu: bool = False,
    zero: int = 0,
    bias: float | None = 0.002,
    dtype: Any = np.uint8,
    **weight: Any,
) -> Model:
    b = Net(opset=17)
    operands = [b.pair(b.x(1, 4, 6, 6), dtype=dtype), b.stored(4, 4, 3, 3, **weight)]
    y = b.Conv(*operands, *([] if bias is None else [b.shift(4, bias)]))
    y = b.Relu(y) if relu else y
    return b.done(b.pair(y, zero=zero, dtype=dtype) if out else y)


def matmul(
    *,
    out: bool = True,
    add: bool = False,
    relu: bool = False,
    pair: bool = True,
    opset: int = 21,
    square: bool = False,
    **weight: Any,
) -> Model:
    b = Net(opset=opset)
    x = b.x(4, 8)
    y = b.MatMul(b.pair(x) if pair else x, b.stored(8, 8 if square else 16, **weight))
    y = b.Add(y, b.const(np.ones(16, np.float32))) if add else y
    y = b.Relu(y) if relu else y
    return b.done(b.pair(y) if out else y)


def gemm(*, bias: float | None = 0.002, transposed: int = 0, axis: int | None = None, bare: bool = False) -> Model:
    b = Net(opset=17)
    y = b.Gemm(
        b.pair(b.x(4, 8), bare=bare),
        b.stored(8, 8, axis=axis),
        *([] if bias is None else [b.shift(8, bias)]),
        transB=transposed,
    )
    return b.done(b.pair(y))


def moved(
    op: str, *, behind: float | None = 0.1, bare: bool = False, dtype: Any = np.uint8, opset: int = 17, **attrs: Any
) -> Model:
    b = Net(opset=opset)
    operands = {"Reshape": [b.const(np.array([2, -1]))], "Resize": [None, b.const(np.array([1, 1, 2, 2], np.float32))]}
    y = b.op(op, b.pair(b.x(1, 4, 6, 6), dtype=dtype, bare=bare), *operands.get(op, []), **attrs)
    return b.done(y if behind is None else b.pair(y, behind, dtype=dtype, bare=bare))


def two_readers() -> Model:
    b = Net(opset=17)
    y = b.Sigmoid(b.pair(b.x(4, 8)))
    return b.done(b.Add(b.pair(y), b.Tanh(y)))


def add(*, plain: bool = False, dtype: Any = np.uint8) -> Model:
    b = Net(opset=21)
    x = b.x(4, 8)
    other = b.const(np.float32(2)) if plain else b.pair(b.Sigmoid(x), dtype=dtype)
    return b.done(b.pair(b.Add(b.pair(x, dtype=dtype), other), dtype=dtype))


def shared_scale() -> Model:
    b = Net(opset=21)
    x, s, z = b.x(4, 8), b.const(np.full(8, 0.1, np.float32)), b.const(np.zeros(8, np.int8))
    for seed in (1, 2):
        data = np.random.default_rng(seed).integers(-9, 9, (8, 8)).astype(np.int8)
        x = b.MatMul(x, b.DequantizeLinear(b.const(data), s, z, axis=1))
    return b.done(x)


CASES: dict[str, tuple[Callable[[], Model], str, Runs, str]] = {
    "a unit": (conv, "Conv", Runs.INTEGER, ""),
    "result in floats": (lambda: conv(out=False), "Conv", Runs.FLOAT, "result-not-quantized"),
    "Relu that the range implies": (lambda: conv(relu=True), "Relu", Runs.ABSORBED, ""),
    "Relu that it does not imply": (lambda: conv(relu=True, zero=9), "Conv", Runs.FLOAT, "activation-kept"),
    "bias of another scale": (lambda: conv(bias=0.001), "Conv", Runs.FLOAT, "bias-scale"),
    "signed": (lambda: conv(dtype=np.int8), "Conv", Runs.INTEGER, ""),
    "16 bits": (lambda: add(dtype=np.uint16), "Add", Runs.FLOAT, "16-bit"),
    "a float operand": (lambda: add(plain=True), "Add", Runs.FLOAT, "operand-not-quantized"),
    "two readers": (two_readers, "Sigmoid", Runs.FLOAT, "result-shared"),
    "no integer kernel": (lambda: moved("Tanh"), "Tanh", Runs.FLOAT, "no-integer-kernel"),
    "movement": (lambda: moved("Reshape"), "Reshape", Runs.INTEGER, ""),
    "movement between other scales": (lambda: moved("Reshape", behind=0.2), "Reshape", Runs.FLOAT, "parameters-differ"),
    "movement before a bare result": (lambda: moved("Reshape", behind=None), "Reshape", Runs.INTEGER, ""),
    "movement without zero point": (lambda: moved("Reshape", bare=True), "Reshape", Runs.FLOAT, "parameters-differ"),
    "nearest": (lambda: moved("Resize", mode="nearest"), "Resize", Runs.INTEGER, ""),
    "linear": (lambda: moved("Resize", mode="linear"), "Resize", Runs.FLOAT, "resize-mode"),
    "old MaxPool": (lambda: moved("MaxPool", opset=11, kernel_shape=(2, 2)), "MaxPool", Runs.FLOAT, "opset"),
    "product in floats behind": (lambda: matmul(out=False), "MatMul", Runs.INTEGER, ""),
    "product, bias, floats": (lambda: matmul(out=False, add=True), "MatMul", Runs.FLOAT, "operand-not-quantized"),
    "product, bias, pair": (lambda: matmul(add=True), "MatMul", Runs.INTEGER, ""),
    "product, Relu, floats": (lambda: matmul(out=False, relu=True), "MatMul", Runs.FLOAT, "activation-kept"),
    "weight only": (lambda: matmul(pair=False, out=False, axis=1), "MatMul", Runs.INTEGER, ""),
    "weight only, axis -1": (lambda: matmul(pair=False, out=False, axis=-1), "MatMul", Runs.FLOAT, "weight-axis"),
    "weight only, Relu": (
        lambda: matmul(pair=False, out=False, axis=1, relu=True),
        "MatMul",
        Runs.FLOAT,
        "activation-kept",
    ),
    "weight only, one scale for two": (shared_scale, "MatMul", Runs.FLOAT, "weight-shared"),
    "Gemm": (gemm, "Gemm", Runs.INTEGER, ""),
    "Gemm without zero point": (lambda: gemm(bare=True), "Gemm", Runs.FLOAT, "no-zero-point"),
}


def about(report: LintReport, op: str) -> Finding:
    return next(f for f in report.findings if f.op == op)


@pytest.mark.parametrize("name", CASES)
def test_condition(name: str) -> None:
    make, op, runs, rule = CASES[name]
    model = make()
    report = lint(model, VNNI)
    finding = about(report, op)
    assert (finding.runs, finding.rule) == (runs, rule), finding
    agreement = agree(report, observe(model))
    assert not agreement.false_integer
    assert not agreement.false_float
    assert agreement.pairs[0] == agreement.pairs[1]


@pytest.mark.parametrize("seed", range(30))
def test_random_models(seed: int) -> None:
    _compare(range(seed * 2, seed * 2 + 2))


@pytest.mark.campaign
def test_many_random_models() -> None:
    _compare(range(1000, 3000))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pipeline"),
    [
        ("ppocr_cls", "assign-quant,insert-qdq"),
        ("magika", "assign-quant,insert-qdq"),
        ("magika", "quantize-dynamic"),
        ("magika", "quantize-weights"),
    ],
)
def test_real_models(name: str, pipeline: str) -> None:
    """What planish makes of trained models; ``scripts/lint`` does the same for other quantizers."""
    entry = get(name)
    if not entry.installed:
        pytest.skip(entry.install_command)
    model = read_model(entry.path())
    Pipeline(f"default,{pipeline}").run(model, Context(target=VNNI, observe=observer(entry.samples(1))))
    agreement = agree(lint(model, VNNI), observe(model))
    assert agreement.integer
    assert not agreement.false_integer
    assert not agreement.false_float
    assert agreement.pairs[0] == agreement.pairs[1]


def _compare(seeds: range) -> None:
    """Nothing predicted on integers runs in floats; at most 2 % the other way; refusals are foreseen."""
    judged = missed = 0
    for seed in seeds:
        model = random_quantized(seed)
        report = lint(model, AVX2)
        refused = any(f.rule == "signed-moved" for f in report.findings)
        try:
            agreement = agree(report, observe(model))
        except BackendError:
            assert refused, f"seed {seed}: the runtime refuses it"
            continue
        assert not refused, f"seed {seed}: the runtime takes it"
        assert not agreement.false_integer, f"seed {seed}"
        judged += agreement.integer + len(agreement.false_float)
        missed += len(agreement.false_float)
    assert missed <= max(1, 0.02 * judged)


# -- what is computed otherwise than written


def run(model: Model, level: str) -> np.ndarray[Any, Any]:
    shape = [int(d) for d in model.graph.inputs[0].shape or () if isinstance(d, int)]
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    return Session(model, SessionSettings(level, threads=1)).run({"x": x})[0]


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: gemm(bias=0.02), "bias-scale"),
        (lambda: gemm(axis=0, bias=None), "weight-axis"),
        (lambda: gemm(axis=1, transposed=1, bias=None), "weight-axis"),
        (lambda: conv(axis=1, bias=None), "weight-axis"),
        (lambda: matmul(axis=0, square=True), "weight-axis"),
        (lambda: matmul(axis=0, square=True, out=False), "weight-axis"),
    ],
)
def test_wrong_results_are_foreseen(make: Callable[[], Model], rule: str) -> None:
    model = make()
    _vary(model)
    findings = [f for f in lint(model, VNNI).findings if f.severity == "error"]
    assert [f.rule for f in findings] == [rule]
    assert not np.allclose(run(model, "disable"), run(model, "extended"), atol=0.05)


def _vary(model: Model) -> None:
    """Scales per channel that differ, so that a wrong axis shows."""
    for value in model.graph.constants:
        if value.data is not None and value.dtype is DType.F32 and value.data.count > 1:
            value.data = ArrayConstant(np.linspace(0.001, 0.05, value.data.count).astype(np.float32))


@pytest.mark.parametrize(
    "make", [gemm, lambda: gemm(axis=1), lambda: gemm(axis=0, transposed=1), conv, lambda: conv(axis=0)]
)
def test_right_results_are_not_complained_of(make: Callable[[], Model]) -> None:
    model = make()
    assert not [f for f in lint(model, VNNI).findings if f.severity == "error"]
    assert np.allclose(run(model, "disable"), run(model, "extended"), atol=0.12)


def test_signed_movement_is_refused_by_the_runtime() -> None:
    model = moved("Reshape", behind=None, dtype=np.int8, opset=21)
    assert "signed-moved" in lint(model, VNNI).rules()
    assert lint(model, VNNI).worst == "error"
    with pytest.raises(BackendError):
        observe(model)
    assert "signed-moved" not in lint(model, ARM).rules()
    assert "signed-moved" not in lint(moved("Reshape", dtype=np.int8, opset=21), VNNI).rules()


def test_float_nodes_without_a_kernel() -> None:
    b = Net(opset=17)
    b.output(b.Conv(b.input("x", DType.F64, (1, 2, 4, 4)), b.const(np.ones((2, 2, 1, 1)))), "y")
    model = b.model()
    finding = about(lint(model, AVX2), "Conv")
    assert (finding.rule, finding.severity) == ("no-kernel", "error")
    with pytest.raises(BackendError):
        observe(model)


def test_cuda_computes_narrow_weights_only() -> None:
    cuda = TARGETS["cuda"]
    assert about(lint(conv(), cuda), "Conv").runs is Runs.FLOAT
    assert about(lint(matmul(pair=False, out=False, axis=1), cuda), "MatMul").kernel == "MatMulNBits"


# -- saturation


@pytest.mark.parametrize(("most", "target", "warned"), [(127, AVX2, True), (64, AVX2, False), (127, VNNI, False)])
def test_saturation(most: int, target: Any, *, warned: bool) -> None:
    assert ("saturation" in lint(conv(most=most), target).rules()) is warned


def test_unsigned_weights_do_not_saturate() -> None:
    b = Net(opset=17)
    model = b.done(b.pair(b.MatMul(b.pair(b.x(4, 8)), b.stored(8, 16, dtype=np.uint8, most=255))))
    assert "saturation" not in lint(model, AVX2).rules()


def saturating(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> int:
    """A dot product as ``vpmaddubsw`` and ``vpmaddwd`` compute it: pairs are added in 16 bits that saturate."""
    products = a.astype(np.int32) * b.astype(np.int32)
    return int(np.clip(products[0::2] + products[1::2], -(2**15), 2**15 - 1).sum())


def test_bound_of_saturation_is_sharp() -> None:
    a = np.full(8, 255, np.uint8)
    fits, exceeds = np.full(8, 64, np.int8), np.full(8, 65, np.int8)
    assert saturating(a, fits) == 8 * 255 * 64
    assert saturating(a, exceeds) < 8 * 255 * 65
