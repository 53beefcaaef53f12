"""Why a pass or a rule does not fire on a model: its tries, its reasons, its nearest miss."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..ir.clone import clone_model
from ..ir.errors import PipelineError, UsageError
from ..ir.graph import Model
from ..passes.core import Context, RewritePass, RuleStatistics, pass_name
from ..passes.manager import Pipeline
from ..passes.pipeline import Step, flatten
from ..passes.registry import entries, find
from ..passes.target import Target, get_target
from .checks.validate import AnyModel, as_model
from .document import SCHEMA, Document, Table, Text


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
class Raised:
    """What would happen at a later opset."""

    opset: int
    changes: int
    rules: list[Explained]


@dataclass
class Explanation:
    """What one pass did and why it did no more."""

    name: str
    prepared: str
    """What ran before: a pipeline, or ``default up to`` the pass."""
    changes: int
    rules: list[Explained]
    notes: list[str]
    raised: Raised | None = None
    """The same at the opset that the pass asks for, where it asks for a later one."""

    def to_dict(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self)}

    def document(self) -> Document:
        before = f" after {self.prepared!r}" if self.prepared else ""
        document: Document = [Text(f"{self.name}{before}: {self.changes} changes", "bold")]
        document.extend(_of_rules(self.rules))
        document.extend(Text(note) for note in self.notes)
        if not self.rules:
            document.append(Text("this pass keeps no record of rules that were tried", "dim"))
        if self.raised is not None:
            how = f"raise-opset{{to={self.raised.opset}}}"
            document.append(Text(f"\nat opset {self.raised.opset} ({how}): {self.raised.changes} changes", "bold"))
            document.extend(_of_rules(self.raised.rules))
        return document


def _of_rules(rules: Sequence[Explained]) -> Document:
    document: Document = []
    for e in rules:
        document.append(Text(f"\n{e.rule}: tried at {e.tries} nodes, fired {e.hits} times"))
        if e.nearest is not None:
            document.append(Text(f"  nearest miss: {e.nearest['reason']}", "yellow"))
            document.append(Text(f"    {e.nearest['matched']} nodes matched at {e.nearest['at']}"))
        if e.reasons:
            rows = [(str(count), reason) for reason, count in list(e.reasons.items())[:20]]
            document.append(Table("", ("times>", "declined because"), rows))
    return document


_NEEDS_OPSET = re.compile(r"needs opset (\d+), the model imports")


def explain(name: str, model: AnyModel, *, before: str | None = None, target: str | Target = "generic") -> Explanation:
    """Runs one pass on a copy of the model and says why its rules fired or not.

    ``name`` is a pass, ``pass/Rule``, or a rule's class name; ``before`` a pipeline to run first. Without it the pass
    runs in its place in the pipeline ``default``, where that holds it. Raises ``PipelineError`` for an unknown name.
    """
    owner, rule = _resolve(name)
    original, _ = as_model(model)
    copy = clone_model(original)
    chosen = get_target(target) if isinstance(target, str) else target
    steps, prepared = (in_front(owner), f"default up to {owner}") if before is None else ([], before)
    if before:
        steps = Pipeline(before).steps
    if steps:
        Pipeline(steps).run(copy, Context(target=chosen))
    later = clone_model(copy)
    notes: list[str] = []
    changes, rules = _traced(owner, rule, copy, chosen, notes)
    found = Explanation(name, prepared if steps else "", changes, rules, notes)
    needed = [int(m[1]) for e in rules for reason in e.reasons if (m := _NEEDS_OPSET.search(reason))]
    if needed:
        opset = max(needed)
        Pipeline(f"raise-opset{{to={opset}}}").run(later, Context(target=chosen))
        if later.opsets.get("") == opset:
            found.raised = Raised(opset, *_traced(owner, rule, later, chosen, []))
    return found


def in_front(name: str) -> list[Step]:
    """The steps of the pipeline ``default`` before the first that holds the pass; none where it holds it nowhere."""
    steps = Pipeline("default").steps
    holding = [i for i, step in enumerate(steps) if name in {pass_name(type(p)) for p in flatten([step])}]
    return list(steps[: holding[0]]) if holding else []


def _traced(name: str, rule: str | None, model: Model, target: Target, notes: list[str]) -> tuple[int, list[Explained]]:
    """Changes, and what became of each rule."""
    ctx = Context(target=target, trace=True, sink=notes.append)
    record = Pipeline(name).run(model, ctx)
    rules = [
        _explained(label, stats)
        for label, stats in sorted(ctx.statistics.items())
        if rule is None or label.rpartition("/")[2] == rule
    ]
    return record.changes, rules


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
