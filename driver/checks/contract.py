"""What the passes of a run promise about numbers, taken together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...passes.core import Numbers
from ...passes.manager import Pipeline, RunRecord
from ...passes.pipeline import Repeat, flatten


@dataclass(frozen=True)
class Contract:
    """A promise about what an optimized model computes."""

    numbers: Numbers = Numbers.REASSOCIATES
    spreads: bool = False
    """Whether NaN may reach results that it did not reach (see ``Pass.spreads``)."""


def contract_of(record: RunRecord, pipeline: Pipeline) -> Contract:
    """The weakest promise of the passes that changed something."""
    order = [Numbers.EXACT, Numbers.REASSOCIATES, Numbers.APPROXIMATES]
    changed = {p.name for p in record.passes if p.changes}
    ran = [p for step in leaf_steps(pipeline.steps) if str(step) in changed for p in flatten([step])]
    numbers = max([Numbers.EXACT, *(p.numbers for p in ran)], key=order.index)
    return Contract(numbers, any(p.spreads for p in ran))


def leaf_steps(steps: Sequence[Any]) -> list[Any]:
    """The steps that records name: what is repeated stands for itself."""
    found: list[Any] = []
    stack = list(reversed(steps))
    while stack:
        step = stack.pop()
        if isinstance(step, Repeat):  # passes may have an option of any name
            stack.extend(reversed(step.steps))
        else:
            found.append(step)
    return found
