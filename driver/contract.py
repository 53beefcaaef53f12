"""What the passes of a run promise about numbers, taken together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..passes.core import Numbers
from ..passes.manager import Pipeline, RunRecord
from ..passes.pipeline import flatten


def contract_of(record: RunRecord, pipeline: Pipeline) -> Numbers:
    """The weakest promise of the passes that changed something."""
    order = [Numbers.EXACT, Numbers.REASSOCIATES, Numbers.APPROXIMATES]
    changed = {p.name for p in record.passes if p.changes}
    found = Numbers.EXACT
    for step in leaf_steps(pipeline.steps):
        if str(step) in changed:
            found = max(found, *(p.numbers for p in flatten([step])), key=order.index)
    return found


def leaf_steps(steps: Sequence[Any]) -> list[Any]:
    """The steps that records name: what is repeated stands for itself."""
    found: list[Any] = []
    stack = list(reversed(steps))
    while stack:
        step = stack.pop()
        inner = getattr(step, "steps", None)
        if inner is None:
            found.append(step)
        else:
            stack.extend(reversed(inner))
    return found
