"""What an optimization did, as data, JSON and a document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from ..ir.graph import Model
from ..passes.manager import PassRecord, RunRecord
from .budget import Ledger
from .checks.validation import Validation
from .document import SCHEMA, Document, Table, Text, bytes_text, plain_data, time_text
from .measuring import Measured
from .memory.footprint import Footprint, plain_footprint
from .tuning.record import Tuning

KEPT, CLEANED, ORIGINAL, UNCHANGED = "kept", "clean-only", "original", "unchanged"
DIMS_ONLY, PARTLY = "dims-only", "partly"


@dataclass
class Size:
    """How large a model is."""

    file_bytes: int
    nodes: int
    constant_bytes: int
    ops: dict[str, int] = field(default_factory=dict[str, int])
    """Nodes by operator, bodies and functions included."""


@dataclass
class Report:
    """Everything ``planish optimize`` has to say."""

    source: str
    target: str
    pipeline: str
    """What was asked for, expanded."""
    before: Size
    after: Size
    decision: str
    """``kept``; ``partly`` (the whole pipeline made it worse, without one group of fusions it did not); ``clean-only``
    (so did that); ``original`` (so did that); ``dims-only`` (the same where dimensions were to be fixed);
    ``unchanged``."""
    reasons: list[str] = field(default_factory=list[str])
    """Why not everything was kept."""
    passes: list[PassRecord] = field(default_factory=list[PassRecord])
    validation: Validation = field(default_factory=lambda: Validation("none"))
    measured: Measured = field(default_factory=Measured)
    tuning: Tuning | None = None
    """What the search tried, where one was asked for."""
    budget: Ledger | None = None
    """What the error budget was spent on, where there is one."""
    footprint: Footprint | None = None
    """Memory at run time, where it was asked for."""
    session: dict[str, Any] = field(default_factory=dict[str, Any])
    """Settings to run the result with (``SessionSettings.to_dict``)."""
    notes: list[str] = field(default_factory=list[str])
    """What passes and the target's kernel table had to say."""
    seconds: float = 0.0
    """CPU time in all."""
    versions: dict[str, str] = field(default_factory=dict[str, str])

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; numbers that JSON lacks become strings."""
        plain: dict[str, Any] = {"schema": SCHEMA, **asdict(self)}
        plain["validation"] = self.validation.to_dict()
        plain["tuning"] = self.tuning.to_dict() if self.tuning is not None else None
        plain["footprint"] = plain_footprint(self.footprint)
        return plain_data(plain)

    def document(self) -> Document:
        """What is printed."""
        return list(_document(self))

    def __str__(self) -> str:
        from .document import plain

        return plain(self.document())


def size_of(model: Model, file_bytes: int) -> Size:
    """Counts of a model."""
    ops: Counter[str] = Counter(f"{n.domain}:{n.op}" if n.domain else n.op for n in model.all_nodes())
    constants = sum(v.data.nbytes for graph in model.all_graphs() for v in graph.constants if v.data is not None)
    return Size(file_bytes, sum(ops.values()), constants, dict(sorted(ops.items())))


def pass_records(record: RunRecord) -> list[PassRecord]:
    """The passes that changed something; for the others one entry with their time would be noise."""
    return [p for p in record.passes if p.changes]


# -- the document


def _document(r: Report) -> Iterator[Text | Table]:
    yield Text(f"{r.source} for {r.target}: {_decision(r)}", "bold")
    for reason in r.reasons:
        yield Text(f"  {reason}", "yellow")
    rows = [
        (
            "file",
            bytes_text(r.before.file_bytes),
            bytes_text(r.after.file_bytes),
            _change(r.before.file_bytes, r.after.file_bytes),
        ),
        (
            "constants",
            bytes_text(r.before.constant_bytes),
            bytes_text(r.after.constant_bytes),
            _change(r.before.constant_bytes, r.after.constant_bytes),
        ),
        ("nodes", str(r.before.nodes), str(r.after.nodes), _change(r.before.nodes, r.after.nodes)),
    ]
    if r.measured.done:
        first, second = r.measured.original_us, r.measured.optimized_us
        rows.append(("run time", time_text(first), time_text(second), _change(first, second)))
    yield Table("", ("", "before>", "after>", "change>"), list(rows))
    ops = _op_rows(r)
    if ops:
        yield Table("operators", ("operator", "before>", "after>"), ops)
    if r.passes:
        yield Table(
            "passes that changed something",
            ("pass", "changes>", "nodes>", "time>", "rules"),
            [_pass_row(p) for p in r.passes],
        )
    yield Text("")
    yield from r.validation.document()
    if r.budget is not None:
        yield from r.budget.document()
    yield Text(f"measured: {r.measured.sentence}")
    if r.tuning is not None:
        yield from r.tuning.document()
    if r.footprint is not None:
        yield from r.footprint.document()
    for note in dict.fromkeys(r.notes):
        yield Text(f"note: {note}", "dim")


def _decision(r: Report) -> str:
    return {
        KEPT: "optimized",
        PARTLY: "optimized in part, further changes made it worse",
        CLEANED: "only cleaned up, further changes made it worse",
        ORIGINAL: "left as it is, every change made it worse",
        UNCHANGED: "nothing to improve",
        DIMS_ONLY: "dimensions fixed, every further change made it worse",
    }[r.decision]


def _change(before: float, after: float) -> str:
    if before == after:
        return "="
    return f"{(after - before) / before * 100:+.1f} %" if before else "new"


def _op_rows(r: Report) -> list[tuple[str, str, str]]:
    names = sorted({*r.before.ops, *r.after.ops})
    changed = [n for n in names if r.before.ops.get(n, 0) != r.after.ops.get(n, 0)]
    return [(n, str(r.before.ops.get(n, 0)), str(r.after.ops.get(n, 0))) for n in changed]


def _pass_row(p: PassRecord) -> tuple[str, ...]:
    hits = sorted(p.hits.items(), key=lambda item: (-item[1], item[0]))
    rules = ", ".join(f"{name.split('/')[-1]} {count}" for name, count in hits[:4]) + (", ..." if len(hits) > 4 else "")
    name = p.name if len(p.name) <= 60 or "," not in p.name else f"({p.name.count(',') + 1} passes together)"
    return (name, str(p.changes), f"{p.nodes_before} -> {p.nodes_after}", time_text(p.seconds * 1e6), rules)
