"""Planted faults: each is caught, traced to its rule, and shown by a model of at most five nodes."""

from __future__ import annotations

import statistics
import time
from functools import cache
from pathlib import Path

import pytest

import planish
from planish.driver.bisect import Bisection
from planish.driver.bisect.judge import Judge, reference_for
from planish.driver.bisect.search import Search
from planish.driver.generate import generate_samples
from planish.driver.reference import Reference
from planish.driver.reproduce import replay
from planish.ir.clone import clone_model
from planish.ir.errors import PlanishError
from planish.ir.text import parse_model
from planish.models.random import Case, random_case
from planish.passes import manager, registry
from planish.passes.core import Context, Pass
from planish.passes.manager import Pipeline

from .mutants import HOSTS, MUTANTS, pass_of

MAX_NODES = 5
PIPELINE = "canonicalize-operands,merge-casts,{},merge-constants,eliminate-dead-code"
SEEDS = 400


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {name: pass_of(name) for name in MUTANTS}

    def find(name: str) -> type[Pass] | str:
        return known[name] if name in known else registry.find(name)

    monkeypatch.setattr(manager, "find", find)


@cache
def drawn(seed: int, size: int) -> Case:
    return random_case(seed, size)


def fires(name: str, case: Case) -> bool:
    """Whether the wrong rule acts on the model, right or wrong."""
    ctx = Context(log=[])
    try:
        Pipeline(PIPELINE.format(name)).run(clone_model(case.model), ctx)
    except PlanishError as error:
        return (error.where or "").startswith(name)
    return any(a.rule.startswith(f"{name}/") for a in ctx.log or ())


def hosted(name: str) -> Case:
    model = parse_model(HOSTS[name])
    return Case(0, model, list(map(dict, generate_samples(model, Reference(model).accepts).items)))


def shown_by(name: str, size: int) -> Case:
    """The first random model on which the fault shows, or one that was written for it."""
    for case in [hosted(name)] if name in HOSTS else (drawn(seed, size) for seed in range(SEEDS)):
        if not fires(name, case):
            continue
        reference = reference_for(case.model, case.samples)
        if reference is None:
            continue
        if Search(case.model, PIPELINE.format(name), Context, Judge(reference)).attempt(None).fault is not None:
            return case
    raise AssertionError(f"{name} shows in none of {SEEDS} random models")


def check(name: str, case: Case, tmp_path: Path) -> Bisection:
    found = planish.bisect(case.model, PIPELINE.format(name), case.samples, repro_dir=tmp_path, seconds=120)
    assert found.guilty is not None
    assert found.guilty.pass_name == name
    assert found.guilty.rule == f"{name}/{MUTANTS[name].__name__}"
    assert found.reproducer is not None
    assert found.reproducer.nodes <= MAX_NODES, found.reproducer.text
    return found


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_fault_is_found_and_shrunk(name: str, tmp_path: Path) -> None:
    found = check(name, shown_by(name, 8), tmp_path)
    assert replay(found.file).reproduced
    text = "\n".join(str(part) for part in found.document())
    assert name in text


@pytest.mark.campaign
def test_planted_faults_in_large_models_are_found_in_seconds(tmp_path: Path) -> None:
    hosts = [random_case(seed, 170) for seed in range(3)]
    assert all(sum(1 for _ in host.model.all_nodes()) > 400 for host in hosts)
    seconds: list[float] = []
    for name in MUTANTS:
        for host in hosts:
            if fires(name, host):
                start = time.process_time()
                found = planish.bisect(host.model, PIPELINE.format(name), host.samples, reduce=True, seconds=120)
                if found.guilty is None:
                    continue  # the fault does not show in any output
                seconds.append(time.process_time() - start)
                assert found.guilty.pass_name == name
                assert found.reproducer is not None
                assert found.reproducer.nodes <= MAX_NODES, found.reproducer.text
                break
    assert len(seconds) >= 25
    assert statistics.median(seconds) < 10
