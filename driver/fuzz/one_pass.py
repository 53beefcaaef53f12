"""``check-pass``: the fuzzer pointed at one pass, alone and among others; what a plugin's author runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ...ir.errors import PipelineError
from ...passes.core import Pass
from ...passes.manager import Pipeline
from ..document import SCHEMA, Document, Text, plain_data
from .campaign import Campaign, fuzz, rule_labels

Progress = Callable[[str, int, int], None]
AMONG = ("clean,{},clean", "{},default")
"""Pipelines in which the pass is checked besides alone."""


@dataclass
class PassCheck:
    """What came out."""

    name: str
    """Pipeline text of the pass."""
    contract: str
    """Its numeric promise."""
    campaign: Campaign
    hits: dict[str, int] = field(default_factory=dict[str, int])
    """How often each of its rules fired."""

    @property
    def passed(self) -> bool:
        return not self.campaign.found

    @property
    def idle(self) -> list[str]:
        """Rules that never fired: nothing is known about them."""
        return [label for label, n in self.hits.items() if not n]

    def to_dict(self) -> dict[str, Any]:
        campaign = self.campaign.to_dict()
        del campaign["schema"], campaign["rules"]
        plain = {"name": self.name, "contract": self.contract, "passed": self.passed, "hits": self.hits}
        return plain_data({"schema": SCHEMA, **plain, "idle": self.idle, **campaign})

    def document(self) -> Document:
        own = replace(self.campaign, rules={})  # which rules of other passes never fired is of no interest
        document: Document = [Text(f"{self.name}: promises {self.contract}", "bold"), *own.document()]
        for label, n in self.hits.items():
            document.append(Text(f"  {label} fired {n} times on {self.campaign.models} models", "" if n else "yellow"))
        if self.idle or not self.hits:
            document.append(Text("  what never fired is not checked by this: write golden cases for it", "yellow"))
        return document


def check_pass(
    name: str,
    minutes: float = 1.0,
    *,
    seed: int = 0,
    models: int | None = None,
    source: str | os.PathLike[str] | None = None,
    keep: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> PassCheck:
    """Checks a registered pass (``name`` may carry options, ``fold-pad{...}``) on random models, or near ``source``.

    Raises ``PipelineError`` where there is no such pass, or ``name`` is a pipeline.
    """
    steps = Pipeline(name).steps
    if len(steps) != 1 or not isinstance(steps[0], Pass):
        raise PipelineError(f"{name!r} is not one pass", where="check-pass", help="`planish fuzz -p` takes pipelines")
    one = steps[0]
    pipelines = [name, *(text.format(name) for text in AMONG)]
    campaign = fuzz(minutes, pipelines=pipelines, seed=seed, models=models, source=source, keep=keep, progress=progress)
    hits = {label: campaign.rules[label] for label in rule_labels(str(one))}
    return PassCheck(str(one), type(one).numbers.value, campaign, hits)
