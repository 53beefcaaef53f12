"""Instruments for the pass manager: verify, print, compare numbers, and write reproducers."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

from ..ir.constants import Constant
from ..ir.errors import NotEquivalentError, PassError, PlanishError, VerifyError
from ..ir.graph import Model
from ..ir.text.sidecar import save_resources
from ..ir.verify import verify
from .core import Context
from .manager import Instrument, PassRecord, Pipeline
from .pipeline import Step, pipeline_text


class VerifyEach(Instrument):
    """Checks every invariant after each pass that changed something; a broken one is the pass's fault."""

    def after(self, model: Model, step: Step, record: PassRecord, ctx: Context) -> None:
        if not record.changes:
            return
        try:
            verify(model)
        except VerifyError as error:
            raise PassError(
                f"the graph is broken after this pass: {error.message}",
                where=str(step),
                at=error.at,
                origin=error.origin,
                help="the pass is at fault",
            ) from error


class PrintAfterChange(Instrument):
    """Prints the model's text after each pass that changed it."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self.write = write

    def after(self, model: Model, step: Step, record: PassRecord, ctx: Context) -> None:
        if record.changes:
            self.write(f"// after {record.name}: {record.changes} changes\n{model}\n")


class NumericsEach(Instrument):
    """Runs the model after each pass that changed it and compares with the outputs before the first pass.

    ``compare(reference, found)`` returns ``None`` or what differs; the tolerance is the caller's, derived
    from the numeric contracts of the passes. Needs ``ctx.executor`` and ``ctx.samples``.
    """

    def __init__(self, compare: Callable[[list[list[object]], list[list[object]]], str | None]) -> None:
        self.compare = compare
        self.reference: list[list[object]] | None = None

    def _run(self, model: Model, ctx: Context) -> list[list[object]]:
        if ctx.executor is None or not ctx.samples:
            raise PassError("comparing numbers after each pass needs an executor and samples", where="numerics-each")
        return [list(ctx.executor(model, sample)) for sample in ctx.samples]

    def before(self, model: Model, step: Step, ctx: Context) -> None:
        if self.reference is None:
            self.reference = self._run(model, ctx)

    def after(self, model: Model, step: Step, record: PassRecord, ctx: Context) -> None:
        if not record.changes:
            return
        assert self.reference is not None
        difference = self.compare(self.reference, self._run(model, ctx))
        if difference is not None:
            raise NotEquivalentError(
                f"outputs differ after this pass: {difference}",
                where=str(step),
                help="the pass is at fault; leave it out and report it",
            )


class Reproducer(Instrument):
    """When a pass fails, writes the model as that pass got it, with the pass and the versions, into ``folder``.

    ``source`` gives the original model anew; the steps that went well are replayed on it, so nothing is
    copied while all goes well. Replay with ``planish run FILE``.
    """

    def __init__(self, source: Callable[[], Model], folder: Path) -> None:
        self.source, self.folder = source, folder
        self.path: Path | None = None

    def failed(self, step: Step, done: Sequence[Step], error: PlanishError, ctx: Context) -> None:
        try:
            model = self.source()
            fresh = Context(
                target=ctx.target, seed=ctx.seed, max_constant_bytes=ctx.max_constant_bytes, disabled=ctx.disabled
            )
            Pipeline(list(done)).run(model, fresh)
            self.path = write_reproducer(self.folder, model, pipeline_text([step]), ctx, error)
            error.repro = f"planish run {self.path}"
        except (PlanishError, OSError) as second:
            ctx.note(f"no reproducer could be written: {second}")


def write_reproducer(folder: Path, model: Model, pipeline: str, ctx: Context, error: PlanishError) -> Path:
    """Writes a reproducer named by its hash, many weights beside it; returns its path. Raises ``OSError``."""
    beside: dict[str, Constant] = {}
    text = reproducer_text(model, pipeline, ctx, error, beside)
    path = folder / f"repro-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}.ir"
    folder.mkdir(parents=True, exist_ok=True)
    if beside:
        save_resources(path.with_suffix(".npz"), beside)
    path.write_text(text, "utf-8")
    return path


INLINE_BYTES = 4 << 20
"""Weights above this go into a file beside the reproducer instead of its text."""


def reproducer_text(
    model: Model, pipeline: str, ctx: Context, error: PlanishError, beside: dict[str, Constant] | None = None
) -> str:
    """A reproducer file: comment lines with pipeline, versions and the error, then the model's exact text.

    Where ``beside`` is given and the model holds more than ``INLINE_BYTES`` of constants, it receives them
    by digest and the text holds the digests only.
    """
    from importlib.metadata import version

    from ..ir.text.printer import print_model

    target = ctx.target.name if ctx.target is not None else "-"
    first = error.message.splitlines()[0] if error.message else type(error).__name__
    head = [
        f"// pipeline: {pipeline}",
        f"// target: {target}",
        f"// seed: {ctx.seed}",
        f"// disabled: {','.join(sorted(ctx.disabled))}",
        f"// fuel: {'' if ctx.fuel.limit is None else ctx.fuel.limit}",
        f"// versions: planish {_version(version)}, onnx {version('onnx')}, python {platform.python_version()}",
        f"// error: {first}",
    ]
    size = sum(v.data.nbytes for graph in model.all_graphs() for v in graph.constants if v.data is not None)
    resources = beside if beside is not None and size > INLINE_BYTES else "inline"
    return "\n".join(head) + "\n" + print_model(model, resources=resources, explicit=True) + "\n"


def _version(version: Callable[[str], str]) -> str:
    try:
        return version("planish")
    except Exception:  # an uninstalled checkout has no metadata
        return "checkout"


__all__ = ["NumericsEach", "PrintAfterChange", "Reproducer", "VerifyEach"]
