"""Random models: they are valid and comparable, and no pass breaks one."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from planish.backends.ort.session import Session
from planish.driver.document import plain
from planish.driver.fuzz.campaign import SIZES, Campaign, default_pipelines, fuzz
from planish.driver.fuzz.join import joined_with_any
from planish.driver.fuzz.mutants import seeds
from planish.ir.clone import clone_model
from planish.ir.errors import BackendError, UsageError
from planish.ir.infer import infer_model
from planish.ir.onnx_writer import model_to_bytes
from planish.ir.verify import verify
from planish.models.random import random_case
from planish.passes.core import Context
from planish.passes.manager import Pipeline
from planish.passes.registry import entries
from planish.passes.target import get_target

GOLDEN = Path(__file__).parents[1] / "golden"
MODELS_FOR_ALL = 400
NAMED = ["clean", "fuse", "default"]


def assert_clean(found: Campaign) -> None:
    assert not found.found, plain(found.document())
    refused = sum(found.rejected.values())
    assert refused <= 0.03 * (found.models + refused), found.rejected


def test_random_models_survive_every_pass() -> None:
    """A share for every run of the tests; ``planish fuzz`` does more."""
    found = fuzz(models=25, seed=0)
    assert_clean(found)


def test_every_pass_acts_on_some_random_model() -> None:
    """A fuzzer whose models a pass never acts on proves nothing about it: a new pass needs a motif in models/random."""
    families = {name: entry.family for name, entry in entries().items()}
    left = {name: Pipeline(name) for name in default_pipelines() if families.get(name) in ("clean", "fusion")}
    del left["bind-dims"]  # does what its options say, and nothing without them
    del left["lower-fourier"]  # tests/passes/test_fourier.py draws transforms; a motif more would change every seed
    for seed in range(MODELS_FOR_ALL):
        model = random_case(seed, SIZES[seed % len(SIZES)]).model
        for name, pipeline in list(left.items()):
            if pipeline.run(clone_model(model), Context(target=get_target("x86-64-v3"))).changes:
                del left[name]
        if not left:
            return
    raise AssertionError(f"no random model that these passes act on: {', '.join(left)}")


def test_random_models_survive_the_pipelines() -> None:
    assert_clean(fuzz(models=30, seed=10_000, pipelines=NAMED))


def test_models_near_golden_cases_survive_every_pass() -> None:
    """What the golden cases nearly say: another user, another axis, another constant."""
    found = fuzz(models=15, seed=0, source=GOLDEN)
    assert not found.found, plain(found.document())


@pytest.mark.slow
@pytest.mark.parametrize("source", [None, GOLDEN], ids=["random", "near-golden"])
def test_more_models_survive_every_pass_and_pipeline(source: Path | None) -> None:
    found = fuzz(models=100, seed=200_000, source=source)
    assert not found.found, plain(found.document())


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(100_000, 104_000, 500))
def test_thousands_of_models_near_golden_cases(seed: int) -> None:
    found = fuzz(models=500, seed=seed, source=GOLDEN)
    assert not found.found, plain(found.document())


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(100_000, 105_000, 500))
def test_thousands_of_random_models(seed: int) -> None:
    assert_clean(fuzz(models=500, seed=seed))


def test_the_same_seed_gives_the_same_model() -> None:
    for seed in range(20):
        a, b = random_case(seed), random_case(seed)
        assert model_to_bytes(a.model) == model_to_bytes(b.model)
        assert all((x[k] == y[k]).all() for x, y in zip(a.samples, b.samples, strict=True) for k in x)
    assert model_to_bytes(random_case(1).model) != model_to_bytes(random_case(2).model)


def test_outputs_are_finite_and_well_scaled() -> None:
    wild = total = 0
    for seed in range(60):
        case = random_case(seed)
        try:
            outputs = Session(case.model).run(case.samples[0])
        except BackendError:
            continue
        total += len(outputs)
        arrays = [np.asarray(out, np.float64) for out in outputs if not isinstance(out, list)]
        wild += sum(not (np.abs(array) < 1e6).all() for array in arrays if array.dtype.kind == "f")
    assert wild <= 0.03 * total


def test_portions_add_up() -> None:
    names = ["clean", "default@aarch64"]
    whole = fuzz(models=20, seed=40, pipelines=names)
    parts = [fuzz(models=10, seed=seed, pipelines=names) for seed in (40, 50)]
    parts[0].add(parts[1])
    assert parts[0].tallies == whole.tallies
    assert parts[0].rules == whole.rules
    assert sum(whole.rules.values()) == sum(t.rewrites for t in whole.tallies.values()) > 0


def test_a_pipeline_may_name_its_target() -> None:
    found = fuzz(models=2, seed=3, pipelines=["fuse@x86-64-v4"])
    assert list(found.tallies) == ["fuse@x86-64-v4"]
    with pytest.raises(UsageError, match="no target"):
        fuzz(models=1, pipelines=["fuse@pdp-11"])


def test_golden_cases_are_joined() -> None:
    """An output of one model goes where an input of another was: the result is a model about as often as its parts."""
    models = list(seeds(GOLDEN / "clean"))
    rng = random.Random(7)
    found = [joined_with_any(rng.choice(models), models, rng) for _ in range(40)]
    made = [model for model in found if model is not None]
    sound = [model for model in made if not infer_model(model)]
    assert len(made) >= 10
    assert len(sound) >= 0.7 * len(made)
    for model in sound:
        verify(model, types=True)
