"""Ways to optimize a model: a pipeline, rules left out of it, and the settings of the session."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..backends.ort.choices import settings_text
from ..backends.ort.session import SessionSettings
from ..ir.errors import PipelineError
from ..passes.core import Pass, pass_name
from ..passes.manager import Pipeline, RunRecord
from ..passes.pipeline import Repeat, Step, Together, flatten, pipeline_text
from ..passes.pipelines import ALTERNATIVES, GROUPS, PIPELINES
from ..passes.registry import entries
from ..passes.target import Target


@dataclass(frozen=True)
class Plan:
    """One way to optimize a model and to run the result."""

    pipeline: str
    """Its text, expanded."""
    disabled: frozenset[str] = frozenset()
    """Labels of rules that must not fire (``pass/Rule``)."""
    settings: SessionSettings = field(default_factory=SessionSettings)

    def __str__(self) -> str:
        without = f" without {', '.join(sorted(self.disabled))}" if self.disabled else ""
        return f"{short(self.pipeline)}{without}; session: {settings_text(self.settings)}"


def short(pipeline: str) -> str:
    """The text with named pipelines in place of what they expand to."""
    for name in (*GROUPS, "clean"):  # groups may hold the clean-up
        text = expanded(PIPELINES.get(name, ""))
        if text:
            pipeline = pipeline.replace(text, name)
    return pipeline or "none"


def expanded(pipeline: str) -> str:
    """The text with every name of a pipeline expanded; empty where a pass of it does not exist."""
    try:
        return str(Pipeline(pipeline))
    except PipelineError:
        return ""


def alternatives(target: Target) -> list[str]:
    """The named alternatives of a target that this installation knows, expanded; ``none`` is the empty text."""
    texts = [*ALTERNATIVES["any"], *ALTERNATIVES.get(target.arch, ())]
    found = [expanded(text) for text in texts]
    return list(dict.fromkeys(text for text, name in zip(found, texts, strict=True) if text or name == "none"))


def without_groups(pipeline: str) -> list[str]:
    """The pipeline with one group of fusions left out, for each group in it that is not the only one."""
    items = _top_items(pipeline)
    groups = [g for g in GROUPS if g in items]
    return [",".join(i for i in items if i != g) for g in groups] if len(groups) > 1 else []


def _top_items(pipeline: str) -> list[str]:
    """What a pipeline consists of, names expanded down to groups."""
    found: list[str] = []
    stack = [pipeline]
    while stack:
        text = stack.pop()
        parts = _split(text)
        if len(parts) > 1:
            stack.extend(reversed(parts))
        elif text in PIPELINES and text != "clean" and text not in GROUPS:
            stack.append(PIPELINES[text])
        elif text:
            found.append(text)
    return found


def _split(text: str) -> list[str]:
    """At the commas outside of all parentheses."""
    parts, depth = [""], 0
    for c in text:
        depth += (c in "({[") - (c in ")}]")
        if c == "," and not depth:
            parts.append("")
        else:
            parts[-1] += c
    return [p.strip() for p in parts]


def pass_names(pipeline: str) -> set[str]:
    """Every pass in the pipeline."""
    return {pass_name(type(p)) for p in flatten(Pipeline(pipeline).steps)}


def without_passes(pipeline: str, names: Iterable[str]) -> str:
    """The pipeline's text without these passes."""
    return pipeline_text(_filtered(Pipeline(pipeline).steps, frozenset(names)))


def _filtered(steps: Sequence[Step], names: frozenset[str]) -> list[Step]:
    found: list[Step] = []
    for step in steps:
        if isinstance(step, Together):
            kept = [p for p in step.passes if pass_name(type(p)) not in names]
            found.extend([Together(kept)] if len(kept) > 1 else kept)
        elif isinstance(step, Repeat):
            inner = _filtered(step.steps, names)
            found.extend([Repeat(inner)] if inner else [])
        elif pass_name(type(step)) not in names:
            found.append(step)
    return found


def fired(record: RunRecord) -> dict[str, int]:
    """How often each rule (``pass/Rule``) and each pass that is not made of rules changed something, clean-up apart."""
    found: dict[str, int] = {}
    for p in record.passes:
        hits = p.hits or ({p.name.split("{")[0]: p.changes} if p.changes else {})
        for label, count in hits.items():
            if _is_fusion(label.split("/")[0]):
                found[label] = found.get(label, 0) + count
    return found


def _is_fusion(name: str) -> bool:
    entry = entries().get(name)
    return entry is None or entry.family != "clean"


def drops_of_groups(hits: Iterable[str]) -> list[tuple[str, frozenset[str]]]:
    """Label and names of passes: every group of which at least two passes fired."""
    passes = {label.split("/")[0] for label in hits}
    found: list[tuple[str, frozenset[str]]] = []
    for name in GROUPS:
        members = {pass_name(type(p)) for p in _passes_of(name)} & passes
        if 1 < len(members) < len(passes):
            found.append((f"without {name}", frozenset(members)))
    return found


def _passes_of(name: str) -> list[Pass]:
    try:
        return list(flatten(Pipeline(PIPELINES.get(name, "")).steps))
    except PipelineError:
        return []
