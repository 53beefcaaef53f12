"""Llama-style decoders (Touvron et al., 2023) with a key-value cache, as Optimum exports them.

RMS normalization, rotary positions (Su et al., 2021), grouped-query attention (Ainslie et al., EMNLP
2023) and a SwiGLU perceptron (Shazeer, 2020).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..ir.builder import DEFAULT_OPSET, Builder
from ..ir.dims import symbol
from ..ir.dtypes import DType
from ..ir.graph import Model, Value
from .layers import additive_mask, attend, extent, linear, merge_heads, rms_norm, shape_vector, silu, split_heads, view
from .weights import SeededWeights, Weights


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes; the defaults are small enough to run anywhere (about 8 million weights)."""

    vocabulary: int = 4096
    hidden: int = 256
    layers: int = 4
    heads: int = 8
    kv_heads: int = 2
    """Key and value heads; each serves ``heads / kv_heads`` query heads."""
    intermediate: int = 704
    rope_theta: float = 10_000.0
    """Base of the rotary wavelengths."""
    epsilon: float = 1e-5

    @property
    def head(self) -> int:
        """Channels of a head."""
        return self.hidden // self.heads


LLAMA_3_8B = LlamaConfig(
    vocabulary=128_256, hidden=4096, layers=32, heads=32, kv_heads=8, intermediate=14_336, rope_theta=500_000.0
)
"""Sizes of Llama 3 8B: 30 GB of seeded weights, none of which exist until used."""


def llama(
    config: LlamaConfig = LlamaConfig(),
    *,
    batch: int | str = "N",
    length: int | str = "S",
    past: int | str = "P",
    weights: Weights | None = None,
    opset: int = DEFAULT_OPSET,
) -> Model:
    """A decoder step over ``length`` new tokens behind ``past`` cached ones.

    Inputs: ``input_ids`` and ``position_ids`` int64 [batch, length]; ``attention_mask`` int64 [batch, past +
    length], 1 where a token counts; for every layer i ``past_key_values.i.key`` and ``.value`` float32
    [batch, kv_heads, past, head]. Outputs: ``logits`` float32 [batch, length, vocabulary], and
    ``present.i.key`` and ``.value`` [batch, kv_heads, past + length, head].
    """
    b, w = Builder(opset=opset), weights or SeededWeights()
    total = (symbol(past) if isinstance(past, str) else past) + (symbol(length) if isinstance(length, str) else length)
    ids = b.input("input_ids", DType.I64, (batch, length))
    keep = b.input("attention_mask", DType.I64, (batch, total))
    positions = b.input("position_ids", DType.I64, (batch, length))
    cache = [
        tuple(
            b.input(f"past_key_values.{i}.{part}", DType.F32, (batch, config.kv_heads, past, config.head))
            for part in ("key", "value")
        )
        for i in range(config.layers)
    ]
    table = w.kernel("model.embed_tokens.weight", (config.vocabulary, config.hidden), gain=config.hidden**0.5)
    x = b.Gather(b.const(table, "model.embed_tokens.weight"), ids)
    mask, rotary = _causal_mask(b, keep, ids), _rotary(b, positions, config)
    present: list[Value] = []
    for i, past_layer in enumerate(cache):
        x, layer_cache = _layer(b, w, x, mask, rotary, past_layer, f"model.layers.{i}", config)
        present += layer_cache
    x = rms_norm(b, w, x, "model.norm", config.hidden, config.epsilon)
    b.output(linear(b, w, x, "lm_head", config.hidden, config.vocabulary, bias=False), "logits")
    for i, value in enumerate(present):
        b.output(value, f"present.{i // 2}.{('key', 'value')[i % 2]}")
    return b.model()


def llama_inputs(
    config: LlamaConfig = LlamaConfig(), *, batch: int = 1, length: int = 16, past: int = 0, seed: int = 0
) -> dict[str, np.ndarray]:
    """Random tokens behind a random cache; no padding."""
    rng = np.random.default_rng(seed)
    shape = (batch, config.kv_heads, past, config.head)
    inputs: dict[str, np.ndarray] = {
        "input_ids": rng.integers(0, config.vocabulary, (batch, length)),
        "attention_mask": np.ones((batch, past + length), np.int64),
        "position_ids": np.tile(np.arange(past, past + length), (batch, 1)),
    }
    for i in range(config.layers):
        for part in ("key", "value"):
            inputs[f"past_key_values.{i}.{part}"] = rng.standard_normal(shape, np.float32)
    return inputs


def _causal_mask(b: Builder, keep: Value, ids: Value) -> Value:
    """[batch, 1, S, P + S]: a token sees itself and what came before, as far as ``keep`` allows."""
    length, total = extent(b, ids, 1), extent(b, keep, 1)
    new, everything = _range(b, length), _range(b, total)
    past = b.Sub(_scalar(b, total), _scalar(b, length))
    own = b.Unsqueeze(b.Add(new, past), b.const([1]))
    seen = b.Cast(b.LessOrEqual(b.Unsqueeze(everything, b.const([0])), own), to=DType.I64.code)
    allowed = b.Mul(b.Unsqueeze(b.Unsqueeze(keep, b.const([1])), b.const([2])), seen)
    return additive_mask(b, allowed)


def _scalar(b: Builder, number: int | Value) -> Value:
    return number if isinstance(number, Value) else b.const(number)


def _range(b: Builder, stop: int | Value) -> Value:
    return b.Range(b.const(0), _scalar(b, stop), b.const(1))


def _rotary(b: Builder, positions: Value, config: LlamaConfig) -> tuple[Value, Value]:
    """Cosine and sine of position times frequency, [batch, 1, S, head] each."""
    frequency = (config.rope_theta ** (-np.arange(0, config.head, 2) / config.head)).astype(np.float32)
    place = b.Cast(b.Unsqueeze(positions, b.const([2])), to=DType.F32.code)
    half = b.Mul(place, b.const(frequency, "model.rotary_emb.inv_freq"))
    angle = b.Unsqueeze(b.Concat(half, half, axis=-1), b.const([1]))
    return b.Cos(angle), b.Sin(angle)


def _rotated(b: Builder, x: Value, rotary: tuple[Value, Value], size: int) -> Value:
    """``x cos + (-x2, x1) sin`` for the halves x1 and x2 of every head."""
    cosine, sine = rotary
    low = b.Slice(x, b.const([0]), b.const([size // 2]), b.const([3]), b.const([1]))
    high = b.Slice(x, b.const([size // 2]), b.const([np.iinfo(np.int64).max]), b.const([3]), b.const([1]))
    return b.Add(b.Mul(x, cosine), b.Mul(b.Concat(b.Neg(high), low, axis=-1), sine))


def _repeated(b: Builder, x: Value, config: LlamaConfig) -> Value:
    """Key or value heads [B, kv, T, D], each repeated for the query heads that share it: [B, heads, T, D]."""
    times = config.heads // config.kv_heads
    if times == 1:
        return x
    batch, total = extent(b, x, 0), extent(b, x, 2)
    widened = b.Expand(
        b.Unsqueeze(x, b.const([2])), shape_vector(b, [batch, config.kv_heads, times, total, config.head])
    )
    return view(b, widened, [batch, config.heads, total, config.head])


def _layer(
    b: Builder,
    w: Weights,
    x: Value,
    mask: Value,
    rotary: tuple[Value, Value],
    past: tuple[Value, ...],
    name: str,
    config: LlamaConfig,
) -> tuple[Value, list[Value]]:
    """The new hidden state, and the layer's keys and values with the new ones behind the cached."""
    hidden, size = config.hidden, config.head
    y = rms_norm(b, w, x, f"{name}.input_layernorm", hidden, config.epsilon)

    def heads(part: str, count: int) -> Value:
        return split_heads(
            b, linear(b, w, y, f"{name}.self_attn.{part}_proj", hidden, count * size, bias=False), count, size
        )

    q = _rotated(b, heads("q", config.heads), rotary, size)
    key = b.Concat(past[0], _rotated(b, heads("k", config.kv_heads), rotary, size), axis=2)
    value = b.Concat(past[1], heads("v", config.kv_heads), axis=2)
    k = b.Transpose(_repeated(b, key, config), perm=(0, 1, 3, 2))
    mixed = merge_heads(b, attend(b, q, k, _repeated(b, value, config), size, mask), hidden)
    x = b.Add(x, linear(b, w, mixed, f"{name}.self_attn.o_proj", hidden, hidden, gain=0.5, bias=False))
    y = rms_norm(b, w, x, f"{name}.post_attention_layernorm", hidden, config.epsilon)
    gate = silu(b, linear(b, w, y, f"{name}.mlp.gate_proj", hidden, config.intermediate, bias=False))
    up = linear(b, w, y, f"{name}.mlp.up_proj", hidden, config.intermediate, bias=False)
    down = linear(b, w, b.Mul(gate, up), f"{name}.mlp.down_proj", config.intermediate, hidden, gain=0.5, bias=False)
    return b.Add(x, down), [key, value]
