"""``lint``: how a target's runtime will run each node of a quantized model, and why not on integers."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ..backends.findings import LintReport, Runs
from ..backends.ort.lint import lint as lint_ort
from ..backends.vendor import coreml, openvino, qnn, tensorrt
from ..ir.clone import clone_model
from ..ir.errors import UsageError
from ..ir.graph import Model
from ..passes.context import Context
from ..passes.manager import Pipeline
from ..passes.target import Target, get_target
from .checks.validate import AnyModel, as_model
from .document import SCHEMA, Document, Table, Text

LINTERS: dict[str, Callable[[Model, Target], LintReport]] = {
    "ort": lint_ort,
    "tensorrt": tensorrt.lint,
    "openvino": openvino.lint,
    "qnn": qnn.lint,
    "coreml": coreml.lint,
}
"""By ``Target.runtime``."""
_PAIRS = ("QuantizeLinear", "DequantizeLinear")


@dataclass
class Lint:
    """The findings about one model."""

    source: str
    report: LintReport
    all_nodes: bool = False
    """Whether to show nodes without a complaint too."""

    @property
    def clean(self) -> bool:
        """Whether nothing is worse than a note."""
        return self.report.worst == "note"

    def to_dict(self) -> dict[str, Any]:
        report = self.report
        return {
            "schema": SCHEMA,
            "source": self.source,
            "target": report.target,
            "counts": {runs.value: _count(report, runs) for runs in Runs},
            "pairs": report.pairs,
            "worst": report.worst,
            "findings": [asdict(f) | {"runs": f.runs.value} for f in report.findings],
        }

    def document(self) -> Document:
        report = self.report
        counts = ", ".join(f"{_count(report, runs)} {runs.value}" for runs in Runs if _count(report, runs))
        shown = [f for f in report.findings if self.all_nodes or f.severity != "note"]
        document: Document = [
            Text(f"{self.source} on {report.target}: {counts or 'no nodes'}; {report.pairs} conversions left")
        ]
        if shown:
            rows = [(f.severity, f.node, f.op, f.kernel or f.runs.value, f.rule, f.why) for f in shown]
            document.append(Table("findings", ("", "node", "operator", "runs", "rule", "why"), rows))
        if report.rules():
            document.append(Text("docs/lint.md says what each rule means and how to mend it"))
        return document


def lint(model: AnyModel, target: str | Target = "native", *, all_nodes: bool = False) -> Lint:
    """How ``target`` runs each node of ``model``.

    Functions are inlined first, as runtimes do. Raises ``UsageError`` where the target's runtime is unknown here.
    """
    chosen = get_target(target) if isinstance(target, str) else target
    linter = LINTERS.get(chosen.runtime)
    if linter is None:
        raise UsageError(
            f"there is no linter for runtime {chosen.runtime!r}", where="lint", help=f"one of: {', '.join(LINTERS)}"
        )
    found, _ = as_model(model)
    if found.functions:
        found = clone_model(found)
        Pipeline("inline-functions").run(found, Context(target=chosen))
    return Lint(_name(model), linter(found, chosen), all_nodes)


def _name(model: AnyModel) -> str:
    return os.fspath(model) if isinstance(model, (str, os.PathLike)) else "model"


def _count(report: LintReport, runs: Runs) -> int:
    return sum(f.runs is runs and bool(f.node) and f.op not in _PAIRS for f in report.findings)
