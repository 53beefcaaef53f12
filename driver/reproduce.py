"""Replays a reproducer: the text file that is written when a pass fails or a result differs."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..backends.ort.backend import Executor
from ..ir.clone import clone_model
from ..ir.constants import SeededConstant
from ..ir.errors import PlanishError, UsageError
from ..ir.graph import Model
from ..ir.limits import current_limits
from ..ir.text.parser import parse_model
from ..ir.text.sidecar import load_resources
from ..ir.verify import verify
from ..passes.core import Context, Fuel
from ..passes.instruments import VerifyEach
from ..passes.manager import Pipeline
from ..passes.target import get_target
from .bisect.judge import SLOWER, Judge
from .checks.reference import Reference
from .checks.validate import check_numbers, make_reference, make_samples
from .document import SCHEMA, Document, Text
from .inputs.sample_text import KEY, parse_sample


@dataclass
class Replay:
    """What came of it."""

    pipeline: str
    reproduced: bool
    """Whether it still fails."""
    expected: str
    """The first line of the error that was recorded."""
    error: str = ""
    """The error of this run."""
    changes: int = 0
    header: dict[str, str] = field(default_factory=dict[str, str])

    def to_dict(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self)}

    def document(self) -> Document:
        verdict = "it still fails" if self.reproduced else "it does not fail any more"
        document: Document = [Text(f"{self.pipeline}: {verdict} ({self.changes} changes)", "bold")]
        document.append(Text(f"recorded: {self.expected}"))
        document.append(Text(self.error or "this run: no error", "red" if self.error else "green"))
        return document


def replay(path: str | os.PathLike[str]) -> Replay:
    """Runs the pipeline of a reproducer on its model, verifies, and compares outputs where the runtime can.

    Raises ``UsageError`` for a file that is no reproducer and ``TextError`` for one that does not parse.
    """
    path = Path(path)
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}", where="run", help="give a file repro-....ir") from None
    header = _header(text)
    if "pipeline" not in header:
        raise UsageError(
            f"{path} is no reproducer: it does not start with `// pipeline: ...`", where="run", help="see --repro-dir"
        )
    beside = path.with_suffix(".npz")
    original = parse_model(text, resources=load_resources(beside) if beside.exists() else None)
    _refuse_random(original)
    model = clone_model(original)
    found = Replay(header["pipeline"], False, header.get("error", ""), header=header)
    try:
        ctx = _context(header)
        found.changes = Pipeline(header["pipeline"]).run(model, ctx, [VerifyEach()]).changes
        verify(model, types=True)
        reference = make_reference(original)
        if not isinstance(reference, str):
            given = [parse_sample(header[KEY])] if KEY in header else None
            samples = make_samples(given, original, reference, seed=ctx.seed)
            checked = check_numbers(reference, model, samples)
            found.error = "; ".join(checked.problems) or _slowness(reference, model, header)
    except PlanishError as error:
        found.error = str(error)
    found.reproduced = bool(found.error)
    return found


def _slowness(reference: Reference, model: Model, header: dict[str, str]) -> str:
    """What is said of the time it takes, where that was the fault."""
    ratio = _ratio(header)
    fault = Judge(reference, slower=ratio).slowness(model) if ratio is not None else None
    return "" if fault is None else str(fault)


def _ratio(header: dict[str, str]) -> float | None:
    """The allowed time of a reproducer of a slowdown, as a share of the original's. Raises ``UsageError``."""
    if SLOWER not in header:
        return None
    try:
        return float(header[SLOWER])
    except ValueError:
        raise UsageError(
            f"the reproducer states {SLOWER} {header[SLOWER][:40]!r}, expected a number",
            where="run",
            help="the file was changed by hand, or damaged",
        ) from None


def _refuse_random(model: Model) -> None:
    """Raises ``UsageError`` where random constants ask for more than ``Limits.random_bytes`` in all."""
    limit, total = current_limits.get().random_bytes, 0
    for value in [v for graph in model.all_graphs() for v in graph.constants]:
        total += value.data.nbytes if isinstance(value.data, SeededConstant) else 0
        if total > limit:
            raise UsageError(
                f"random constants of {total} bytes up to %{value.name}, the limit is {limit}",
                where="run",
                help="if you trust who wrote the text: planish --limit random_bytes=N run FILE",
            )


def _header(text: str) -> dict[str, str]:
    header: dict[str, str] = {}
    for line in text.splitlines():
        if not line.startswith("// "):
            break
        key, _, value = line[3:].partition(":")
        header[key.strip()] = value.strip()
    return header


def _number(header: dict[str, str], key: str) -> int | None:
    """A whole number of the header, ``None`` where it states none. Raises ``UsageError``."""
    text = header.get(key, "")
    if text and not (text.isdecimal() and len(text) < 19):
        raise UsageError(
            f"the reproducer states {key} {text[:40]!r}, expected a whole number",
            where="run",
            help="the file was changed by hand, or damaged",
        )
    return int(text) if text else None


def _context(header: dict[str, str]) -> Context:
    target = header.get("target", "-")
    disabled = frozenset(filter(None, header.get("disabled", "").split(",")))
    return Context(
        target=get_target(target) if target != "-" else None,
        executor=Executor(),
        seed=_number(header, "seed") or 0,
        fuel=Fuel(_number(header, "fuel")),
        disabled=disabled,
    )
