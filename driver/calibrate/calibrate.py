"""``calibrate``: statistics of a model's values on samples, saved on the way and gone on with after an interruption."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...backends.ort.session import SessionSettings
from ...ir.clone import clone_model
from ...ir.dtypes import DType
from ...ir.errors import UsageError
from ...ir.graph import Model
from ...ir.safe_files import output_path
from ...passes.context import Context
from ...passes.manager import Pipeline
from ...passes.shared.quant.estimators import METHODS, estimate, relative_error
from ...passes.shared.quant.scheme import Scheme
from ...passes.shared.quant.statistics import Kind, Observed, Statistics, Want, value_names
from ...passes.target import Target, get_target
from ..checks.trial import Trial, needs_trial
from ..checks.validate import AnyModel, as_model
from ..document import SCHEMA, Document, Table, Text, plain_data
from ..inputs.samples import Source
from .file import CalibrationFile, write_calibration
from .observe import MAX_MEMORY_BYTES
from .run import Run, Settings
from .stream import SampleStream

Progress = Callable[[str, int, int], None]
_SHOWN = 40


@dataclass
class Calibration:
    """What was observed, and what ranges follow from it."""

    model: str
    """Its file's name."""
    origin: str
    statistics: Statistics
    wants: list[Want]
    method: str = "mse"
    seconds: float = 0.0
    resumed: int = 0
    """Samples that an earlier run had looked at."""
    shown: int = _SHOWN
    """Rows of the table; 0 shows all."""
    notes: list[str] = field(default_factory=list[str])
    file: CalibrationFile | None = None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes ``calibration.npz``, whole or not at all. Raises ``UsageError``."""
        assert self.file is not None
        write_calibration(output_path(path), self.file)

    def ranges(self, scheme: Scheme) -> dict[str, tuple[float, float]]:
        """The range of each value by the method, for values to be stored so."""
        return {name: estimate(o, scheme, self.method) for name, o in self.statistics.values.items() if o.count}

    def to_dict(self) -> dict[str, Any]:
        values = {name: _figures(o, self.method) for name, o in self.statistics.values.items()}
        return plain_data(
            {
                "schema": SCHEMA,
                "model": self.model,
                "samples": self.statistics.samples,
                "origin": self.origin,
                "method": self.method,
                "values": values,
                "declined": self.statistics.declined,
                "unusual": self.statistics.unusual,
                "resumed": self.resumed,
                "seconds": self.seconds,
                "notes": self.notes,
            }
        )

    def document(self) -> Document:
        found = self.statistics
        head = f"{self.model}: {len(found.values)} values observed on {found.samples} samples ({self.origin})"
        document: Document = [Text(head, "bold")]
        if self.resumed:
            document.append(Text(f"{self.resumed} of them by an earlier run"))
        seen = [(name, _figures(o, self.method)) for name, o in found.values.items() if o.count]
        seen.sort(key=lambda item: -item[1]["error"])
        rows = [_row(name, figures) for name, figures in seen[: self.shown or None]]
        columns = ("value", "lowest>", "highest>", "rms>", "from>", "to>", "error at 8 bits>")
        left = f" (the worst {self.shown} of {len(seen)})" if self.shown and len(seen) > self.shown else ""
        document.append(Table(f"ranges by {self.method}{left}", columns, rows))
        document += [Text(f"%{name} holds {what}", "red") for name, what in found.unusual.items()]
        unseen = [name for name, o in found.values.items() if not (o.count or o.nan or o.infinite)]
        if unseen:
            document.append(Text(f"{len(unseen)} values were never computed, as {', '.join(unseen[:5])}", "yellow"))
        document += [Text(f"%{name}: {reason}", "yellow") for name, reason in list(found.declined.items())[:10]]
        document += [Text(note, "yellow") for note in self.notes]
        return document

    def __str__(self) -> str:
        from ..document import plain

        return plain(self.document())


def calibrate(
    model: AnyModel,
    samples: Source,
    output: str | os.PathLike[str] | None = None,
    *,
    pipeline: str = "",
    target: str | Target = "generic",
    values: Iterable[str] | None = None,
    kinds: Kind = Kind.RANGE | Kind.HISTOGRAM,
    method: str = "mse",
    count: int | None = None,
    max_memory_bytes: int = MAX_MEMORY_BYTES,
    threads: int = 1,
    restart: bool = False,
    progress: Progress | None = None,
) -> Calibration:
    """Runs ``model`` on ``samples``, one at a time, and gathers statistics of its float values.

    * ``samples``: an ``.npz`` file or a folder, which are read piece by piece, arrays, an iterable, or a function that
      returns one; the first ``count`` of them.
    * ``output``: where statistics are kept, now and then while it runs. A file that is there already is gone on with
      where it is of the same model, values and samples; ``restart`` begins anew.
    * ``pipeline``: passes to run on the model first, for ``target``.
    * ``values``: names; all float values where none are given, those inside bodies and functions included.
    * ``method``: how ranges are shown: ``min-max``, ``moving-average``, ``percentile``, ``entropy``, ``mse``.
    * ``max_memory_bytes``: what values and statistics may take, beside the model and its own temporaries.

    Raises ``UsageError`` for what is wrong with the arguments or the file, ``BackendError`` where the model does not
    run on a sample. ``KeyboardInterrupt`` leaves a file to go on with.
    """
    start = time.monotonic()
    if method not in METHODS:
        raise UsageError(f"unknown method {method!r}", where="calibrate", help=f"one of {', '.join(METHODS)}")
    original, source = as_model(model)
    notes: list[str] = []
    staged = clone_model(original) if pipeline else original
    if pipeline:
        chosen = get_target(target) if isinstance(target, str) else target
        Pipeline(pipeline).run(staged, Context(target=chosen, sink=notes.append))
    wants = [Want(name, kinds | Kind.RANGE, axis=1) for name in (values if values is not None else _floats(staged))]
    path = output_path(output) if output is not None else None
    stream = SampleStream(samples, original, limit=count, again=False)
    how = Settings(SessionSettings("all", threads=threads), max_memory_bytes, progress)
    run = Run(original, staged, wants, stream, path, how)
    run.trial = Trial(original, source) if needs_trial(original) else None
    if path is not None and path.exists() and not restart:
        run.resume(path)
    run.go()
    name = source.name if isinstance(source, Path) else "model"
    found = Calibration(name, run.file.origin, run.stage.statistics, wants, method, resumed=run.resumed, notes=notes)
    found.file, found.seconds = run.file, time.monotonic() - start
    return found


def _floats(model: Model) -> list[str]:
    return [name for v, name in value_names(model).items() if v.dtype is None or v.dtype.is_float]


def _figures(observed: Observed, method: str) -> dict[str, Any]:
    """Numbers for the report, for storage in 8 bits."""
    plain: dict[str, Any] = {"count": observed.count, "low": observed.low, "high": observed.high, "rms": observed.rms}
    if observed.count and observed.histogram is not None:
        scheme = Scheme(DType.U8, symmetric=False)
        low, high = estimate(observed, scheme, method)
        plain |= {"from": low, "to": high, "error": relative_error(observed, low, high, scheme)}
    return {"error": 0.0} | plain


def _row(name: str, figures: dict[str, Any]) -> tuple[str, ...]:
    ends = [f"{figures[key]:.4g}" if key in figures else "" for key in ("low", "high", "rms", "from", "to")]
    return (f"%{name}", *ends, f"{100 * figures['error']:.2g} %")
