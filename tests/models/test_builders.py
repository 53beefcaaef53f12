"""Builders make the published architectures, at any opset, with weights that cost nothing until used."""

from __future__ import annotations

import math
import tracemalloc
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from planish.ir.dims import symbol
from planish.ir.dtypes import DType
from planish.ir.errors import UsageError
from planish.ir.graph import Model
from planish.ir.onnx_writer import model_to_bytes, model_to_proto
from planish.models.bert import MINILM_L6, BertConfig, bert, bert_inputs
from planish.models.llama import LLAMA_3_8B, LlamaConfig, llama, llama_inputs
from planish.models.mlp import mlp
from planish.models.mobilenet import mobilenet_v2, mobilenet_v3
from planish.models.ort_runner import ort_runner
from planish.models.resnet import resnet
from planish.models.vit import vit
from planish.models.weights import SeededWeights

Inputs = dict[str, np.ndarray]
BERT = BertConfig(vocabulary=200, hidden=64, layers=2, heads=4, intermediate=96, positions=40)
LLAMA = LlamaConfig(vocabulary=150, hidden=64, layers=2, heads=4, kv_heads=2, intermediate=96)


def image(size: int) -> Inputs:
    return {"input": np.random.default_rng(0).standard_normal((2, 3, size, size), np.float32)}


CASES: dict[str, tuple[Callable[..., Model], Inputs]] = {
    "mlp": (
        lambda **kw: mlp((20, 30, 7), **kw),
        {"input": np.random.default_rng(0).standard_normal((2, 20), np.float32)},
    ),
    "resnet18": (lambda **kw: resnet(18, width=16, classes=10, size=64, **kw), image(64)),
    "resnet50": (lambda **kw: resnet(50, width=8, classes=10, size=64, **kw), image(64)),
    "mobilenet_v2": (lambda **kw: mobilenet_v2(width=0.25, classes=10, size=64, **kw), image(64)),
    "mobilenet_v3": (lambda **kw: mobilenet_v3("small", width=0.5, classes=10, size=64, **kw), image(64)),
    "vit": (lambda **kw: vit(size=32, patch=8, hidden=48, layers=2, heads=3, classes=10, **kw), image(32)),
    "bert": (lambda **kw: bert(BERT, **kw), bert_inputs(BERT, batch=2, length=9)),
    "llama": (lambda **kw: llama(LLAMA, **kw), llama_inputs(LLAMA, batch=2, length=4, past=3)),
}
STATIC: dict[str, dict[str, int]] = {
    "bert": {"batch": 2, "length": 9},
    "llama": {"batch": 2, "length": 4, "past": 3},
}


def run(model: Model, inputs: Inputs) -> list[np.ndarray]:
    return ort_runner(model_to_bytes(model))(inputs)


def ops(model: Model) -> Counter[str]:
    return Counter(node.op for node in model.graph)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("opset", [13, 17, 21])
def test_every_spelling_is_valid_and_computes_the_same(name: str, opset: int) -> None:
    onnx = pytest.importorskip("onnx")
    build, inputs = CASES[name]
    expected = run(build(opset=21, **STATIC.get(name, {"batch": 2})), inputs)
    model = build(opset=opset)
    onnx.checker.check_model(model_to_proto(model))
    assert model.opsets[""] == opset
    for found, reference in zip(run(model, inputs), expected, strict=True):
        np.testing.assert_allclose(found, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_outputs_depend_on_the_input_and_the_seed(name: str) -> None:
    build, inputs = CASES[name]
    (output, *_) = run(build(), inputs)
    assert np.isfinite(output).all()
    assert 0.05 < output.std() < 50
    assert np.abs(output[0] - output[1]).max() > 0.01 * output.std()
    other = {"weights": SeededWeights(1)} if name in ("bert", "llama") else {"seed": 1}
    assert np.abs(run(build(**other), inputs)[0] - output).max() > 0.1 * output.std()


@pytest.mark.parametrize("name", CASES)
def test_types_of_all_results_are_known(name: str) -> None:
    model = CASES[name][0](**STATIC.get(name, {"batch": 2}))
    for node in model.graph:
        for value in node.outputs:
            assert value.tensor is not None
            assert value.tensor.is_static


@pytest.mark.parametrize("name", CASES)
def test_symbols_reach_the_outputs(name: str) -> None:
    shape = CASES[name][0]().graph.outputs[0].shape
    assert shape is not None
    if name == "bert":
        shape = (
            shape[0],
            symbol("L"),
            shape[2],
        )  # the length meets positions cut to min(L, 40): not everyone sees through
    expected = {"bert": "N L 64", "llama": "N S 150", "mlp": "N 7"}
    assert " ".join(map(str, shape)) == expected.get(name, "N 10")


PARAMETERS = {
    "resnet18": (lambda: resnet(18), 11_689_512),
    "resnet50": (lambda: resnet(50), 25_557_032),
    "mobilenet_v2": (mobilenet_v2, 3_504_872),
    "mobilenet_v3_large": (mobilenet_v3, 5_483_032),
    "mobilenet_v3_small": (lambda: mobilenet_v3("small"), 2_542_856),
    "vit_ti": (vit, 5_717_416),
    "vit_b": (lambda: vit(hidden=768, heads=12), 86_567_656),
    "bert_base": (bert, 109_482_240 - 590_592),
    "minilm": (lambda: bert(MINILM_L6), 22_713_216 - 147_840),
    "llama_3_8b": (lambda: llama(LLAMA_3_8B), 8_030_261_248),
}
"""Published counts of trained parameters (torchvision, timm, transformers; BERT less the pooler)."""


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_the_published_ones(name: str) -> None:
    build, expected = PARAMETERS[name]
    tracemalloc.start()
    graph = build().graph
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    parts = ("weight", "bias", "pos_embed", "cls_token")
    assert sum(v.data.count for v in graph.constants if v.data is not None and v.name.endswith(parts)) == expected
    assert peak_bytes < 40e6  # weights are not materialized


def test_decompositions_follow_the_opset() -> None:
    old, middle, new = (ops(bert(BERT, opset=opset)) for opset in (13, 17, 21))
    assert old["LayerNormalization"] == middle["Gelu"] == 0
    assert middle["LayerNormalization"] == new["LayerNormalization"] == 5
    assert old["Erf"] == middle["Erf"] == new["Gelu"] == 2
    assert ops(llama(LLAMA, opset=23))["RMSNormalization"] == 5
    assert ops(llama(LLAMA, opset=21))["Reciprocal"] == 5
    assert ops(mobilenet_v3("small", opset=13))["HardSwish"] == 0


def test_seeded_weights_do_not_depend_on_order() -> None:
    first, second = SeededWeights(3), SeededWeights(3)
    kernel = first.kernel("a.weight", (4, 5)).numpy()
    second.vector("b.bias", 6)
    assert np.array_equal(second.kernel("a.weight", (4, 5)).numpy(), kernel)
    assert not np.array_equal(second.kernel("c.weight", (4, 5)).numpy(), kernel)
    assert first.matrix("d", 7, 9).dtype is DType.F32


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(UsageError, match=r"depth 20, expected one of \[18, 34"):
        resnet(20)
    with pytest.raises(UsageError, match="'tiny', expected 'large' or 'small'"):
        mobilenet_v3("tiny")
    with pytest.raises(UsageError, match="15 must divide 224"):
        vit(patch=15)


def test_llama_with_a_cache_continues_where_it_stopped() -> None:
    runner = ort_runner(model_to_bytes(llama(LLAMA)))
    whole = llama_inputs(LLAMA, batch=2, length=9)
    logits, *present = runner(whole)
    first = {key: array[:, :5] if array.ndim == 2 else array for key, array in whole.items()}
    logits_first, *cache = runner(first)
    rest = {key: array[:, 5:] for key, array in whole.items() if key in ("input_ids", "position_ids")}
    past = dict(zip([key for key in whole if key.startswith("past")], cache, strict=True))
    logits_rest, *present_rest = runner({**rest, **past, "attention_mask": whole["attention_mask"]})
    np.testing.assert_allclose(np.concatenate([logits_first, logits_rest], axis=1), logits, rtol=1e-4, atol=1e-5)
    for found, expected in zip(present_rest, present, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_llama_against_numpy() -> None:
    model = llama(LLAMA)
    inputs = llama_inputs(LLAMA, batch=1, length=4, past=3)
    inputs["attention_mask"][0, 0] = 0
    parameters = {v.name: v.data.numpy() for v in model.graph.constants if v.data is not None}
    expected = numpy_llama(parameters, inputs)
    np.testing.assert_allclose(run(model, inputs)[0][0], expected, rtol=1e-3, atol=1e-4)


def numpy_llama(p: dict[str, np.ndarray], inputs: Inputs) -> np.ndarray:
    """Logits [S, vocabulary] of the definition, one head and one position at a time."""
    (ids,), (positions,), (keep,) = (inputs[key] for key in ("input_ids", "position_ids", "attention_mask"))
    size, past = LLAMA.head, len(keep) - len(ids)

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + LLAMA.epsilon) * p[f"{name}.weight"]

    def rotate(x: np.ndarray, position: int) -> np.ndarray:
        half = size // 2
        turned = np.exp(1j * position * LLAMA.rope_theta ** (-np.arange(half) / half)) * (x[:half] + 1j * x[half:])
        return np.concatenate([turned.real, turned.imag])

    x = p["model.embed_tokens.weight"][ids].astype(np.float64)
    for layer in range(LLAMA.layers):
        name = f"model.layers.{layer}"
        y = norm(x, f"{name}.input_layernorm")
        q, k, v = (y @ p[f"{name}.self_attn.{part}_proj.weight"] for part in "qkv")
        mixed = np.zeros_like(x)
        for head in range(LLAMA.heads):
            shared = head // (LLAMA.heads // LLAMA.kv_heads)
            columns, kv_columns = (slice(h * size, (h + 1) * size) for h in (head, shared))
            cached_k, cached_v = (inputs[f"past_key_values.{layer}.{part}"][0, shared] for part in ("key", "value"))
            keys = [*cached_k, *(rotate(row, at) for row, at in zip(k[:, kv_columns], positions, strict=True))]
            values = [*cached_v, *v[:, kv_columns]]
            for i, at in enumerate(positions):
                seen = [j for j in range(past + i + 1) if keep[j]]
                query = rotate(q[i, columns], at)
                weight = np.exp([query @ keys[j] / math.sqrt(size) for j in seen])
                mixed[i, columns] = sum(a * values[j] for a, j in zip(weight / weight.sum(), seen, strict=True))
        x = x + mixed @ p[f"{name}.self_attn.o_proj.weight"]
        y = norm(x, f"{name}.post_attention_layernorm")
        gate = y @ p[f"{name}.mlp.gate_proj.weight"]
        gated = gate / (1 + np.exp(-gate)) * (y @ p[f"{name}.mlp.up_proj.weight"])
        x = x + gated @ p[f"{name}.mlp.down_proj.weight"]
    return norm(x, "model.norm") @ p["lm_head.weight"]
