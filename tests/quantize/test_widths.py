"""Static quantization to other widths than 8 bits, end to end: the runtime loads it, and its numbers are right.

No kernel of ONNX Runtime's multiplies 16-bit activations or 4-bit weights of pairs on processors: it computes such
products in floats, and the linter says so.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from planish.backends.ort.lint import lint
from planish.backends.ort.session import EXACT, Session, SessionSettings
from planish.driver.calibrate import observer
from planish.ir.builder import Builder
from planish.ir.dtypes import BY_TEXT, DType
from planish.ir.errors import BackendError
from planish.ir.graph import Model
from planish.passes.core import Context
from planish.passes.manager import Pipeline
from planish.passes.shared.quant.accumulate import Accumulator
from planish.passes.shared.quant.estimators import expected_error
from planish.passes.shared.quant.scheme import Scheme, make_quant, quant_from_range, rounded
from planish.passes.shared.quant.statistics import Kind, Want
from planish.passes.target import get_target

Array = np.ndarray[Any, Any]
TARGET = get_target("x86-64-v4-vnni")
SAMPLES = [{"x": np.random.default_rng(i).standard_normal((1, 8, 12, 12)).astype(np.float32)} for i in range(4)]


def network(opset: int) -> Model:
    """Two convolutions with biases and a maximum between them, then a matrix product too small to be worth it."""
    rng = np.random.default_rng(9)
    b = Builder(opset=opset)
    x = b.input("x", DType.F32, (1, 8, 12, 12))

    def weight(*shape: int) -> Array:
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    y = b.Relu(b.Conv(x, weight(16, 8, 3, 3), weight(16, 1)[:, 0], pads=(1, 1, 1, 1)))
    y = b.MaxPool(y, kernel_shape=(2, 2), strides=(2, 2))
    y = b.Conv(y, weight(16, 16, 3, 3), weight(16, 1)[:, 0], pads=(1, 1, 1, 1))
    b.output(b.MatMul(b.Reshape(y, np.array([1, -1])), weight(24, 576).T.copy()), "y")
    return b.model()


def quantized(opset: int, options: str) -> tuple[Model, list[str]]:
    model, notes = network(opset), list[str]()
    ctx = Context(target=TARGET, observe=observer(SAMPLES), sink=notes.append)
    Pipeline(f"assign-quant{{{options}}},insert-qdq").run(model, ctx)
    return model, notes


def error(model: Model, opset: int, settings: SessionSettings) -> float:
    """Root mean square, relative, on a sample whose values lie within the ranges: nothing is cut off."""
    expected, found = Session(network(opset)).run(SAMPLES[0])[0], Session(model, settings).run(SAMPLES[0])[0]
    return float(np.sqrt(np.square(found - expected).mean() / np.square(expected).mean()))


@cache
def of_eight_bits(opset: int) -> float:
    return error(quantized(opset, "")[0], opset, EXACT)


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize(
    ("activations", "weights", "least", "most"),
    [
        ("u16", "i8", 0.2, 0.95),
        ("i16", "i8", 0.2, 0.95),
        ("u16", "u8", 0.2, 0.95),
        ("u16", "i16", 0.0, 0.01),
        ("u8", "i4", 3.0, 30.0),
        ("u8", "u4", 3.0, 30.0),
        ("u16", "i4", 3.0, 30.0),
    ],
)
def test_other_widths_run_and_are_right(activations: str, weights: str, least: float, most: float, opset: int) -> None:
    """``least`` and ``most``: of the error, in units of that of 8 bits: 16 bits lose less, 4 bits more."""
    model, notes = quantized(opset, f"activations={activations},weights={weights},emulate=true")
    assert not [note for note in notes if "nothing is quantized" in note]
    storages = {v.dtype.text for v in model.graph.constants if v.dtype is not None}
    assert {activations, weights} <= storages
    found = error(model, opset, EXACT)
    assert least <= found / of_eight_bits(opset) <= most
    optimized = error(model, opset, SessionSettings("all", threads=1))
    assert optimized == pytest.approx(found, rel=0.02), "the runtime's own rewrites change what it means"
    runs = {f.op: f.runs.value for f in lint(model, TARGET).findings if f.op in ("Conv", "MatMul", "Gemm")}
    assert set(runs.values()) == {"float"}


@pytest.mark.parametrize(("kind", "least", "most"), [("f8e4m3fn", 1.0, 8.0), ("f8e5m2", 3.0, 16.0)])
def test_float8_beside_float8(kind: str, least: float, most: float) -> None:
    """Three and two bits of mantissa lose more than eight bits of which numbers of usual shape use seven."""
    model, notes = quantized(21, f"activations={kind},weights={kind},emulate=true")
    assert not [note for note in notes if "nothing is quantized" in note]
    casts = [
        n.output.dtype for n in model.graph if n.op == "Cast" and n.inputs[0] is not None and n.inputs[0].data is None
    ]
    assert casts == [BY_TEXT[kind], DType.F32] * 2, "the operands of both convolutions, and nothing behind them"
    assert {v.dtype.text for v in model.graph.constants if v.dtype is not None and v.rank == 4} == {kind, "f32"}
    lost = error(model, 21, EXACT)
    assert least <= lost / of_eight_bits(21) <= most
    assert error(model, 21, SessionSettings("all", threads=1)) == pytest.approx(lost, rel=0.02)


@pytest.mark.parametrize("kind", ["f8e4m3fn", "f8e5m2"])
def test_the_error_of_float8_is_foreseen(kind: str) -> None:
    x = np.random.default_rng(3).standard_normal(1 << 14).astype(np.float32)
    accumulator = Accumulator(Want("x", Kind.HISTOGRAM))
    accumulator.add(x)
    observed, scheme = accumulator.finish(), Scheme(BY_TEXT[kind], symmetric=True)
    for reach in (float(np.abs(x).max()), 1.5, 300.0):
        quant = make_quant(scheme, *quant_from_range(-reach, reach, scheme))
        measured = float(np.square(rounded(x, quant) - x).mean())
        assert float(expected_error(observed, -reach, reach, scheme)) == pytest.approx(measured, rel=0.1)


def test_float8_wants_float8_and_an_opset_that_has_it() -> None:
    for opset, options, because in (
        (21, "activations=f8e4m3fn,weights=i8,emulate=true", "float8 only"),
        (13, "activations=f8e4m3fn,emulate=true", "raise-opset{to=19}"),
        (21, "activations=f8e4m3fn", "emulate=true"),
        (13, "block=4,emulate=true", "raise-opset{to=21}"),
        (21, "block=4", "emulate=true"),
    ):
        model, notes = quantized(opset, options)
        assert str(model) == str(network(opset))
        assert any(because in note for note in notes), (options, notes)


def test_tensorrt_multiplies_float8() -> None:
    model = network(21)
    target = get_target("tensorrt")
    Pipeline("assign-quant{activations=f8e4m3fn},insert-qdq").run(
        model, Context(target=target, observe=observer(SAMPLES), sink=lambda _: None)
    )
    assert sum(node.op == "QuantizeLinear" for node in model.graph) == 2
    assert error(model, 21, EXACT) < 8 * of_eight_bits(21)
    with pytest.raises(BackendError, match="float8"):  # why pairs of float8 are written for TensorRT only
        Session(model, SessionSettings("all", threads=1))


@pytest.mark.parametrize("weights", ["i4", "u4", "i8"])
def test_weights_by_blocks_lose_less(weights: str) -> None:
    """A scale for eight inputs of each output; biases stay float."""
    errors = {
        block: error(quantized(21, f"weights={weights},block={block},emulate=true")[0], 21, EXACT)
        for block in (0, 4, 8)
    }
    model = quantized(21, f"weights={weights},block=8,emulate=true")[0]
    blocked = [node for node in model.graph if node.attr("block_size", 0) == 8]
    assert {node.output.shape for node in blocked} == {(16, 8, 3, 3), (16, 16, 3, 3)}
    if weights == "i8":  # what activations lose hides it
        assert errors[8] < 1.2 * errors[0]
    else:
        assert errors[4] < errors[8] < errors[0]


def test_types_without_a_kernel_are_declined_unless_asked_for() -> None:
    model, notes = quantized(21, "activations=u16,weights=i8")
    assert str(model) == str(network(21))
    assert any("no kernel for u16 activations" in note and "emulate=true" in note for note in notes)


def test_cuda_gets_no_pairs_and_a_clear_reason() -> None:
    """Its provider has no kernel that pairs become; weights may be stored narrow."""
    model, notes = network(21), list[str]()
    Pipeline("assign-quant,insert-qdq").run(
        model, Context(target=get_target("cuda"), observe=observer(SAMPLES), sink=notes.append)
    )
    assert str(model) == str(network(21))
    assert len(notes) == 1
    assert "ort-cuda has no integer kernels" in notes[0]
    assert "TensorRT" in notes[0]
    narrow = network(21)
    Pipeline("quantize-weights").run(narrow, Context(target=get_target("cuda")))
    assert "MatMulNBits" in {node.op for node in narrow.graph}


@pytest.mark.parametrize("opset", [13, 21])
def test_without_vnni_no_pair_of_products_leaves_16_bits(opset: int) -> None:
    """Kernels for x86-64 without VNNI add pairs of u8 x i8 products in 16 bits that saturate: the target's weights have
    7 bits, so that no pair of them can, whatever the activations."""
    model = network(opset)
    Pipeline("assign-quant,insert-qdq").run(
        model, Context(target=get_target("x86-64-v3"), observe=observer(SAMPLES), sink=lambda _: None)
    )
    weights = [v.numpy() for v in model.graph.constants if v.dtype is DType.I8 and v.rank and v.rank > 1]
    assert len(weights) == 2
    for weight in weights:
        assert -64 <= weight.min() <= weight.max() <= 64
        assert 2 * 255 * int(np.abs(weight.astype(int)).max()) < 1 << 15
    assert error(model, opset, EXACT) < 3 * of_eight_bits(opset)
    other = network(opset)  # full range, where weights are unsigned: there is a kernel that does not saturate
    Pipeline("assign-quant{weights=u8},insert-qdq").run(
        other, Context(target=get_target("x86-64-v3"), observe=observer(SAMPLES), sink=lambda _: None)
    )
    assert max(int(v.numpy().max()) for v in other.graph.constants if v.dtype is DType.U8 and v.rank) > 250
    assert error(other, opset, EXACT) < 1.5 * of_eight_bits(opset)
