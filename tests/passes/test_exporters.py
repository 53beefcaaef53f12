"""One layer of well-known architectures as PyTorch's two exporters spell them: what fuse-transformer must see in each.

The texts in ``exporters/`` were written from ``torch.onnx.export`` of the models of the transformers package (their
first lines say which); weights are seeds.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planish.backends.ort.session import Session, SessionSettings
from planish.ir.graph import Model
from planish.ir.text.parser import parse_model
from planish.ir.verify import verify
from planish.passes.core import Context
from planish.passes.manager import Pipeline
from planish.passes.target import get_target

FOLDER = Path(__file__).parent / "exporters"
PIPELINE = "clean,fuse,fuse-transformer,fuse-attention{softcap=true,folded=true},clean"
"""With what is off for speed: the question here is what is seen."""
ULPS = 64
"""Of the largest output: a layer reassociates sums of at most a hundred terms."""

EXPECTED: dict[str, tuple[dict[str, int], int]] = {
    # file: (operators that must be there, most nodes that may be left)
    "bert_dynamo_sdpa": ({"Attention": 1, "LayerNormalization": 3, "Gelu": 1}, 39),
    "bert_ts_eager": ({"Attention": 1, "LayerNormalization": 3, "Gelu": 1}, 47),
    "bert_ts_sdpa": ({"Attention": 1, "LayerNormalization": 3, "Gelu": 1}, 45),
    "gpt2_dynamo_sdpa": ({"Attention": 1, "LayerNormalization": 3, "Gelu": 1}, 47),
    "gpt2_ts_eager": ({"Attention": 1, "LayerNormalization": 3, "Gelu": 1}, 55),
    "llama_dynamo_sdpa": ({"Attention": 1, "RotaryEmbedding": 2, "RMSNormalization": 3}, 48),
    "llama_ts_past": ({"Attention": 1, "RotaryEmbedding": 2, "RMSNormalization": 3}, 54),
    "llama_ts_eager": ({"Attention": 1, "RotaryEmbedding": 2, "RMSNormalization": 3}, 57),
    "t5enc_dynamo_eager": ({"Attention": 1, "RMSNormalization": 3}, 48),
    "vit_dynamo_eager": ({"Attention": 1, "LayerNormalization": 3, "Gelu": 1}, 31),
    "vit_ts_sdpa": ({"Attention": 1, "LayerNormalization": 3, "Gelu": 1}, 30),
    "bloom_ts_eager": ({"Attention": 1, "LayerNormalization": 4, "Gelu": 1}, 57),
    "einsum_dynamo_eager": ({"Attention": 1}, 10),
    "gemma2_ts_eager": ({"Attention": 1, "RotaryEmbedding": 2, "RMSNormalization": 5, "Gelu": 1}, 55),
    "gptj_ts_eager": ({"Attention": 1, "RotaryEmbedding": 2, "LayerNormalization": 2, "Gelu": 1}, 46),
    "gptneo_ts_eager": ({"Attention": 1, "LayerNormalization": 3, "Gelu": 1}, 42),
    "keras_einsum": ({"Attention": 1, "LayerNormalization": 1}, 27),
    "multihead_dynamo_weights": ({"Attention": 1}, 20),
    "paddle_ernie": ({"Attention": 1}, 12),
    "pairs_dynamo_eager": ({"Attention": 1, "RotaryEmbedding": 2}, 23),
}


def load(name: str) -> Model:
    return parse_model((FOLDER / f"{name}.ir").read_text())


def fused(name: str) -> Model:
    model = load(name)
    Pipeline(PIPELINE).run(model, Context(target=get_target("x86-64-v3")))
    return model


def feeds(model: Model, padding: str) -> dict[str, Any]:
    """Tokens (or an image), some of them padding on one side."""
    draw = np.random.default_rng(0)
    if model.graph.inputs[0].rank == 4:
        return {model.graph.inputs[0].name: draw.standard_normal((2, 3, 16, 16), np.float32)}
    mask = np.ones((3, 7), np.int64)
    if padding == "right":
        mask[1, 4:] = 0
    if padding == "left":
        mask[1, :3] = 0
    if model.graph.inputs[0].rank == 3:
        width = model.graph.inputs[0].shape
        tokens = draw.standard_normal((3, 7, width[-1] if width and isinstance(width[-1], int) else 1), np.float32)
        return {v.name: tokens if v.rank == 3 else mask for v in model.graph.inputs}
    known: dict[str, Any] = {"input_ids": draw.integers(1, 19, (3, 7)), "attention_mask": mask}
    if any(v.name == "past_key" for v in model.graph.inputs):
        known["input_ids"] = known["input_ids"][:, :3]  # four tokens are in the cache
        known |= {name: draw.standard_normal((3, 2, 4, 4), np.float32) for name in ("past_key", "past_value")}
    return {v.name: known[v.name] for v in model.graph.inputs}


def test_every_text_has_an_expectation() -> None:
    assert {p.stem for p in FOLDER.glob("*.ir")} == set(EXPECTED)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_spelling_is_seen(name: str) -> None:
    model = fused(name)
    verify(model)
    ops = Counter(node.op for node in model.all_nodes())
    wanted, most = EXPECTED[name]
    assert {op: ops[op] for op in wanted} == wanted
    assert ops["Softmax"] == 0
    assert sum(ops.values()) <= most, ops


def test_cache_and_grouped_heads_go_into_the_operator() -> None:
    model = fused("llama_ts_past")
    attention = next(node for node in model.all_nodes() if node.op == "Attention")
    assert (attention.attr("q_num_heads"), attention.attr("kv_num_heads")) == (4, 2)
    assert [v.name for v in attention.inputs[4:] if v is not None] == ["past_key", "past_value"]
    assert [v.producer for v in model.graph.outputs[1:]] == [attention, attention]


@pytest.mark.parametrize("padding", ["none", "right", "left"])
@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_outputs_stay(name: str, padding: str) -> None:
    original, model = load(name), fused(name)
    given = feeds(original, padding)
    before = Session(original, SessionSettings("disable", threads=1)).run(given)
    after = Session(model, SessionSettings(threads=1)).run(given)
    for a, b in zip(before, after, strict=True):
        assert np.isfinite(a).all()
        assert np.abs(a - b).max() <= ULPS * np.finfo(np.float32).eps * np.abs(a).max()
