"""Two models of other tools' making: which value of the one has no equal in the other first.

How values are paired and compared is in ``driver/checks/pairing.py``. The first one in order of execution that
differs, while everything it is computed from agrees, is where the second model went wrong.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any

from ...backends.ort.session import Session
from ...ir.errors import PlanishError, UsageError
from ...ir.text.printer import print_node
from ..checks.compare import OutputCheck
from ..checks.pairing import Pairing
from ..checks.reference import Reference
from ..checks.validate import AnyModel, as_model, make_reference, make_samples
from ..document import SCHEMA, Document, Text, plain_data
from ..inputs.samples import Source

MAX_SHOWN = 12


@dataclass
class Alignment:
    """The outcome of :func:`align`."""

    paired: dict[str, int] = field(default_factory=dict[str, int])
    """Number of pairs by how they were found: ``name``, ``structure``, ``content``."""
    values: tuple[int, int] = (0, 0)
    """Values of the two models' main graphs."""
    first: str = ""
    """Where outputs differ the first value that does, by its name in the first model; else empty."""
    check: OutputCheck | None = None
    a: list[str] = field(default_factory=list[str])
    """The nodes of the first model between values that agree and the one that differs."""
    b: list[str] = field(default_factory=list[str])
    """The same of the second model."""
    agree: list[str] = field(default_factory=list[str])
    """The last values that agree, from which it is computed."""
    differing: int = 0
    """Pairs that differ on the way to the outputs."""
    outputs: list[OutputCheck] = field(default_factory=list[OutputCheck])
    because: str = ""
    """Why less was found than asked for."""
    samples: int = 0
    seconds: float = 0.0

    @property
    def equal(self) -> bool:
        return not self.first and all(c.equivalent for c in self.outputs) and not self.because

    def to_dict(self) -> dict[str, Any]:
        return plain_data({"schema": SCHEMA, "equal": self.equal, **asdict(self)})

    def document(self) -> Document:
        pairs = ", ".join(f"{n} by {how}" for how, n in self.paired.items()) or "none"
        head = f"{sum(self.paired.values())} values of {self.values[0]} and {self.values[1]} paired ({pairs})"
        document: Document = [Text(head)]
        if self.because:
            document.append(Text(self.because, "red"))
        if not self.first:
            bad = [c for c in self.outputs if not c.equivalent]
            document += [Text(f"  {c}", "red") for c in bad]
            if not bad and not self.because:
                document.append(Text(f"the outputs agree on {self.samples} samples", "green"))
            return document
        document.append(
            Text(
                f"the first value that differs is {self.first!r}; {self.differing} differ from there to the outputs",
                "bold",
            )
        )
        document.append(Text(f"  {self.check}"))
        if self.agree:
            document.append(Text(f"  computed from values that agree: {', '.join(self.agree[:MAX_SHOWN])}"))
        for title, lines in (("in the first model", self.a), ("in the second model", self.b)):
            document.append(Text(f"  {title}"))
            document += [Text(f"    {line}") for line in lines[:MAX_SHOWN]]
        return document


def align(
    a: AnyModel,
    b: AnyModel,
    samples: Source | None = None,
    *,
    tolerance: float = 0.0,
    seed: int = 0,
) -> Alignment:
    """Runs both models on the same samples and names the first value at which ``b`` departs from ``a``.

    Raises ``UsageError`` where the runtime cannot run ``a``.
    """
    start = time.monotonic()
    (left, run_left), (right, run_right) = as_model(a), as_model(b)
    reference = make_reference(left, run_left, optimizer_noise=False)
    if isinstance(reference, str):
        raise UsageError(f"nothing to compare with: {reference}", where="bisect", help="aligning runs both models")
    items = make_samples(samples, left, reference, seed=seed).items
    found = Alignment()
    found.outputs = _outputs(reference, run_right, found, tolerance)
    _pair(found, Pairing(left, right, items, tolerance))
    found.samples, found.seconds = len(items), time.monotonic() - start
    return found


def _pair(found: Alignment, pairing: Pairing) -> None:
    """Adds the values that correspond, and where outputs differ the first of them that does."""
    found.paired, found.values = pairing.found, (len(pairing.values[0]), len(pairing.values[1]))
    wrong = [c.output for c in found.outputs if not c.equivalent]
    departure = pairing.departure([port.partition("[")[0] for port in wrong]) if wrong else None
    found.because = found.because or pairing.because
    if departure is not None:
        found.first, found.check, found.differing = departure.value.name, departure.check, departure.differing
        found.a, found.b = ([print_node(n) for n in nodes] for nodes in (departure.a, departure.b))
        found.agree = [v.name for v in departure.agree]


def _outputs(reference: Reference, right: Any, found: Alignment, tolerance: float) -> list[OutputCheck]:
    """The outputs of both as they are."""
    try:
        session = Session(right)
        checks = [
            c
            for i, sample in enumerate(reference.samples)
            for c in reference.compare(i, session.run(sample), tolerance=tolerance)
        ]
    except PlanishError as error:
        found.because = f"the second model does not run: {error.message}"
        return []
    merged: dict[str, OutputCheck] = {}
    for check in checks:
        if check.output in merged:
            merged[check.output].merge(check)
        else:
            merged[check.output] = check
    return list(merged.values())
