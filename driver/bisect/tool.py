"""Another optimizer as the suspect: a model that it makes wrong, shrunk to a few nodes.

The tool is a command that reads one file and writes another, or a function over the bytes of models. Whatever the
original model is, as a file, is what the tool gets. Its result must load in ONNX Runtime, keep the interface, and
compute what the original computes, both run without the runtime's own optimizations.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

from ...backends.core import Sample
from ...backends.ort.session import Session
from ...ir.errors import PlanishError, UsageError
from ...ir.graph import Model
from ...ir.onnx_reader import read_model
from ...ir.onnx_writer import model_to_bytes
from ...ir.text import print_model
from ..checks.validate import AnyModel, as_model, interface_problems, make_reference, make_samples
from ..document import SCHEMA, Document, Text, plain_data
from ..inputs.samples import Source
from .align import Alignment, align
from .judge import CRASH, DIFFERENT, INTERFACE, REFUSED, Fault, cause_of, reference_for
from .reduce import reduce_model
from .reproducer import with_sample

Tool: TypeAlias = Callable[[bytes], bytes]
"""From the bytes of a model to those of the optimized one. May raise anything."""
Progress = Callable[[str, int, int], None]
COMMAND_SECONDS = 120.0
"""A command that runs longer counts as failed."""


@dataclass
class ToolBisection:
    """The outcome of :func:`bisect_tool`."""

    tool: str
    fault: Fault | None = None
    nodes: int = 0
    text: str = ""
    """The shrunk model, with the sample on which it shows."""
    after: str = ""
    """What the tool makes of it, where it reads."""
    alignment: Alignment | None = None
    """The first value that differs, between the shrunk model and the tool's."""
    tests: int = 0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        plain = {k: v for k, v in vars(self).items() if k not in ("fault", "alignment")}
        fault = None if self.fault is None else {"kind": self.fault.kind, "message": self.fault.message}
        first = "" if self.alignment is None else self.alignment.first
        return plain_data({"schema": SCHEMA, "fault": fault, "first": first, **plain})

    def document(self) -> Document:
        if self.fault is None:
            return [Text(f"equivalent: {self.tool} changes nothing that matters", "green")]
        document: Document = [Text(f"{self.tool} makes the model wrong", "bold"), Text(f"  {self.fault}")]
        if self.text:
            document.append(Text(f"shrunk to {self.nodes} nodes ({self.tests} models tried)", "bold"))
            document.append(Text(self.text))
        if self.after:
            document += [Text("what becomes of it", "bold"), Text(self.after)]
        if self.alignment is not None and self.alignment.first:
            document += self.alignment.document()
        return document


def command_tool(command: str) -> Tool:
    """A tool that runs ``command``, in which ``{before}`` and ``{after}`` stand for the two files.

    Raises ``UsageError`` where one of the two is missing, or there is no such program.
    """
    if "{before}" not in command or "{after}" not in command:
        raise UsageError(
            f"{command!r} does not name both files", where="bisect", help="as in 'onnxslim {before} {after}'"
        )
    program = shlex.split(command)[0]
    if shutil.which(program) is None:
        raise UsageError(
            f"there is no program {program!r}",
            where="bisect",
            help="install it, or give its path in front of its options",
        )

    def run(data: bytes) -> bytes:
        with TemporaryDirectory() as scratch:
            before, after = Path(scratch, "before.onnx"), Path(scratch, "after.onnx")
            before.write_bytes(data)
            words = [word.format(before=before, after=after) for word in shlex.split(command)]
            done = subprocess.run(words, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
            if done.returncode or not after.exists():
                lines = (done.stderr or done.stdout).replace(scratch, "").strip().splitlines()
                raise RuntimeError(f"exit status {done.returncode}: {lines[-1] if lines else 'no output'}")
            return after.read_bytes()

    return run


def bisect_tool(
    model: AnyModel,
    tool: Tool | str,
    samples: Source | None = None,
    *,
    name: str = "",
    tolerance: float = 0.0,
    seconds: float = 300.0,
    seed: int = 0,
    reduce: bool = True,
    progress: Progress | None = None,
) -> ToolBisection:
    """What ``tool`` (a function, or a command with ``{before}`` and ``{after}``) does wrong to ``model``.

    Raises ``UsageError`` where the runtime cannot run the original: nothing can be compared then.
    """
    start = time.monotonic()
    run = command_tool(tool) if isinstance(tool, str) else tool
    found = ToolBisection(name or (tool if isinstance(tool, str) else "the tool"))
    original, source = as_model(model)
    reference = make_reference(original, source, optimizer_noise=False)
    if isinstance(reference, str):
        raise UsageError(f"nothing to compare with: {reference}", where="bisect", help="bisecting runs the original")
    items = make_samples(samples, original, reference, seed=seed).items
    trial = ToolTrial(run, tolerance)
    if progress is not None:
        progress("running the tool", 0, 0)
    found.fault = trial.fault(original, items)
    if found.fault is not None and reduce:
        if progress is not None:
            progress("shrinking the model", 0, 0)
        _shrink(found, trial, original, items, start + seconds - time.monotonic())
    found.seconds = time.monotonic() - start
    return found


class ToolTrial:
    """Runs of a tool on models, compared with what these compute."""

    def __init__(self, tool: Tool, tolerance: float = 0.0) -> None:
        self.tool, self.tolerance = tool, tolerance

    def fault(self, model: Model, samples: Sequence[Sample]) -> Fault | None:
        """What is wrong; ``None`` also where the model itself does not run."""
        reference = reference_for(model, samples)
        if reference is None:
            return None
        try:
            data = self.tool(model_to_bytes(model))
        except Exception as error:  # whatever the tool raises is the finding
            lines = str(error).strip().splitlines()
            return Fault(CRASH, f"{type(error).__name__}: {lines[-1] if lines else ''}"[:300])
        try:
            session = Session(data)
            problems = interface_problems(model, read_model(data))
            if problems:
                return Fault(INTERFACE, "; ".join(problems))
            for i, sample in enumerate(reference.samples):
                for check in reference.compare(i, session.run(sample), tolerance=self.tolerance):
                    if not check.equivalent:
                        return Fault(DIFFERENT, str(check))
        except PlanishError as error:
            return Fault(REFUSED, error.message)
        return None


def _shrink(found: ToolBisection, trial: ToolTrial, model: Model, samples: Sequence[Sample], seconds: float) -> None:
    fault = found.fault
    assert fault is not None

    def fails(candidate: Model, some: Sequence[Sample]) -> bool:
        other = trial.fault(candidate, some)
        if other is None or other.kind != fault.kind:
            return False
        return fault.kind != CRASH or cause_of(other.message) == cause_of(fault.message)

    small = reduce_model(model, samples, fails, seconds=max(1.0, seconds))
    found.fault = trial.fault(small.model, small.samples) or fault
    found.nodes, found.tests = sum(1 for _ in small.model.all_nodes()), small.tests
    found.text = with_sample(print_model(small.model, resources="inline", explicit=True), small.samples)
    if fault.kind == CRASH:
        return
    try:
        after = read_model(trial.tool(model_to_bytes(small.model)))
        found.after = print_model(after, resources="inline")
        if fault.kind == DIFFERENT:
            found.alignment = align(small.model, after, small.samples, tolerance=trial.tolerance)
    except Exception:  # the tool may fail at another turn: what is known stands
        return
