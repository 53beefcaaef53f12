"""Why a pass or a rule does not fire on a model: its tries, its reasons, its nearest miss."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..ir.clone import clone_model
from ..ir.errors import PipelineError, UsageError
from ..passes.core import Context, RewritePass, RuleStatistics
from ..passes.manager import Pipeline
from ..passes.registry import entries, find
from ..passes.target import Target, get_target
from .document import SCHEMA, Document, Table, Text
from .validate import AnyModel, as_model


@dataclass
class Explained:
    """What happened to one rule on the model."""

    rule: str
    tries: int
    hits: int
    reasons: dict[str, int]
    """Why it declined, most frequent first."""
    nearest: dict[str, Any] | None
    """The node at which most of the pattern matched: ``matched``, ``at``, ``reason``."""


@dataclass
class Explanation:
    """What one pass did and why it did no more."""

    name: str
    prepared: str
    """Pipeline that ran before."""
    changes: int
    rules: list[Explained]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self)}

    def document(self) -> Document:
        before = f" after {self.prepared!r}" if self.prepared else ""
        document: Document = [Text(f"{self.name}{before}: {self.changes} changes", "bold")]
        for e in self.rules:
            document.append(Text(f"\n{e.rule}: tried at {e.tries} nodes, fired {e.hits} times"))
            if e.nearest is not None:
                document.append(Text(f"  nearest miss: {e.nearest['reason']}", "yellow"))
                document.append(Text(f"    {e.nearest['matched']} nodes matched at {e.nearest['at']}"))
            if e.reasons:
                rows = [(str(count), reason) for reason, count in list(e.reasons.items())[:20]]
                document.append(Table("", ("times>", "declined because"), rows))
        document.extend(Text(note) for note in self.notes)
        if not self.rules:
            document.append(Text("this pass keeps no record of rules that were tried", "dim"))
        return document


def explain(name: str, model: AnyModel, *, before: str = "", target: str | Target = "generic") -> Explanation:
    """Runs one pass on a copy of the model and says why its rules fired or not.

    ``name`` is a pass, ``pass/Rule``, or a rule's class name; ``before`` a pipeline to run first. Raises
    ``PipelineError`` for an unknown name.
    """
    pass_name, rule = _resolve(name)
    original, _ = as_model(model)
    copy = clone_model(original)
    chosen = get_target(target) if isinstance(target, str) else target
    if before:
        Pipeline(before).run(copy, Context(target=chosen))
    notes: list[str] = []
    ctx = Context(target=chosen, trace=True, sink=notes.append)
    record = Pipeline(pass_name).run(copy, ctx)
    rules = [
        _explained(label, stats)
        for label, stats in sorted(ctx.statistics.items())
        if rule is None or label.rpartition("/")[2] == rule
    ]
    return Explanation(name, before, record.changes, rules, notes)


def _explained(label: str, stats: RuleStatistics) -> Explained:
    reasons = dict(sorted(stats.reasons.items(), key=lambda item: (-item[1], item[0])))
    best = stats.best
    nearest = {"matched": best[0], "at": best[1], "reason": best[2]} if best is not None and best[0] > 0 else None
    return Explained(label, stats.tries, stats.hits, reasons, nearest)


def _resolve(name: str) -> tuple[str, str | None]:
    """Pass and rule that a name means."""
    head, _, rule = name.partition("/")
    if rule:
        known = rule_names(head)
        if rule not in known:
            raise UsageError(
                f"pass {head} has no rule {rule!r}", where="explain", help=f"its rules: {', '.join(known) or 'none'}"
            )
        return head, rule
    if not head[:1].isupper():
        find(head)
        return head, None
    rules = {r: p for p in entries() for r in rule_names(p)}
    if head not in rules:
        near = difflib.get_close_matches(head, rules, 3, 0.4)
        hint = f"did you mean {', '.join(near)}?" if near else "`planish passes --rules` lists them"
        raise PipelineError(f"there is no rule {head!r}", where="explain", help=hint)
    return rules[head], head


def rule_names(name: str) -> Sequence[str]:
    """Class names of a pass's rules; empty for passes that are not made of rules."""
    found = find(name)
    if isinstance(found, str) or not issubclass(found, RewritePass):
        return ()
    return [type(rule).__name__ for rule in found().rules()]
