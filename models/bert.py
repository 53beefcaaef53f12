"""BERT encoders (Devlin et al., NAACL 2019), as transformers builds and PyTorch exports them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..ir.builder import DEFAULT_OPSET, Builder
from ..ir.dtypes import DType
from ..ir.graph import Model, Value
from .layers import (
    additive_mask,
    attend,
    extent,
    gelu,
    layer_norm,
    linear,
    merge_heads,
    opset_of,
    shape_vector,
    split_heads,
)
from .weights import SeededWeights, Weights


@dataclass(frozen=True)
class BertConfig:
    """Sizes; the defaults are BERT base."""

    vocabulary: int = 30522
    hidden: int = 768
    layers: int = 12
    heads: int = 12
    intermediate: int = 3072
    positions: int = 512
    token_types: int = 2
    epsilon: float = 1e-12


MINILM_L6 = BertConfig(hidden=384, layers=6, intermediate=1536)
"""all-MiniLM-L6-v2 (Wang et al., NeurIPS 2020): its ``config.json``."""


def bert(
    config: BertConfig = BertConfig(),
    *,
    batch: int | str = "N",
    length: int | str = "L",
    weights: Weights | None = None,
    sentence: bool = False,
    opset: int = DEFAULT_OPSET,
) -> Model:
    """``input_ids``, ``attention_mask``, ``token_type_ids`` (int64 [batch, length]) to float32.

    The output is ``last_hidden_state`` [batch, length, hidden]; with ``sentence`` it is
    ``sentence_embedding`` [batch, hidden], the mean over the tokens that the mask keeps, of unit length
    (Reimers and Gurevych, EMNLP 2019). Weights are seeded with 0 unless given.
    """
    b, w = Builder(opset=opset), weights or SeededWeights()
    ids, mask, types = (
        b.input(name, DType.I64, (batch, length)) for name in ("input_ids", "attention_mask", "token_type_ids")
    )
    x = _embedded(b, w, ids, types, config)
    bias = additive_mask(b, b.Unsqueeze(b.Unsqueeze(mask, b.const([1])), b.const([2])))
    for i in range(config.layers):
        x = _layer(b, w, x, bias, f"encoder.layer.{i}", config)
    if sentence:
        b.output(_unit_mean(b, x, mask), "sentence_embedding")
    else:
        b.output(x, "last_hidden_state")
    return b.model()


def bert_inputs(
    config: BertConfig = BertConfig(), *, batch: int = 1, length: int = 128, seed: int = 0
) -> dict[str, np.ndarray]:
    """Random ids, with rows of different lengths under the mask (the first is full)."""
    rng = np.random.default_rng(seed)
    kept = np.concatenate([[length], rng.integers(max(1, length // 2), length + 1, batch - 1)])
    mask = (np.arange(length) < kept[:, None]).astype(np.int64)
    ids = rng.integers(1, config.vocabulary, (batch, length)) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros((batch, length), np.int64)}


def _embedded(b: Builder, w: Weights, ids: Value, types: Value, config: BertConfig) -> Value:
    """Words, token types and positions, normalized; positions are sliced from a table as long as needed."""
    hidden = config.hidden

    def table(kind: str, rows: int) -> Value:
        name = f"embeddings.{kind}_embeddings.weight"
        return b.const(w.kernel(name, (rows, hidden), gain=0.5 * hidden**0.5), name)

    words = b.Gather(table("word", config.vocabulary), ids)
    kinds = b.Gather(table("token_type", config.token_types), types)
    numbers = b.const(np.arange(config.positions, dtype=np.int64)[None], "embeddings.position_ids")
    places = b.Slice(numbers, b.const([0]), shape_vector(b, [extent(b, ids, 1)]), b.const([1]), b.const([1]))
    x = b.Add(b.Add(words, kinds), b.Gather(table("position", config.positions), places))
    return layer_norm(b, w, x, "embeddings.LayerNorm", hidden, config.epsilon)


def _layer(b: Builder, w: Weights, x: Value, mask: Value, name: str, config: BertConfig) -> Value:
    """Attention, then a perceptron, each added to its input and then normalized."""
    hidden, size = config.hidden, config.hidden // config.heads
    q, k, v = (linear(b, w, x, f"{name}.attention.self.{part}", hidden, hidden) for part in ("query", "key", "value"))
    q, v = split_heads(b, q, config.heads, size), split_heads(b, v, config.heads, size)
    mixed = merge_heads(b, attend(b, q, split_heads(b, k, config.heads, size, transposed=True), v, size, mask), hidden)
    mixed = linear(b, w, mixed, f"{name}.attention.output.dense", hidden, hidden)
    x = layer_norm(b, w, b.Add(mixed, x), f"{name}.attention.output.LayerNorm", hidden, config.epsilon)
    y = gelu(b, linear(b, w, x, f"{name}.intermediate.dense", hidden, config.intermediate))
    y = linear(b, w, y, f"{name}.output.dense", config.intermediate, hidden)
    return layer_norm(b, w, b.Add(y, x), f"{name}.output.LayerNorm", hidden, config.epsilon)


def _unit_mean(b: Builder, x: Value, mask: Value) -> Value:
    """Mean over the kept tokens, divided by its Euclidean length."""
    kept = b.Cast(b.Unsqueeze(mask, b.const([-1])), to=DType.F32.code)
    total = b.ReduceSum(b.Mul(x, kept), b.const([1]), keepdims=0)
    count = b.Clip(b.ReduceSum(kept, b.const([1]), keepdims=0), 1e-9)
    mean = b.Div(total, count)
    if opset_of(b) >= 18:
        norm = b.ReduceL2(mean, b.const([1]), keepdims=1)
    else:
        norm = b.ReduceL2(mean, axes=(1,), keepdims=1)
    return b.Div(mean, b.Clip(norm, 1e-12))
