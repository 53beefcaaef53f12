"""Lists of what there is: passes, pipelines, targets."""

from __future__ import annotations

import ast
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..passes.pipelines import PIPELINES
from ..passes.registry import Entry, entries
from ..passes.target import BOARDS, EXPORT_TARGETS, FIRMWARE_TARGETS, PROCESSORS, TARGETS, Target
from .document import SCHEMA, Document, Table, Text
from .explain import rule_names


@dataclass
class PassList:
    """Passes by name, and named pipelines with their text."""

    passes: list[dict[str, Any]]
    pipelines: dict[str, str] = field(default_factory=dict[str, str])

    def to_dict(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self)}

    def document(self) -> Document:
        with_rules = any("rules" in p for p in self.passes)
        last = "rules" if with_rules else "what it does"
        rows = [
            (p["name"], p["family"], p["owner"], ", ".join(p["rules"]) if with_rules else p["summary"])
            for p in self.passes
        ]
        return [
            Table("passes", ("name", "family", "from", last), rows),
            Table("pipelines", ("name", "passes"), list(self.pipelines.items())),
        ]


@dataclass
class TargetList:
    """Targets by name."""

    targets: list[Target]

    def to_dict(self) -> dict[str, Any]:
        return {"schema": SCHEMA, "targets": [asdict(t) | {"features": sorted(t.features)} for t in self.targets]}

    def document(self) -> Document:
        rows = [(t.name, t.runtime, t.description, " ".join(sorted(t.features)), _built_as(t)) for t in self.targets]
        boards = ", ".join(f"{board} is {name}" for board, name in BOARDS.items())
        return [
            Table("targets", ("name", "runtime", "description", "features", "compiled as"), rows),
            Text(f"`native` is this machine's; {boards}"),
        ]


def pass_list(*, rules: bool = False) -> PassList:
    """All passes, ours and plugins'; ``rules`` loads them for the names of their rules.

    Raises ``PipelineError`` where two passes have one name.
    """
    found: list[dict[str, Any]] = []
    for entry in entries().values():
        row = {"name": entry.name, "family": entry.family, "owner": entry.owner, "summary": _summary(entry)}
        found.append(row | ({"rules": list(rule_names(entry.name))} if rules else {}))
    return PassList(found, dict(PIPELINES))


def target_list() -> TargetList:
    """All targets."""
    return TargetList([*TARGETS.values(), *PROCESSORS.values(), *EXPORT_TARGETS.values(), *FIRMWARE_TARGETS.values()])


def _built_as(target: Target) -> str:
    """What a compiler is told of the processor."""
    return " ".join((target.mcpu, *target.mattr))


def _summary(entry: Entry) -> str:
    """The first line of the module's docstring, read without running it; ours start with the pass's name."""
    try:
        spec = find_spec(entry.module)
        source = Path(spec.origin).read_text("utf-8") if spec is not None and spec.origin is not None else ""
        text = ast.get_docstring(ast.parse(source)) or ""
    except (ImportError, OSError, SyntaxError, ValueError):
        return ""
    return text.partition("\n")[0].removeprefix(f"{entry.name}:").strip().replace("``", "")
