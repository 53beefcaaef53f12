"""Planted faults: each is caught, traced to its rule, and shown by a model of at most five nodes."""

from __future__ import annotations

import statistics
from collections.abc import Generator
from pathlib import Path

import pytest

import planish
from planish.driver.bisect import Bisection
from planish.driver.reproduce import replay
from planish.models.random import Case

from .mutants import MUTANTS
from .planted import LARGE, PIPELINE, Traced, registered, shown_by, shown_large, trace

MAX_NODES = 5


@pytest.fixture(autouse=True)
def _registered() -> Generator[None]:
    with registered():
        yield


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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lose-bias", "reuse-shared-weights", "crash-on-tanh", "edit-around-the-rewriter"])
def test_a_planted_fault_in_a_large_model(name: str) -> None:
    """Four of the campaign below: wrong numbers, beside the model, a crash, a broken graph."""
    found = trace(name, *shown_large(name))
    assert found.right
    assert found.nodes >= LARGE
    assert found.repro_nodes <= MAX_NODES, found.text


@pytest.mark.campaign
def test_planted_faults_in_large_models_are_found_in_seconds() -> None:
    found: list[Traced] = []
    for name in MUTANTS:
        case, host = shown_large(name)
        assert sum(1 for _ in case.model.all_nodes()) >= LARGE
        found.append(trace(name, case, host))
        assert found[-1].right
        assert found[-1].repro_nodes <= MAX_NODES, found[-1].text
    assert statistics.median(t.cpu_seconds for t in found) < 10
