"""Whole models on a real GPU; without one each test says that it is missing. What needs none is in ``test_cuda.py``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")

from planish.backends.tvm.api import tvm
from planish.backends.tvm.artifact import Artifact
from planish.backends.tvm.backend import TvmBackend
from planish.driver.checks.reference import Reference
from planish.ir.clone import clone_model
from planish.ir.graph import Model
from planish.passes.manager import Pipeline
from planish.passes.pipelines import PIPELINES
from planish.passes.target import PROCESSORS, Target

from ..arm.test_models import zoo_model
from .test_cuda import network, rows


@pytest.fixture(scope="module")
def target() -> Target:
    """The GPU of this machine."""
    device: Any = tvm.cuda(0)
    if not device.exist:
        pytest.skip("needs an NVIDIA GPU that TVM finds (driver, libcudart); there is none on this machine")
    arch = "sm_" + str(device.compute_version).replace(".", "")
    known = PROCESSORS.get(f"cuda-{arch}", PROCESSORS["cuda-sm_75"])
    return replace(known, mcpu=arch, contrib=False)


def check(model: Model, feeds: dict[str, np.ndarray], target: Target, folder: Path) -> None:
    lowered, backend = clone_model(model), TvmBackend()
    Pipeline(PIPELINES["default"]).run(lowered)
    Pipeline(backend.legalize(lowered, target)).run(lowered)
    backend.lower(lowered, target).save(folder)
    artifact = Artifact.load(folder)
    reference = Reference(model, optimizer_noise=False)
    reference.samples.append(feeds)
    for _ in range(2):  # the second time in memory that was used before
        found = artifact.run(feeds)
        assert [str(c) for c in reference.compare(0, list(found)) if not c.equivalent] == []


@pytest.mark.parametrize("make", [network, rows])
def test_kernels_on_the_gpu(make: Any, target: Target, tmp_path: Path) -> None:
    model: Model = make()
    draw = np.random.default_rng(1)
    feeds = {v.name: draw.standard_normal([int(str(d)) for d in v.shape or ()], np.float32) for v in model.graph.inputs}
    check(model, feeds, target, tmp_path / "model")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppocr_cls", "magika", "minilm", "light_squeezenet", "light_resnet50"])
def test_models_on_the_gpu(name: str, target: Target, tmp_path: Path) -> None:
    model, feeds = zoo_model(name)
    check(model, dict(feeds), target, tmp_path / "model")
