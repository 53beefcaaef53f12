"""``bisect``: from a model and a pipeline to the rewrite at fault and a small reproducer, as data and as a document."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...backends.ort.backend import Executor
from ...ir.errors import UsageError
from ...passes.context import Context
from ...passes.manager import Pipeline
from ...passes.target import Target, get_target
from ..checks.validate import AnyModel, as_model, make_reference, make_samples
from ..document import SCHEMA, Document, Text, plain_data
from ..inputs.samples import Source
from .judge import Judge, reference_for
from .reproducer import Reproducer, lines_around, make_reproducer
from .search import Guilty, Search

Progress = Callable[[str, int, int], None]


@dataclass
class Bisection:
    """The outcome of :func:`bisect`."""

    pipeline: str
    runs: int
    """Runs of the pipeline."""
    guilty: Guilty | None = None
    ranges: dict[str, str] = field(default_factory=dict[str, str])
    """What made-up samples were drawn from."""
    lines: list[str] = field(default_factory=list[str])
    """Lines of the textual form that the rewrite changed."""
    reproducer: Reproducer | None = None
    file: str = ""
    """Where the reproducer was written."""
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        r = self.reproducer
        small = None if r is None else {"nodes": r.nodes, "tests": r.tests, "pipeline": r.pipeline, "text": r.text}
        return plain_data(
            {
                "schema": SCHEMA,
                "pipeline": self.pipeline,
                "runs": self.runs,
                "guilty": None if self.guilty is None else asdict(self.guilty),
                "ranges": self.ranges,
                "lines": self.lines,
                "reproducer": small,
                "file": self.file,
                "seconds": self.seconds,
            }
        )

    def document(self) -> Document:
        g = self.guilty
        if g is None:
            return [Text("equivalent: there is nothing to find", "green")]
        document: Document = [Text(str(g), "bold"), Text(f"  {g.kind or 'wrong'}: {g.problem}")]
        if g.number:
            document.append(Text(f"  pass   {g.pass_name}" + (f"   in {g.step}" if g.step != g.pass_name else "")))
        if g.place is not None:
            document.append(Text(f"  rule   {g.place}"))
        document += [Text(f"    {line}", "green" if line[0] == "+" else "red") for line in self.lines]
        if g.rule:
            document.append(Text(f"  leave it out with --disable {g.rule}; found in {self.runs} runs of the pipeline"))
        r = self.reproducer
        if r is not None:
            document.append(Text(f"reproducer of {r.nodes} nodes ({r.tests} models tried): {r.pipeline}", "bold"))
            document.append(Text(f"  planish run {self.file}" if self.file else r.text))
        return document


def bisect(
    model: AnyModel,
    pipeline: str = "default",
    samples: Source | None = None,
    *,
    target: str | Target = "generic",
    tolerance: float = 0.0,
    seconds: float = 600.0,
    seed: int = 0,
    slower: float | None = None,
    reduce: bool = False,
    repro_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Bisection:
    """Finds the rewrite of ``pipeline`` that makes ``model`` wrong, invalid, fail, or slow on ``samples``.

    ``slower``: a model that takes that many times as long as the original is wrong too. ``reduce``: shrink the model
    to a few nodes around the rewrite; ``repro_dir`` (which implies it) is where that reproducer is written.
    Raises ``UsageError`` where the runtime cannot run the original, since then nothing can be compared, and
    ``PipelineError`` for a pipeline that does not parse.
    """
    start = time.monotonic()
    Pipeline(pipeline)  # what does not parse is no fault of a rule
    original, source = as_model(model)
    reference = make_reference(original, source, optimizer_noise=False)
    if isinstance(reference, str):
        raise UsageError(f"nothing to compare with: {reference}", where="bisect", help="bisecting runs the original")
    made = make_samples(samples, original, reference, seed=seed)
    kept = reference_for(original, made.items)
    if kept is None:
        raise UsageError("the original runs on none of the samples", where="bisect", help="give samples that it takes")
    reference = kept  # without samples that the original itself refuses, which no rewrite is to blame for
    chosen = get_target(target) if isinstance(target, str) else target

    def context() -> Context:
        return Context(target=chosen, samples=[dict(s) for s in made.items], executor=Executor(), seed=seed)

    if progress is not None:
        progress("looking for the rewrite at fault", 0, 0)
    search = Search(original, pipeline, context, Judge(reference, tolerance=tolerance, slower=slower))
    found = Bisection(pipeline, 0, search.find(start + seconds), made.ranges)
    if found.guilty is not None:
        found.lines = lines_around(search, found.guilty)
        if reduce or repro_dir is not None:
            if progress is not None:
                progress("shrinking the model", 0, 0)
            found.reproducer = make_reproducer(search, found.guilty, seconds=seconds / 2)
    if found.reproducer is not None and repro_dir is not None:
        found.file = str(_written(found.reproducer, Path(repro_dir)))
    found.runs, found.seconds = search.runs, time.monotonic() - start
    return found


def _written(reproducer: Reproducer, folder: Path) -> Path:
    import hashlib

    digest = hashlib.blake2b(reproducer.text.encode(), digest_size=4).hexdigest()
    path = folder / f"repro-{digest}.ir"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(reproducer.text, "utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error}", where="bisect", help="give another folder") from None
    return path
