"""Runs every golden suite. See ``README.md`` beside this file."""

from __future__ import annotations

from pathlib import Path

import pytest

from planish.driver.calibrate import Observer, observer
from planish.ir.graph import Model
from planish.ir.onnx_writer import model_to_bytes
from planish.ir.text.parser import parse_model
from planish.ir.text.printer import print_model
from planish.ir.verify import verify
from planish.passes.core import Context, Fuel, Numbers, pass_name
from planish.passes.manager import Pipeline
from planish.passes.pipeline import flatten
from planish.passes.registry import entries
from planish.passes.target import get_target

from .execution import compare_runs, make_feeds, symbol_values
from .suite import HERE, Case, accept_result, cases, suite_files

CASES = [case for file in suite_files() for case in cases(file)]
COPIES = 3


DEFAULT_HEAD = 'model ir=10 opset {"" = 21}\n'


def text_of(model: Model) -> str:
    """The model's text, without a first line that says what holds anyway."""
    return print_model(model).removeprefix(DEFAULT_HEAD).rstrip() + "\n"


def numbers_of(pipeline: Pipeline) -> Numbers:
    """The loosest contract of the passes."""
    order = list(Numbers)
    return max((p.numbers for p in flatten(pipeline.steps)), key=order.index, default=Numbers.EXACT)


def reasons_of(ctx: Context, notes: list[str]) -> list[str]:
    """Why rules declined, and what passes noted."""
    return [reason for stats in ctx.statistics.values() for reason in stats.reasons] + notes


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_golden(case: Case, accept: bool) -> None:
    model, original = parse_model(case.before), parse_model(case.before)
    verify(model)
    before = text_of(model)
    pipeline = Pipeline(case.pipeline)
    numbers = numbers_of(pipeline)
    assert numbers is not Numbers.APPROXIMATES or "tolerance" in case.options, "an approximating pass needs a tolerance"

    notes: list[str] = []
    fuel = Fuel(int(case.options["fuel"])) if "fuel" in case.options else Fuel()
    target = get_target(case.options["target"]) if "target" in case.options else None
    ctx = Context(target=target, trace=True, sink=notes.append, fuel=fuel, observe=observe_of(case, original))
    pipeline.run(model, ctx)
    verify(model)
    found = text_of(model)
    reasons = reasons_of(ctx, notes)
    if "norun" not in case.options:
        assert compare_runs(original, model, case.options, numbers) is None

    if accept:
        known = [case.because] if case.because and any(case.because in reason for reason in reasons) else reasons
        accept_result(case, None if found == before else found, next(iter(known), ""))
    elif case.after is None:
        assert found == before
        assert case.because, "say why: because=..."
        assert any(case.because in reason for reason in reasons), f"recorded reasons: {reasons}"
    else:
        expected = case.after.rstrip()
        if found.rstrip() != expected:  # written by hand, in another form of the same text?
            expected = text_of(parse_model(case.after)).rstrip()
        assert found.rstrip() == expected

    if "fuel" not in case.options:
        again = pipeline.run(model, Context(target=target))
        assert text_of(model) == found, "a second run changed the result of the first"
        assert again.changes == 0


def observe_of(case: Case, model: Model) -> Observer | None:
    """What observes values on as many seeded inputs as the case says."""
    if "samples" not in case.options:
        return None
    dims = next(symbol_values(model, case.options.get("dims", "")))
    seeds = range(100, 100 + int(case.options["samples"]))
    return observer([make_feeds(model, dims, seed, case.options, special=False) for seed in seeds])


def bytes_of(case: Case) -> bytes:
    """The file that a pipeline makes of a model whose nodes are named, so that it says what new nodes come from."""
    model = parse_model(case.before)
    for i, node in enumerate(model.all_nodes()):
        node.name = f"node_{i}"
    target = get_target(case.options["target"]) if "target" in case.options else None
    Pipeline(case.pipeline).run(model, Context(target=target, observe=observe_of(case, model)))
    return model_to_bytes(model)


@pytest.mark.parametrize("file", suite_files(), ids=lambda f: f"{f.parent.name}/{f.stem}")
def test_copies_give_the_same_bytes(file: Path) -> None:
    """Nothing depends on the order of addresses: what is alive beside the copies moves them."""
    for case in cases(file):
        if case.after is not None and "fuel" not in case.options:
            alive: list[object] = []
            found: set[bytes] = set()
            for i in range(COPIES):
                alive.append([object() for _ in range(37 * i)])
                found.add(bytes_of(case))
            assert len(found) == 1, case.id


@pytest.mark.parametrize("file", suite_files(), ids=lambda f: f"{f.parent.name}/{f.stem}")
def test_suite_belongs_to_a_pass_and_is_complete(file: Path) -> None:
    entry = entries().get(file.stem.replace("_", "-"))
    assert entry is not None, f"there is no pass {file.stem}"
    assert entry.family == file.parent.name
    assert pass_name(entry.load()) == entry.name
    found = cases(file)
    assert any(c.after is not None for c in found), "no positive case"
    assert any(c.after is None for c in found), "no declined case"


def test_every_pass_has_a_suite() -> None:
    have = {(f.parent.name, f.stem.replace("_", "-")) for f in suite_files()}
    missing = sorted(
        f"{e.family}/{e.name}" for e in entries().values() if e.owner == "planish" and (e.family, e.name) not in have
    )
    assert missing == [], f"write suites below {HERE.name}/"
