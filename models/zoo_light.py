"""Classic image classifiers from onnx's own test data: real exported architectures, no trained weights.

``light_*`` are the files as they are: every weight is a ConstantOfShape of 0.02, so all classes get the
same score, and agreement of outputs shows little more than that a graph runs. ``seeded_*`` are the same
graphs with weights drawn at random where the constants were: there an error anywhere shows in the output.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from .packages import cache_folder, package_file, package_version, write_atomically
from .samples_photos import render_scene
from .seeded_weights import VERSION, with_seeded_weights
from .zoo_model import Sample, ZooModel, random_for

_SIDE = 224
_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], dtype=np.float32)

_INPUTS = {
    "bvlc_alexnet": "data_0",
    "densenet121": "data_0",
    "inception_v1": "data_0",
    "inception_v2": "data_0",
    "resnet50": "gpu_0/data_0",
    "shufflenet": "gpu_0/data_0",
    "squeezenet": "data_0",
    "vgg19": "data_0",
    "zfnet512": "gpu_0/data_0",
}
"""The graph input of each model: float32 [1, 3, 224, 224]."""

_SEEDED = ("densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet")
"""Those of at most 103 MB with their weights written out."""


def image_input(image: np.ndarray) -> np.ndarray:
    """RGB uint8 [H, W, 3] in [0, 1], less ImageNet's mean, over its deviation: float32 [1, 3, H, W]."""
    scaled = (image.astype(np.float32) / np.float32(255) - _MEAN) / _DEVIATION
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


def _sampler(input_name: str) -> Callable[[int, int, bool], list[Sample]]:
    def samples(count: int, seed: int, uniform: bool) -> list[Sample]:
        rng = random_for("scenes", seed)
        return [{input_name: image_input(render_scene(_SIDE, rng))} for _ in range(count)]

    return samples


def _light_path(architecture: str) -> Path:
    return package_file("onnx", f"backend/test/data/light/light_{architecture}.onnx", install="pip install onnx")


def _seeded_path(architecture: str) -> Path:
    source = _light_path(architecture)
    name = f"seeded_{architecture}-onnx{package_version('onnx')}-v{VERSION}.onnx"
    path = cache_folder() / "zoo" / name
    if path.is_file():
        return path
    scenes = _sampler(_INPUTS[architecture])(4, 1, True)
    return write_atomically(path, lambda target: with_seeded_weights(source, target, scenes))


def _entry(name: str, description: str, architecture: str, locate: Callable[[], Path]) -> ZooModel:
    return ZooModel(
        name=name,
        package="onnx",
        module="onnx",
        family="vision",
        trained=False,
        description=description,
        locate=locate,
        sampler=_sampler(_INPUTS[architecture]),
    )


def _light(architecture: str) -> ZooModel:
    text = f"{architecture} as exported by Caffe2, all weights 0.02; no metric"
    return _entry(f"light_{architecture}", text, architecture, lambda: _light_path(architecture))


def _seeded(architecture: str) -> ZooModel:
    text = f"{architecture} as exported by Caffe2, seeded random weights; no metric"
    return _entry(f"seeded_{architecture}", text, architecture, lambda: _seeded_path(architecture))


ENTRIES = (*map(_light, _INPUTS), *map(_seeded, _SEEDED))
