"""``export``: a model made for a runtime that does not run here, quantized as that wants, with the linter's report."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backends.vendor.legalize import legalize
from ..ir.errors import UsageError
from ..ir.safe_files import SafeFiles
from ..passes.target import EXPORT_TARGETS, Target
from .budget import Budget
from .checks.validate import AnyModel, Samples, as_model
from .document import SCHEMA, Document, Text, plain
from .inputs.samples import Source
from .lint import Lint, lint
from .optimize import optimize
from .report import Report
from .result import Progress

MODEL, FINDINGS, TEXT = "model.onnx", "lint.json", "report.txt"


@dataclass
class Export:
    """What was written."""

    folder: str
    report: Report
    lint: Lint

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "folder": self.folder,
            "report": self.report.to_dict(),
            "lint": self.lint.to_dict(),
        }

    def document(self) -> Document:
        return [*self.report.document(), *self.lint.document(), Text(f"written to {self.folder}")]


def export(
    model: AnyModel,
    target: str,
    folder: str | os.PathLike[str],
    *,
    samples: Source | Samples | None = None,
    budget: Budget | float | None = None,
    dims: Mapping[str, int] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Export:
    """Optimizes ``model`` for ``target`` and writes it with its reports into ``folder``, all or nothing.

    With a ``budget`` it is quantized as the target's runtime demands (see ``optimize``); without one it stays in
    floats. Nothing is timed, since the runtime is not here. Raises ``UsageError`` for other targets, and what
    ``optimize`` raises.
    """
    chosen = _target(target)
    source, _ = as_model(model)
    legal = legalize(source, chosen)
    result = optimize(
        model,
        chosen,
        samples=samples,
        pipeline=legal.pipeline,
        measure=False,
        budget=budget,
        quantize=legal.quantize if budget is not None else (),
        dims=dims,
        seed=seed,
        progress=progress,
    )
    checked = lint(result.model, chosen)
    made = Export(os.fspath(folder), result.report, checked)
    Path(folder).mkdir(parents=True, exist_ok=True)
    result.save(Path(folder) / MODEL)
    with SafeFiles() as files:
        text = json.dumps(checked.to_dict(), indent=2, sort_keys=True, ensure_ascii=False)
        files.create(Path(folder) / FINDINGS).write(f"{text}\n".encode())
        files.create(Path(folder) / TEXT).write(plain(made.document()).encode())
    return made


def _target(name: str) -> Target:
    found = EXPORT_TARGETS.get(name)
    if found is None:
        raise UsageError(
            f"{name!r} is no target to export for",
            where="export",
            help=f"one of {', '.join(EXPORT_TARGETS)}; `planish compile` makes artifacts for ONNX Runtime",
        )
    return found
