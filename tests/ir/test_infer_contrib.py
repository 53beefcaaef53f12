"""Rules of ONNX Runtime's own operators against what it computes; broken nodes end in a message, never otherwise."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import numpy as np
import pytest

from planish.ir.builder import Builder
from planish.ir.constants import ArrayConstant
from planish.ir.dims import evaluate, symbol
from planish.ir.dtypes import DType, from_numpy
from planish.ir.graph import Model
from planish.ir.infer import infer_model
from planish.ir.infer.families import CONTENTS, CONTROLS, ROWS
from planish.ir.onnx_reader import read_model
from planish.ir.onnx_writer import model_to_proto
from planish.ir.schema import schema
from planish.ir.types import TensorType

MS = "com.microsoft"


def f32(*shape: int) -> np.ndarray[Any, Any]:
    return np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)


def u8(*shape: int) -> np.ndarray[Any, Any]:
    return np.arange(int(np.prod(shape)), dtype=np.uint8).reshape(shape)


def i32(*items: int) -> np.ndarray[Any, Any]:
    return np.array(items, np.int32)


S, Z = np.float32(0.1), np.uint8(3)
SZ = (S.reshape(1), Z.reshape(1))
CASES: list[tuple[str, list[Any], dict[str, Any], int]] = [
    ("FusedConv", [f32(2, 3, 8, 7), f32(4, 3, 3, 3)], {"activation": "Relu", "strides": (2, 1)}, 1),
    ("FusedGemm", [f32(4, 3), f32(4, 5)], {"transA": 1, "activation": "Relu"}, 1),
    ("FusedMatMul", [f32(2, 3, 4), f32(2, 3, 5)], {"transA": 1, "alpha": 2.0}, 1),
    ("FusedMatMul", [f32(3, 4), f32(2, 5, 4)], {"transB": 1}, 1),
    ("Gelu", [f32(2, 3)], {}, 1),
    ("BiasGelu", [f32(2, 3), f32(3)], {}, 1),
    ("FastGelu", [f32(2, 3), f32(3)], {}, 1),
    ("QuickGelu", [f32(2, 3)], {}, 1),
    ("SkipLayerNormalization", [f32(2, 3, 4), f32(2, 3, 4), f32(4), f32(4)], {}, 4),
    ("SkipSimplifiedLayerNormalization", [f32(2, 3, 4), f32(2, 3, 4), f32(4)], {}, 4),
    ("EmbedLayerNormalization", [i32(1, 2, 3).reshape(1, 3), None, f32(9, 4), f32(5, 4), None, f32(4), f32(4)], {}, 2),
    ("Attention", [f32(2, 3, 8), f32(8, 24), f32(24)], {"num_heads": 2}, 1),
    ("MultiHeadAttention", [f32(2, 3, 8), f32(2, 5, 8), f32(2, 5, 6)], {"num_heads": 2}, 1),
    ("RotaryEmbedding", [f32(2, 3, 8), np.array([0]), f32(9, 4), f32(9, 4)], {}, 1),
    ("MatMulNBits", [f32(2, 32), u8(6, 1, 16), f32(6)], {"K": 32, "N": 6, "bits": 4, "block_size": 32}, 1),
    ("DynamicQuantizeMatMul", [f32(2, 3, 4), u8(4, 5), S.reshape(1)], {}, 1),
    ("MatMulIntegerToFloat", [u8(3, 4), u8(4, 5), S, S], {}, 1),
    ("QLinearAdd", [u8(2, 1, 4), S, Z, u8(3, 1), S, Z, S, Z], {}, 1),
    ("QLinearMul", [u8(2, 4), S, Z, u8(4), S, Z, S, Z], {}, 1),
    ("QLinearSigmoid", [u8(2, 4), S, Z, S, Z], {}, 1),
    ("QLinearLeakyRelu", [u8(2, 4), S, Z, S, Z], {}, 1),
    ("QLinearSoftmax", [u8(2, 4), S, Z, S, Z], {"opset": 13}, 1),
    ("QLinearConcat", [S, Z, u8(2, 3), S, Z, u8(2, 4), S, Z], {"axis": 1}, 1),
    ("QLinearWhere", [np.array([True, False]), u8(3, 2), S, Z, u8(1), S, Z, S, Z], {}, 1),
    ("QLinearAveragePool", [u8(1, 2, 6, 6), S, Z, S, Z], {"kernel_shape": (3, 3), "strides": (2, 2)}, 1),
    ("QLinearAveragePool", [u8(1, 6, 6, 2), S, Z, S, Z], {"kernel_shape": (3, 3), "channels_last": 1}, 1),
    ("QLinearGlobalAveragePool", [u8(1, 6, 5, 2), S, Z, S, Z], {"channels_last": 1}, 1),
    ("QLinearConv", [u8(1, 6, 6, 2), S, Z, u8(4, 2, 3, 3), S, Z, S, Z], {"channels_last": 1}, 1),
    ("NhwcMaxPool", [u8(1, 6, 5, 2)], {"kernel_shape": (2, 2), "ceil_mode": 1, "strides": (2, 2)}, 1),
    ("QGemm", [u8(3, 4), S, Z, u8(5, 4), S, Z, None, S, Z], {"transB": 1}, 1),
    ("QGemm", [u8(3, 4), S, Z, u8(4, 5), S, Z], {}, 1),
    ("QAttention", [u8(2, 3, 8), u8(8, 24), f32(24), S, S, None, Z, Z], {"num_heads": 2}, 1),
    ("DynamicQuantizeLSTM", [f32(5, 2, 4), u8(1, 4, 12), u8(1, 3, 12), *[None] * 5, *SZ, *SZ], {"hidden_size": 3}, 3),
    ("QuantizeLinear", [f32(2, 3), S, Z], {}, 1),
    ("DequantizeLinear", [u8(2, 3), S, Z], {}, 1),
    ("ExpandDims", [f32(2, 3), np.int32(-1)], {}, 1),
    ("TransposeMatMul", [f32(4, 3), f32(4, 5)], {"transA": 1}, 1),
    ("Inverse", [np.eye(3, dtype=np.float32)], {}, 1),
    ("Trilu", [f32(3, 3)], {}, 1),
    ("Pad", [f32(2, 3), np.array([0, 1, 1, 2])], {}, 1),
    ("GatherND", [f32(2, 3), np.array([[0], [1]])], {}, 1),
    ("CDist", [f32(2, 3), f32(4, 3)], {}, 1),
    ("SimplifiedLayerNormalization", [f32(2, 3, 4), f32(4)], {}, 1),
]  # fmt: skip


WEIGHTS = ("QLinearConv", "QAttention", "EmbedLayerNormalization")
"""Operators of which ONNX Runtime wants all but the first operand constant, or of known size."""


@pytest.mark.parametrize(
    ("op", "operands", "attrs", "outputs"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)]
)
@pytest.mark.parametrize("symbolic", [False, True])
def test_against_onnxruntime(op: str, operands: list[Any], attrs: dict[str, Any], outputs: int, symbolic: bool) -> None:
    import onnxruntime

    b = Builder(opsets={"": 17, MS: 1})
    made: list[Any] = []
    sizes: dict[str, int] = {}
    feeds: dict[str, Any] = {}
    for i, item in enumerate(operands):
        if item is None or np.ndim(item) <= 1 or item.dtype == np.int64 or (i and op in WEIGHTS):
            made.append(item if item is None else b.const(item))  # kernels want these constant
            continue
        shape = tuple(symbol(f"s{d}") if symbolic and d > 1 else d for d in item.shape)
        sizes |= {f"s{d}": d for d in item.shape}
        made.append(b.input(f"x{i}", TensorType(from_numpy(item.dtype), shape)))
        feeds[f"x{i}"] = item
    domain = "" if op == "SimplifiedLayerNormalization" else MS
    found = b.op(op, *made, _domain=domain, _outputs=outputs, **attrs)
    found = found if isinstance(found, list) else [found]
    if op.startswith("Skip") and outputs == 4:
        found = [found[0], found[3]]  # the CPU kernel does not fill the statistics
    for i, value in enumerate(found):
        b.output(value, f"y{i}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model_to_proto(b.model(ir_version=8)).SerializeToString(), options)
    results: list[Any] = session.run(None, feeds)  # type: ignore[assignment]
    for value, actual in zip(found, results, strict=True):
        assert value.dtype is from_numpy(actual.dtype)
        if op == "CDist":
            continue  # element type only
        assert value.shape is not None
        known = [evaluate(d, sizes) for d in value.shape]
        assert [k if k is not None else a for k, a in zip(known, actual.shape, strict=True)] == list(actual.shape)
        assert symbolic or None not in known


def test_every_rule_has_an_operator() -> None:
    """A misspelled name would never be found out otherwise."""
    versions = (28, 21, 12, 9, 1)
    for domain, op in [*ROWS, *CONTROLS, *CONTENTS]:
        assert any(schema(domain, op, v) is not None for v in versions), f"{domain}::{op}"


# -- broken nodes

ATTRS: list[Any] = [0, -1, 7, 10**12, -(2**63), 1.5, "x", b"\xff", (), (1,), (0, 0, 0), (1.5,), ("a",), (-1, -1, 5)]
DATA = [
    np.array([], np.int64),
    np.array([-1]),
    np.array([0, 0]),
    np.int64(2**62),
    np.array([1, np.nan], np.float32),
    np.array([[1, 2], [3, 4]]),
    np.zeros((0, 3), np.float32),
    np.bool_(True),
]
TYPES = [
    None,
    TensorType(None),
    TensorType(DType.F32),
    TensorType(DType.I64, ()),
    TensorType(DType.F32, (0,)),
    TensorType(DType.F32, (symbol("a"), None, 3)),
    TensorType(DType.STRING, (2, 2)),
    TensorType(DType.F32, (3,) * 9),
]


@cache
def node_cases() -> list[Any]:
    from onnx.backend.test.case.node import collect_testcases

    return collect_testcases(None)


def damage(model: Model, draw: random.Random) -> None:
    nodes = list(model.all_nodes())
    for _ in range(draw.randint(1, 3) if nodes else 0):
        node = draw.choice(nodes)
        kind = draw.randrange(7)
        if kind == 0:
            node.set_inputs(node.inputs[:-1])
        elif kind == 1 and node.inputs:
            node.set_input(draw.randrange(len(node.inputs)), None)
        elif kind == 2 and node.attrs:
            node.attrs[draw.choice(list(node.attrs))] = draw.choice(ATTRS)
        elif kind == 3 and node.attrs:
            node.attrs.pop(draw.choice(list(node.attrs)))
        elif kind == 4 and model.graph.inputs:
            draw.choice(model.graph.inputs).type = draw.choice(TYPES)
        elif kind == 5 and node.inputs:
            constant = model.graph.add_constant(ArrayConstant(draw.choice(DATA)), "c")
            node.set_input(draw.randrange(len(node.inputs)), constant)
        elif kind == 6:
            node.add_output("extra")


@pytest.mark.parametrize("seed", range(4))
def test_damaged_models_give_diagnostics(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(300):
        case = draw.choice(node_cases())
        model = read_model(case.model, infer=False)
        damage(model, draw)
        for error in infer_model(model):
            assert error.help, case.name
