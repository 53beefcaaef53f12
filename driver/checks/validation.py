"""The verdict of a comparison of two models, as data and as a document."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ...ir.errors import UsageError
from ...passes.core import Numbers
from ..document import SCHEMA, Document, Table, Text, plain_data
from ..prove.ledger import Ledger
from .compare import FLOOR, LOW_FLOOR, NOISE, OutputCheck

LEVELS = ("none", "structure", "final", "each-pass", "each-rewrite")
RUNS = ("final", "each-pass", "each-rewrite")
"""Levels at which the two models are run."""
REWRITES = 8
"""How many rewrites of each rule ``each-rewrite`` checks where it does not say: ``each-rewrite:20``, ``:all``."""


def level_of(text: str) -> tuple[str, int | None]:
    """The level, and for ``each-rewrite`` how many of each rule (``None``: all). Raises ``UsageError``."""
    level, colon, count = text.partition(":")
    if level not in LEVELS or (colon and level != "each-rewrite"):
        raise UsageError(
            f"validation level {text!r} does not exist", where="optimize", help=f"one of: {', '.join(LEVELS)}[:N|:all]"
        )
    if not colon or count == "all":
        return level, None if colon else REWRITES
    if not count.isdigit() or not int(count):
        raise UsageError(f"{text!r} does not say how many", where="optimize", help="each-rewrite:8, each-rewrite:all")
    return level, int(count)


@dataclass
class Validation:
    """What was compared, by which bounds, and what came out."""

    level: str
    """What was asked for: one of ``LEVELS``, with the number of rewrites behind a colon."""
    method: str = "none"
    """What was done: ``none``, ``structure`` or ``numeric``."""
    equivalent: bool | None = None
    """``None`` where nothing was checked."""
    because: str = ""
    """Why less was done than asked for."""
    contract: str = Numbers.EXACT.value
    """The weakest promise of the passes that changed something."""
    reference: str = ""
    samples: int = 0
    origin: str = ""
    ranges: dict[str, str] = field(default_factory=dict[str, str])
    tolerance: float = 0.0
    outputs: list[OutputCheck] = field(default_factory=list[OutputCheck])
    """The optimized model as written."""
    optimized_outputs: list[OutputCheck] = field(default_factory=list[OutputCheck])
    """The optimized model under the runtime's own optimizer."""
    problems: list[str] = field(default_factory=list[str])
    """What makes the two different."""
    warnings: list[str] = field(default_factory=list[str])
    part: str = ""
    """What was compared, where the result has lossy passes on top: those are judged by the error budget."""
    rewrites: Ledger | None = None
    """What is known of each rewrite of the run, where that was asked for."""

    def of_part(self, part: str, structure: Validation) -> Validation:
        """The same of a result that differs from what was compared; ``structure`` was checked on the result."""
        ok = None if self.equivalent is None else self.equivalent and not structure.problems
        problems = [*self.problems, *structure.problems]
        return replace(self, equivalent=ok, problems=problems, contract=Numbers.APPROXIMATES.value, part=part)

    @property
    def short(self) -> bool:
        """Whether less was proved than was asked for."""
        return self.level.partition(":")[0] in RUNS and self.method != "numeric"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        rewrites = self.rewrites.to_dict() if self.rewrites is not None else None
        return plain_data({"schema": SCHEMA, **asdict(self), "bound": self.bound, "rewrites": rewrites})

    @property
    def bound(self) -> str:
        """The bound as a sentence."""
        extra = f" + {self.tolerance:g} x scale (allowed)" if self.tolerance else ""
        return (
            f"integers, booleans and strings equal; floats within {FLOOR:g} eps ({LOW_FLOOR:g} for 16 bits) "
            f"x scale of the element's slice"
            f" + {NOISE:g} x measured rounding noise{extra}; NaN and infinities in the same places"
        )

    def document(self) -> Document:
        """What is printed."""
        return list(_parts(self))


def _parts(v: Validation) -> Iterator[Text | Table]:
    if v.method == "none":
        yield Text("NOT validated: nothing was checked, as asked for", "red")
        return
    if v.method == "structure":
        why = f" because {v.because}" if v.because else ", as asked for"
        verdict = "sound" if v.equivalent else "NOT equivalent"
        yield Text(f"validated: structure only{why}; {verdict}", "red" if v.because or not v.equivalent else "yellow")
    else:
        verdict = "equivalent" if v.equivalent else "NOT equivalent"
        part = f"{v.part} is " if v.part else ""
        yield Text(
            f"validated: {part}{verdict} on {v.samples} samples ({v.origin})", "green" if v.equivalent else "red"
        )
        yield Text(f"  against {v.reference}")
        yield Text(f"  bound: {v.bound}")
        rows = [
            row
            for label, checks in (("as written", v.outputs), ("runtime-optimized", v.optimized_outputs))
            for row in _check_rows(label, checks)
        ]
        columns = ("output", "run", "result", "max error>", "of scale>", "of bound>")
        yield Table("", columns, list(rows))
    for problem in v.problems:
        yield Text(f"  different: {problem}", "red")
    for warning in v.warnings:
        yield Text(f"  warning: {warning}", "yellow")
    if v.rewrites is not None:
        yield from v.rewrites.document()


def _check_rows(label: str, checks: list[OutputCheck]) -> Iterator[tuple[str, ...]]:
    for c in checks[:12]:
        share = f"{c.used:.1%}" if c.used < 100 else ">100x"
        yield (c.output, label, c.status, f"{c.error:.2g}", f"{c.relative:.2g}", share)
    if len(checks) > 12:
        yield ("...", label, f"{len(checks) - 12} more", "", "", "")
