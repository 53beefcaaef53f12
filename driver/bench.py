"""Run times of models on this machine, measured in turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..backends.measure import Comparison, Measurement, Run, compare, measure
from ..backends.ort.session import Session, SessionSettings
from ..ir.errors import BackendError, UsageError
from .checks.validate import AnyModel, as_model
from .document import SCHEMA, Document, Table, Text, time_text
from .inputs.generate import generate_samples
from .inputs.samples import Samples, Source, load_samples


@dataclass
class Bench:
    """Times of one or more models on the same samples."""

    names: list[str]
    samples: str
    threads: int
    clock: str
    """``cpu``: the thread's own time; ``wall``: with several threads."""
    times: list[Measurement]
    comparisons: list[Comparison] = field(default_factory=list[Comparison])
    """Each further model with the first."""

    def to_dict(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self)}

    def document(self) -> Document:
        rows: list[Sequence[str]] = []
        for i, (name, t) in enumerate(zip(self.names, self.times, strict=True)):
            c = self.comparisons[i - 1] if i else None
            ratio = f"{c.ratio:.3f} ({c.low:.3f} to {c.high:.3f})" if c else "1" if self.comparisons else ""
            rows.append((name, time_text(t.time_us), time_text(t.low_us), time_text(t.high_us), str(t.turns), ratio))
        columns = ("model", "median>", "quarter>", "three quarters>", "turns>", "ratio to the first>")
        threads = "one thread" if self.threads == 1 else f"{self.threads or 'all'} threads"
        about = f"onnxruntime, {threads}, {self.clock} time of one run, samples: {self.samples}"
        return [Text(about), Table("", columns, rows)]


def bench(
    models: Sequence[AnyModel],
    samples: Source | Samples | None = None,
    *,
    seconds: float = 3.0,
    threads: int = 1,
    level: str = "all",
    dims: Mapping[str, int] | None = None,
    seed: int = 0,
) -> Bench:
    """Times ``models`` (one or more, of one interface) on ``samples``, made up where none are given.

    Raises ``BackendError`` when a model does not load or run, ``UsageError`` for samples that do not fit.
    """
    if not models:
        raise UsageError("there is no model to measure", where="bench")
    settings = SessionSettings(level, threads=threads)
    read = [as_model(model) for model in models]
    names = [getattr(source, "name", f"model {i + 1}") for i, (_, source) in enumerate(read)]
    sessions = [Session(source, settings) for _, source in read]
    first = read[0][0]
    if samples is None:
        samples = generate_samples(first, sessions[0].run, seed=seed, dims=dims)
    elif not isinstance(samples, Samples):
        samples = load_samples(samples, first)
    items = samples.items
    for name, session in zip(names, sessions, strict=True):
        try:
            session.run(items[0])
        except BackendError as error:
            error.message = f"{name}: {error.message}"
            raise

    def runner(session: Session) -> Run:
        return lambda turn: session.run(items[turn % len(items)])

    cpu = threads == 1
    result = Bench(names, samples.origin, threads, "cpu" if cpu else "wall", [])
    if len(sessions) == 1:
        result.times = [measure(runner(sessions[0]), seconds=seconds, cpu_clock=cpu)]
    else:
        result.comparisons = compare([runner(s) for s in sessions], seconds=seconds, cpu_clock=cpu)
        result.times = [result.comparisons[0].times[0], *(c.times[1] for c in result.comparisons)]
    return result
