"""Planted faults in models: which models show them, and what bisecting makes of them."""

from __future__ import annotations

import random
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import planish
from planish.backends.core import Array
from planish.driver.bisect import Bisection
from planish.driver.bisect.judge import Judge, reference_for
from planish.driver.bisect.search import Search
from planish.driver.checks.reference import Reference
from planish.driver.inputs.generate import generate_samples
from planish.ir.clone import clone_model
from planish.ir.errors import PlanishError
from planish.ir.graph import Model
from planish.ir.text import parse_model
from planish.models.random import Case, random_case
from planish.models.random.generate import OPSETS
from planish.passes import manager, registry
from planish.passes.core import Context, Pass
from planish.passes.manager import Pipeline

from .hosts import HOSTS
from .mutants import MUTANTS, pass_of

PIPELINE = "canonicalize-operands,merge-casts,{},merge-constants,eliminate-dead-code"
SEEDS = 400
LARGE = 500
"""Nodes of a large model, at least."""
LARGE_SIZE = 230
"""Motifs of which a random model mostly has as many nodes."""
HOST_SEEDS = 3
"""Large random models that are tried before a fault is grafted into one."""


@contextmanager
def registered() -> Generator[None]:
    """Pipelines find the planted passes by name."""
    known: dict[str, type[Pass]] = {name: pass_of(name) for name in MUTANTS}

    def find(name: str) -> type[Pass] | str:
        return known[name] if name in known else registry.find(name)

    manager.find = find
    try:
        yield
    finally:
        manager.find = registry.find


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


def shows(name: str, case: Case) -> bool:
    """Whether the wrong rule makes the model wrong."""
    if not fires(name, case):
        return False
    reference = reference_for(case.model, case.samples)
    if reference is None:
        return False
    return Search(case.model, PIPELINE.format(name), Context, Judge(reference)).attempt(None).fault is not None


def hosted(name: str) -> Case:
    """The model that was written for a fault."""
    model = parse_model(HOSTS[name])
    return Case(0, model, list(map(dict, generate_samples(model, Reference(model).accepts).items)))


def shown_by(name: str, size: int) -> Case:
    """The first random model on which the fault shows, or one that was written for it."""
    for case in [hosted(name)] if name in HOSTS else (drawn(seed, size) for seed in range(SEEDS)):
        if shows(name, case):
            return case
    raise AssertionError(f"{name} shows in none of {SEEDS} random models")


# -- large models


@cache
def large(number: int, opset: int | None = None) -> Case:
    """Random model number ``number`` of at least ``LARGE`` nodes, of that opset where one is asked for."""
    found = -1
    for seed in range(10_000):
        if opset is not None and random.Random(seed).choice(OPSETS) != opset:
            continue
        try:
            case = random_case(seed, LARGE_SIZE)
        except PlanishError:  # a motif that inference refuses
            continue
        found += sum(1 for _ in case.model.all_nodes()) >= LARGE and reference_for(case.model, case.samples) is not None
        if found == number:
            return case
    raise AssertionError(f"no random model of {LARGE} nodes with opset {opset}")


def shown_large(name: str) -> tuple[Case, str]:
    """A large model on which the fault shows, and where that comes from."""
    for number in range(0 if name in HOSTS else HOST_SEEDS):
        case = large(number)
        if shows(name, case):
            return case, f"random model {case.seed}"
    small = shown_by(name, 8)
    names = small.model.functions.keys()
    hosts = (large(number, small.model.graph.opsets[""]) for number in range(20))
    host = next(host for host in hosts if not names & host.model.functions.keys())
    cases = (grafted(small, host, number) for number in range(len(small.samples)))
    case = next(case for case in cases if shows(name, case))
    return case, "written model, grafted" if name in HOSTS else f"random model {small.seed}, grafted"


def grafted(small: Case, big: Case, number: int = 0) -> Case:
    """Both models in one, side by side, with one sample: that of the small one, and the first of the big one."""
    part, model = clone_model(small.model), clone_model(big.model)
    graph = model.graph
    for key, function in part.functions.items():
        model.functions[key] = function
    graph.opsets.update(part.graph.opsets)
    sample: dict[str, Array] = dict(big.samples[0])
    outputs, names = list(part.graph.outputs), [f"part/{p.name}" for p in part.graph.ports]
    part.graph.ret.set_inputs([])
    _move(part, model, sample, small.samples[number])
    graph.set_outputs([*graph.outputs, *outputs], [*(p.name for p in graph.ports), *names])
    return Case(small.seed, model, [sample])


def _move(part: Model, model: Model, sample: dict[str, Array], given: Mapping[str, Array]) -> None:
    """Inputs, constants and nodes of ``part`` go into ``model``."""
    graph = model.graph
    for value in list(part.graph.inputs):
        name = f"part/{value.name}"
        new = graph.add_input(name, value.type)
        if value in part.graph.defaults:
            graph.defaults[new] = part.graph.defaults[value]
        if value.name in given:
            sample[name] = given[value.name]
        value.replace_uses(new)
    for value in list(part.graph.constants):
        assert value.data is not None
        value.replace_uses(graph.add_constant(value.data, value.name))
    for node in list(part.graph):
        part.graph.unlink(node)
        graph.append(node)


# -- bisecting


@dataclass
class Traced:
    """What became of one planted fault in one model."""

    name: str
    host: str
    nodes: int
    caught: str
    """How it showed: a kind of ``driver/bisect/judge.py``; empty where it was missed."""
    rule: str
    """The rule that was found guilty."""
    seconds: float
    cpu_seconds: float
    repro_nodes: int
    text: str = ""

    @property
    def right(self) -> bool:
        return self.rule == f"{self.name}/{MUTANTS[self.name].__name__}"


def trace(name: str, case: Case, host: str = "") -> Traced:
    """Bisects and shrinks."""
    start, cpu = time.monotonic(), time.process_time()
    found: Bisection = planish.bisect(case.model, PIPELINE.format(name), case.samples, reduce=True, seconds=600)
    spent = time.monotonic() - start, time.process_time() - cpu
    g, r = found.guilty, found.reproducer
    nodes = sum(1 for _ in case.model.all_nodes())
    return Traced(
        name, host, nodes, g.kind if g else "", g.rule if g else "", *spent, r.nodes if r else 0, r.text if r else ""
    )
