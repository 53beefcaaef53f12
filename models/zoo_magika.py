"""Magika: content type of a file from 2,048 of its bytes (Fratantonio et al., ICSE 2025), from ``magika``."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np

from .packages import package_file
from .samples_files import LABELS, make_file
from .zoo_model import Runner, Sample, ZooModel, random_for

_FOLDER = "models/standard_v3_3"
_FLAGS = "--no-deps"


def _file(name: str) -> Path:
    return package_file("magika", f"{_FOLDER}/{name}", install=f"pip install {_FLAGS} magika")


@cache
def _config() -> dict[str, Any]:
    return cast(dict[str, Any], json.loads(_file("config.min.json").read_text()))


def features(content: bytes) -> np.ndarray:
    """The model's input ``bytes``: int32 [1, 2048].

    1,024 bytes from the first block of 4,096 after leading white space, and 1,024 from the last block
    before trailing white space; 256 pads after the former and before the latter. The same as
    ``Magika._extract_features_from_seekable`` of magika 1.0.3.
    """
    config = _config()
    block, pad = config["block_size"], config["padding_token"]
    first = content[:block].lstrip()[: config["beg_size"]]
    last = content[max(0, len(content) - block) :].rstrip()[-config["end_size"] :]
    row = np.full(config["beg_size"] + config["end_size"], pad, dtype=np.int32)
    row[: len(first)] = np.frombuffer(first, dtype=np.uint8)
    row[len(row) - len(last) :] = np.frombuffer(last, dtype=np.uint8)
    return row[None]


def _files(count: int, seed: int) -> list[tuple[str, bytes]]:
    """``count`` files with their labels; the first ``len(LABELS)`` are all of different types."""
    rng = random_for("magika", seed)
    order = [int(i) for i in rng.permutation(len(LABELS))]
    labels = [LABELS[order[i % len(LABELS)]] for i in range(count)]
    return [(label, make_file(label, rng)) for label in labels]


def _samples(count: int, seed: int, uniform: bool) -> list[Sample]:
    return [{"bytes": features(content)} for _, content in _files(count, seed)]


def _accuracy(runner: Runner, count: int) -> float:
    """Share of files whose most probable label is the true one."""
    names = _config()["target_labels_space"]
    hits = [
        names[int(runner({"bytes": features(content)})[0][0].argmax())] == label for label, content in _files(count, 0)
    ]
    return float(np.mean(hits))


MAGIKA = ZooModel(
    name="magika",
    package="magika",
    module="magika",
    family="text",
    trained=True,
    description="Magika file type detector (bytes to 214 content types, standard_v3_3); metric: accuracy",
    locate=lambda: _file("model.onnx"),
    sampler=_samples,
    metric=_accuracy,
    pip_flags=_FLAGS,
    extras=(("pillow", "PIL"),),
)
ENTRIES = (MAGIKA,)
