"""Operators that fuse others: small models of each, for the table test of schemas, types, costs and decompositions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from planish.ir.builder import Builder
from planish.ir.dims import symbol
from planish.ir.dtypes import from_numpy
from planish.ir.graph import Model
from planish.ir.types import TensorType

MS = "com.microsoft"
Array = np.ndarray[Any, Any]


@dataclass
class W:
    """A constant operand."""

    array: Array


@dataclass
class Case:
    """One operator on given operands: arrays become inputs, ``W`` constants, ``None`` is absent."""

    op: str
    operands: list[Any]
    attrs: dict[str, Any] = field(default_factory=dict[str, Any])
    outputs: int = 1
    domain: str = MS
    opset: int = 21
    compared: tuple[int, ...] | None = None
    """Which results (all of them where nothing is said)."""
    steps: float = 0.0
    """How far quantized results may be apart, in steps; floats are compared within rounding."""
    loose: float = 1.0
    """Factor on the tolerance of floats: kernels with approximations of their own."""
    want: Any = None
    """Results by the formula, in numpy, where there is no CPU kernel."""
    note: str = ""

    @property
    def key(self) -> str:
        return f"{self.domain}::{self.op}" if self.domain else self.op

    def __str__(self) -> str:
        return f"{self.op}{'-' + self.note if self.note else ''}"

    def model(self, *, symbolic: bool = False) -> Model:
        b = Builder(opsets={"": self.opset, MS: 1})
        made: list[Any] = []
        for i, item in enumerate(self.operands):
            if item is None or isinstance(item, W):
                made.append(None if item is None else b.const(item.array))
                continue
            shape = tuple(symbol(f"s{d}") if symbolic and d > 1 else d for d in item.shape)
            made.append(b.input(f"x{i}", TensorType(from_numpy(item.dtype), shape)))
        found = b.op(self.op, *made, _domain=self.domain, _outputs=self.outputs, **self.attrs)
        found = found if isinstance(found, list) else [found]
        for i in self.compared if self.compared is not None else range(self.outputs):
            b.output(found[i], f"y{i}")
        return b.model()

    def feeds(self) -> dict[str, Array]:
        return {f"x{i}": x for i, x in enumerate(self.operands) if isinstance(x, np.ndarray)}


_draw = np.random.default_rng(11)


def f(*shape: int, scale: float = 1.0) -> Array:
    return (_draw.standard_normal(shape) * scale).astype(np.float32)


def u(*shape: int, high: int = 256) -> Array:
    return _draw.integers(0, high, shape).astype(np.uint8)


def i32(*items: int) -> Array:
    return np.array(items, np.int32)


def c(x: Any) -> W:
    return W(np.asarray(x))


def wf(*shape: int, scale: float = 1.0) -> W:
    return W(f(*shape, scale=scale))


S, Z = c(np.float32(0.05)), c(np.uint8(120))
S1, Z1 = W(np.array([0.05], np.float32)), W(np.array([120], np.uint8))
TABLE = (wf(16, 4), wf(16, 4))


def _activations() -> list[Case]:
    x = f(2, 3, 8)
    return [
        Case("Gelu", [x]),
        Case("BiasGelu", [x, wf(8)]),
        Case("FastGelu", [x, wf(8)], loose=4),
        Case("FastGelu", [x], loose=4, note="no bias"),
        Case("QuickGelu", [x], {"alpha": 1.5}),
        Case("ScaledSiLU", [x], {"alpha": 0.7}),
        Case("ScaledSiLU", [x, c(np.float32(1.3))], note="scale"),
        Case("GatedAdd", [x, f(2, 3, 8), f(2, 3, 1)]),
    ]


def _products() -> list[Case]:
    image, kernel = f(1, 3, 7, 6), wf(4, 3, 3, 3, scale=0.3)
    found = [
        Case("FusedMatMul", [f(2, 4, 3), f(2, 4, 5)], {"transA": 1, "alpha": 0.5}),
        Case("FusedMatMul", [f(2, 3, 4), f(5, 4)], {"transB": 1}, note="transB"),
        Case("TransposeMatMul", [f(4, 3), f(4, 5)], {"transA": 1}),
        Case("FusedGemm", [f(4, 3), wf(4, 5), wf(5)], {"transA": 1, "activation": "Relu"}),
        Case("FusedConv", [image, kernel, wf(4), f(1, 4, 5, 4)], {"activation": "Relu"}, note="residual"),
    ]
    for name, params in {
        "Sigmoid": (), "Tanh": (), "LeakyRelu": (0.2,), "Clip": (-0.5, 0.5), "HardSigmoid": (0.2, 0.5), "HardSwish": (),
    }.items():  # fmt: skip
        attrs: dict[str, Any] = {"activation": name} | ({"activation_params": params} if params else {})
        found.append(Case("FusedConv", [image, kernel, wf(4)], attrs, note=name))
    return found


def _norms() -> list[Case]:
    x, scale = f(2, 3, 8), wf(8)
    return [
        Case("SkipLayerNormalization", [x, f(2, 3, 8), scale, wf(8), wf(8)], {}, 4, compared=(0, 3)),
        Case("SkipSimplifiedLayerNormalization", [x, f(2, 3, 8), scale, wf(8)], {}, 4, compared=(0, 3)),
        Case("SkipSimplifiedLayerNormalization", [x, f(2, 3, 8), scale], {}, opset=23, note="opset 23"),
        Case("SimplifiedLayerNormalization", [x, scale], domain="", opset=17),
        Case("GatedRMSNorm", [x, scale, f(2, 3, 8)]),
        Case("GatedRMSNorm", [x, wf(4), f(2, 3, 8)], {"activation": "sigmoid"}, note="two rows"),
        Case("BranchwiseRMSNorm", [f(2, 3, 2, 8), wf(2, 8)]),
        Case("BranchwiseRMSNorm", [f(2, 3, 16), wf(16)], {"num_branches": 2}, note="flat"),
        Case("BranchwiseRMSNorm", [f(2, 3, 16), scale], {"num_branches": 2}, note="shared scale"),
        Case(
            "EmbedLayerNormalization",
            [i32(1, 2, 3, 4).reshape(2, 2), i32(0, 1, 1, 0).reshape(2, 2), wf(9, 8), wf(5, 8), wf(3, 8), wf(8), wf(8)],
            {"epsilon": 1e-6},
            2,
            compared=(0,),
        ),
        Case("LinearAttentionGate", [f(2, 3, 4), wf(4), wf(4), f(2, 3, 4)], {}, 2),
        Case("HyperConnectionPreMix", [f(2, 3, 4, 8), f(2, 3, 4)], {"reduction_scale": 0.5}),
        Case("HyperConnectionPreMix", [f(2, 3, 32), f(2, 3, 32)], {"num_branches": 4}, note="flat"),
        Case("HyperConnectionPostMix", [f(2, 3, 4, 8), f(2, 3, 8), f(2, 3, 4), f(2, 3, 4, 4)]),
        Case("HyperConnectionPostMix", [f(2, 3, 4, 8), f(2, 3, 8), f(2, 3, 4, 8)], note="identity"),
        Case("EngramGate", [f(2, 3, 4, 8), f(2, 3, 4, 8), f(2, 3, 8), wf(4, 8), wf(4, 8), wf(4, 8)], {}, 2),
    ]


def _attention() -> list[Case]:
    mask = i32(1, 1, 0, 1, 1, 1).reshape(2, 3)
    return [
        Case("Attention", [f(2, 3, 8), wf(8, 24), wf(24), mask], {"num_heads": 2}),
        Case("MultiHeadAttention", [f(2, 3, 8), f(2, 5, 8), f(2, 5, 8), wf(24)], {"num_heads": 2}),
        Case("Attention", [f(2, 3, 8), wf(8, 24), wf(24)], {"num_heads": 2, "unidirectional": 1}, note="causal"),
        Case("Attention", [f(2, 3, 8), wf(8, 24), wf(24), mask], {"num_heads": 2, "unidirectional": 1}, note="both"),
        Case(
            "MultiHeadAttention",
            [f(2, 3, 8), f(2, 3, 8), f(2, 3, 8), wf(24), None, None, f(2, 2, 4, 4), f(2, 2, 4, 4)],
            {"num_heads": 2, "unidirectional": 1},
            3,
            note="causal, behind a cache",
        ),
        Case("RotaryEmbedding", [f(2, 3, 16), np.array([[0, 1, 2], [3, 4, 5]]), *TABLE]),
        Case(
            "MRotaryEmbedding",
            [f(2, 3, 16), _draw.integers(0, 9, (3, 2, 3)), *TABLE],
            {"mrope_section": (2, 1, 1), "num_heads": 2},
        ),
        Case(
            "MRotaryEmbedding",
            [f(2, 2, 3, 8), _draw.integers(0, 9, (3, 2, 3)), *TABLE],
            {"mrope_section": (2, 1, 1), "mrope_layout": 1, "interleaved": 1},
            note="interleaved",
        ),
        Case("CausalConvWithState", [f(2, 4, 5), wf(4, 1, 3), wf(4), f(2, 4, 2)], {"activation": "silu"}, 2),
        Case("CausalConvWithState", [f(2, 4, 5), wf(4, 1, 3)], {"dilation": 2}, 2, note="dilated"),
    ]


def _grouped() -> list[Case]:
    """GroupQueryAttention: a prompt, and steps behind a cache."""

    def prompt(note: str, extra: dict[int, Any] | None = None, **attrs: Any) -> Case:
        operands: list[Any] = [
            f(2, 3, 64),
            f(2, 3, 32),
            f(2, 3, 32),
            None,
            None,
            W(i32(2, 2)),
            c(np.int32(3)),
        ]
        return _case(note, operands, extra, attrs)

    def step(note: str, extra: dict[int, Any] | None = None, seen: tuple[int, int] = (5, 3), **attrs: Any) -> Case:
        operands: list[Any] = [f(2, 1, 64), f(2, 1, 32), f(2, 1, 32), f(2, 2, 5, 16), f(2, 2, 5, 16)]
        return _case(note, [*operands, W(i32(*seen)), c(np.int32(6))], extra, attrs)

    def _case(note: str, operands: list[Any], extra: dict[int, Any] | None, attrs: dict[str, Any]) -> Case:
        for i, item in (extra or {}).items():
            operands += [None] * (i + 1 - len(operands))
            operands[i] = item
        past = operands[3] is not None
        whole = not past or "ragged" not in note
        attrs = {"num_heads": 4, "kv_num_heads": 2} | attrs
        outputs = 3
        compared = (0, 1, 2) if whole else (0,)
        return Case("GroupQueryAttention", operands, attrs, outputs, compared=compared, note=note)

    rotary = {7: wf(16, 8), 8: wf(16, 8)}
    packed = prompt("packed")
    packed.operands[:3] = [f(2, 3, 128), None, None]
    return [
        prompt("prompt"),
        packed,
        prompt("rotary", rotary, do_rotary=1),
        prompt("window", local_window_size=2, softcap=2.0, scale=0.5),
        prompt("sink", {11: wf(4)}),
        prompt("smooth", smooth_softmax=1),
        prompt("bias", {10: f(1, 4, 3, 3)}),
        step("step, even", seen=(5, 5)),
        step("step, ragged", rotary, do_rotary=1, rotary_interleaved=1),
    ]


def _quantized() -> list[Case]:
    x = u(2, 4, 6, 6)
    pair = [u(2, 3, 4), S, Z, u(3, 4), c(np.float32(0.04)), Z, c(np.float32(0.1)), Z]
    unary = [x, S, Z, c(np.float32(0.01)), c(np.uint8(2))]
    half = c(np.float32(0.5) / 64)
    found = [Case(op, pair, steps=1) for op in ("QLinearAdd", "QLinearMul")]
    found += [
        Case("QLinearSigmoid", unary, steps=1),
        Case("QLinearLeakyRelu", [x, S, Z, S, Z], {"alpha": 0.1}, steps=1),
        Case("QLinearSoftmax", unary, {"axis": -1, "opset": 13}, steps=1),
        Case("QLinearAveragePool", [x, S, Z, S, Z], {"kernel_shape": (3, 3), "channels_last": 1}, steps=1),
        Case("QLinearAveragePool", [x, S, Z, S, Z], {"kernel_shape": (2, 2)}, steps=1, note="channels first"),
        Case("QLinearGlobalAveragePool", [x, S, Z, S, Z], {"channels_last": 1}, steps=1),
        Case("QLinearConcat", [S, Z, u(2, 3), S, Z, u(2, 4), c(np.float32(0.07)), Z], {"axis": 1}, steps=1),
        Case("QLinearWhere", [np.array([[True], [False]]), u(2, 3), S, Z, u(3), half, Z, S, Z], steps=1),
        Case("QLinearConv", [u(1, 6, 6, 2), S, Z, W(u(4, 2, 3, 3)), half, Z, S, Z], {"channels_last": 1}, steps=1),
        Case("NhwcMaxPool", [u(1, 6, 5, 2)], {"kernel_shape": (2, 2), "strides": (2, 2)}),
        Case("QGemm", [u(3, 4), S, Z, W(u(5, 4)), half, Z, W(i32(5, -9, 100, 7, 0))], {"transB": 1}),
        Case("QGemm", [u(3, 4), S, Z, W(u(4, 5)), half, Z, None, S, Z], steps=1, note="quantized"),
        Case("MatMulIntegerToFloat", [u(3, 4), W(u(4, 5)), S, half, Z, Z, wf(5)]),
        Case("MatMulInteger16", [_draw.integers(-999, 999, (2, 3)).astype(np.int16), W(np.ones((3, 2), np.int16))]),
        Case("DynamicQuantizeMatMul", [f(2, 3, 4), W(u(4, 5)), S1, Z1, wf(5)]),
        Case("QuantizeLinear", [f(2, 3), S, Z], steps=0),
        Case("DequantizeLinear", [u(2, 3), S, Z]),
        Case(
            "QuantizeLinear",
            [f(2, 3), W(np.array([0.1, 0.2], np.float32)), W(np.array([1, 2], np.int8))],
            {"axis": 0},
            note="axis",
        ),
        Case("QAttention", [u(2, 3, 8), W(u(8, 24)), wf(24), S, half, None, Z, Z], {"num_heads": 2}, loose=8),
    ]
    table: list[Any] = [W(u(9, 8)), W(u(5, 8)), W(u(3, 8)), W(u(8)), W(u(8))]
    ids = [i32(1, 2, 3, 4).reshape(2, 2), i32(0, 1, 1, 0).reshape(2, 2)]
    scales: list[Any] = [S, half, S, half, S, Z, Z, Z, Z, Z]
    found.append(Case("QEmbedLayerNormalization", [*ids, *table, None, *scales], {}, 2, compared=(0,), loose=8))
    for bits in (2, 4, 8):
        blob = W(u(6, 2, 32 * bits // 8))
        zeros = W(u(6, -(-2 * bits // 8)))
        attrs = {"K": 64, "N": 6, "bits": bits, "block_size": 32}
        found.append(Case("MatMulNBits", [f(2, 64), blob, wf(6, 2, scale=0.1), zeros], attrs, note=f"{bits} bits"))
    attrs = {"K": 40, "N": 6, "bits": 4, "block_size": 32}
    operands = [f(2, 40), W(u(6, 2, 16)), wf(6, 2, scale=0.1), None, None, wf(6)]
    found.append(Case("MatMulNBits", operands, attrs, note="partial block"))
    for kind in (0, 1):
        attrs = {"K": 32, "N": 6, "block_size": 16, "quant_type": kind}
        found.append(Case("MatMulBnb4", [f(2, 32), W(u(96)), wf(12)], attrs, note=f"format {kind}"))
    for bits in (2, 4, 8):
        blocks, by_block = W(u(9, 32 * bits // 8)), wf(9, 2, scale=0.1)
        zeros = W(u(9, 2 * bits // 8 or 1))
        attrs = {"bits": bits, "block_size": 16}
        ids = _draw.integers(0, 9, (2, 3))
        found.append(Case("GatherBlockQuantized", [blocks, ids, by_block, zeros], attrs, note=f"{bits} bits"))
        found.append(Case("GatherBlockQuantized", [blocks, ids, by_block], attrs, note=f"{bits} bits, symmetric"))
    return found


def _twins() -> list[Case]:
    grid = f(1, 4, 5, 2, scale=0.4)
    return [
        Case("Trilu", [f(3, 4)], {"upper": 0}),
        Case("GatherND", [f(2, 3), np.array([[0], [1]])]),
        Case("Range", [c(np.float32(1)), c(np.float32(4)), c(np.float32(0.5))]),
        Case("Pad", [f(2, 3), W(np.array([0, 1, 1, 2]))], {"mode": "reflect"}),
        Case("GridSample", [f(1, 2, 6, 6), grid], {"padding_mode": "border"}, loose=4),
        Case("ExpandDims", [f(2, 3), c(np.int32(-1))]),
        Case("CDist", [f(3, 4), f(5, 4)], loose=16),
        Case("CDist", [f(3, 4), f(5, 4)], {"metric": "euclidean"}, loose=16, note="euclidean"),
        Case("ConvTransposeWithDynamicPads", [f(1, 3, 4, 4), wf(3, 2, 3, 3), W(np.array([1, 1, 1, 1]))]),
        Case("Affine", [f(2, 3)], {"alpha": 0.5, "beta": 2.0}, domain="", opset=9),
        Case("ImageScaler", [f(1, 3, 2, 2)], {"bias": (1.0, 2.0, 3.0), "scale": 0.5}, domain="", opset=9),
        Case("ScaledTanh", [f(2, 3)], {"alpha": 0.5, "beta": 2.0}, domain="", opset=9),
        Case("ParametricSoftplus", [f(2, 3)], {"alpha": 0.5, "beta": 2.0}, domain="", opset=9, loose=4),
    ]


def _experts() -> list[Case]:
    """Four experts, of which two are chosen."""
    x, router = f(2, 3, 8), f(6, 4)
    weights = [wf(4, 16, 8), wf(4, 16), wf(4, 8, 16), wf(4, 8)]
    return [
        Case("MoE", [x, router, *weights], {"k": 2, "activation_type": "gelu"}, loose=16),
        Case("MoE", [f(6, 8), router, *weights], {"k": 2, "normalize_routing_weights": 1}, loose=16, note="normalized"),
        Case("MoE", [x, router, *weights], {"k": 1, "activation_type": "silu"}, loose=16, note="one"),
    ]


def _standard() -> list[Case]:
    x, scale = f(2, 4, 8), wf(8)
    q, k, v = f(2, 2, 3, 4), f(2, 2, 5, 4), f(2, 2, 5, 4)
    packed = {"q_num_heads": 2, "kv_num_heads": 1}
    found = [
        Case("Gelu", [x], opset=20),
        Case("Gelu", [x], {"approximate": "tanh"}, opset=20, note="tanh"),
        Case("LayerNormalization", [x, scale, wf(8)], opset=17),
        Case("GroupNormalization", [x, wf(4), wf(4)], {"num_groups": 2}, opset=21),
        Case("GroupNormalization", [x, wf(2), wf(2)], {"num_groups": 2}, opset=18, note="opset 18"),
        Case("RMSNormalization", [x, scale], opset=23),
        Case("Swish", [x], {"alpha": 1.5}, opset=24),
        Case("HardSwish", [x], opset=14),
        Case("Mish", [x], opset=18),
        Case("Attention", [q, k, v], {"scale": 0.3}, opset=23),
        Case("Attention", [q, k, v, f(3, 5)], {"softcap": 2.0}, opset=23, note="mask"),
        Case("Attention", [q, q, q], {"is_causal": 1}, opset=24, note="causal"),
        Case("Attention", [f(2, 3, 8), f(2, 3, 4), f(2, 3, 4)], packed, opset=23, note="grouped"),
        Case("RotaryEmbedding", [f(2, 2, 3, 8), wf(16, 4), wf(16, 4), np.array([[0, 1, 2], [3, 4, 5]])], opset=23),
    ]
    for case in found:
        case.domain = ""
    return found


def _gelu(x: Array) -> Array:
    from math import erf

    return 0.5 * x * (1 + np.vectorize(erf)(x / np.sqrt(2)))


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _group_norm(x: Array, scale: Array, bias: Array, groups: int) -> Array:
    n, *space, channels = x.shape
    rows = x.reshape(n, -1, groups, channels // groups)
    mean = rows.mean((1, 3), keepdims=True)
    normal = (rows - mean) / np.sqrt(rows.var((1, 3), keepdims=True) + 1e-5)
    y = normal.reshape(n, *space, channels) * scale + bias
    return y * _sigmoid(y)


def _softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def _no_cpu_kernel() -> list[Case]:
    """With the schema's formula in numpy."""
    x, b, skip = f(2, 3, 8), f(8), f(2, 3, 8)
    scores, bias = f(2, 4, 3, 5), f(2, 1, 1, 5)
    image, scale, shift = f(2, 3, 4, 8), f(8), f(8)
    emb, q = f(2, 3, 4), [f(2, 2, 3, 4) for _ in range(4)]
    left, right = np.split(x + b, 2, -1)
    total = image + skip.reshape(2, 3, 8)[:, :1, None] * 0 + f(2, 1, 1, 8) * 0
    sin, cos = np.sin(emb)[:, None], np.cos(emb)[:, None]
    w = f(8, 4)
    z = x @ w + 0.5
    fast = 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))
    norm = {"groups": 2, "activation": 1}
    query, weight, gate_bias, eco, rel = f(2, 3, 8), f(4, 8), f(8), f(1, 2, 1, 1), f(1, 2, 3, 3)
    rows = (query + b).reshape(2, 3, 2, 4).transpose(0, 2, 1, 3)
    gates = _sigmoid((rows @ weight + gate_bias).reshape(2, 2, 3, 2, 4).sum(-1))
    gated = (gates[..., :1] * (gates[..., 1:] * eco - 1) + 2) * rel
    conv = f(1, 6, 5, 3), f(4, 3, 3, 3)
    windows = np.lib.stride_tricks.sliding_window_view(conv[0], (3, 3), axis=(1, 2))
    return [
        Case("BiasAdd", [x, W(b), skip], want=[x + b + skip]),
        Case("BiasSplitGelu", [x, W(b)], want=[left * _gelu(right)]),
        Case("BiasSoftmax", [scores, bias], {"axis": 3, "is_inner_broadcast": 1}, want=[_softmax(scores + bias)]),
        Case("GroupNorm", [image, W(scale), W(shift)], norm, want=[_group_norm(image, scale, shift, 2)]),
        Case("SkipGroupNorm", [image, W(scale), W(shift), total, W(b)], norm, 2,
             want=[_group_norm(image + total + b, scale, shift, 2), image + total + b]),
        Case("NhwcConv", [conv[0], W(conv[1])], {}, want=[np.einsum("nhwcij,oijc->nhwo", windows, conv[1])]),
        Case("NhwcFusedConv", [conv[0], W(conv[1].transpose(0, 3, 1, 2).copy())], {"activation": "Relu"},
             want=[np.maximum(np.einsum("nhwcij,oijc->nhwo", windows, conv[1]), 0)]),
        Case("GemmaRotaryEmbedding", [emb, *q], {}, 2, want=[q[0] * cos + q[1] * sin, q[2] * cos + q[3] * sin]),
        Case("GemmFastGelu", [x, W(w), W(np.full(4, 0.5, np.float32))], want=[fast]),
        Case("GatedRelativePositionBias", [query, W(b), rel, W(weight), W(gate_bias), W(eco)], {"num_heads": 2},
             want=[gated]),
    ]  # fmt: skip


CASES = [
    *_activations(),
    *_products(),
    *_norms(),
    *_attention(),
    *_grouped(),
    *_quantized(),
    *_twins(),
    *_experts(),
    *_standard(),
    *_no_cpu_kernel(),
]
