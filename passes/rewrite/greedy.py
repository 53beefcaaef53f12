"""The greedy engine: rules filed by root operator, a worklist, and passes over the model until nothing fires.

Cost: a node whose operator no rule is filed under costs one dictionary lookup, whatever the number of
rules. After a rewrite only its surroundings are tried again; when the worklist is empty one more sweep
catches what changed further away, until a sweep changes nothing.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Sequence
from typing import Any

from ...ir.errors import PassError, PlanishError
from ...ir.graph import RETURN, Model, Node, Value
from ..context import RuleStatistics
from .matcher import Matcher
from .rewriter import Rewriter, origin_of
from .rule import MODIFIED, NodeRule, NoMatch, RuleBase

MAX_SWEEPS = 64
GROWTH_LIMIT = 32
"""Rewrites per node of the original model, plus 1,000, after which rules are taken to chase each other."""


def apply_rules(model: Model, rules: Sequence[RuleBase], r: Rewriter) -> None:
    """Applies ``rules`` everywhere (bodies and functions included) until none fires or the fuel is spent.

    Raises ``PassError`` when the rules do not come to an end, or when one of them fails; the message names it.
    """
    _Engine(model, rules, r).run()


class _Filed:
    """A rule as the engine keeps it."""

    __slots__ = ("apply", "promising", "rule", "stats")

    def __init__(self, rule: RuleBase, stats: RuleStatistics, apply: Any) -> None:
        self.rule, self.stats, self.apply = rule, stats, apply
        # Most rules have no condition of their own: no need to ask.
        self.promising = None if type(rule).promising is RuleBase.promising else rule.promising


class _Engine:
    def __init__(self, model: Model, rules: Sequence[RuleBase], r: Rewriter) -> None:
        self.model, self.r, self.ctx = model, r, r.ctx
        self.by_op: dict[str, list[_Filed]] = {}
        """Rules filed by the operator names at which they are tried, in order of preference."""
        self.standard: dict[str, list[_Filed]] = {}
        """Those that a node of the standard domain need be tried with; filled in as nodes are met."""
        self.others: dict[tuple[str, str], list[_Filed]] = {}
        """The same for other domains."""
        for rule in rules:
            if type(rule).__name__ in self.ctx.disabled or rule.label in self.ctx.disabled:
                continue
            if rule.lossy and isinstance(rule, NodeRule) and not self.r.take(rule.label, rule.label):
                continue
            stats = self.ctx.statistics.setdefault(rule.label, RuleStatistics())
            apply = self._apply_node_rule if isinstance(rule, NodeRule) else self._apply_pattern_rule
            filed = _Filed(rule, stats, apply)
            for op in rule.root_ops():
                self.by_op.setdefault(op, []).append(filed)
        self.applied = 0
        self.limit = 0
        self.recent: deque[str] = deque(maxlen=8)

    def _file(self, node: Node) -> list[_Filed]:
        """The rules to try at nodes of this operator: those that name it, then those for all."""
        found = self.by_op.get(node.op, [])
        if "*" in self.by_op:
            found = [*found, *(f for f in self.by_op["*"] if f not in found)]
        if found:
            found = [f for f in found if not isinstance(f.rule, NodeRule) or f.rule.accepts(node)]
        if node.domain:
            self.others[node.domain, node.op] = found
        else:
            self.standard[node.op] = found
        return found

    def run(self) -> None:
        nodes = self.r.nodes
        if nodes is None:
            nodes = sum(graph.count for graph in self.model.all_graphs())
        self.limit = 1000 + GROWTH_LIMIT * nodes
        for _ in range(MAX_SWEEPS):
            before = self.r.changes
            self._sweep()
            if self.r.changes == before or self.ctx.fuel.empty:
                return
        raise self._endless()

    def _sweep(self) -> None:
        standard, others, fuel = self.standard, self.others, self.ctx.fuel
        if fuel.empty:
            return
        for node in self.model.all_nodes():
            filed = others.get((node.domain, node.op)) if node.domain else standard.get(node.op)
            if filed is None:
                filed = self._file(node)
            if filed and self._try(node, filed):
                self._drain()
                if fuel.empty:
                    return

    def _drain(self) -> None:
        """Works off the surroundings of the last rewrite, nearest first."""
        work: deque[Node] = deque()
        queued: set[Node] = set()
        r = self.r
        while True:
            if r.retyped:
                for node in r.settle():
                    r.touched.append(node)
                    r.touched.extend(user for out in node.outputs for user, _ in out.uses)
            for node in (*r.created, *r.touched):
                if node not in queued:
                    queued.add(node)
                    work.append(node)
            r.created.clear()
            r.touched.clear()
            if not work or self.ctx.fuel.empty:
                return
            node = work.popleft()
            queued.discard(node)
            if node.erased or node.graph is None or node.op == RETURN:
                continue
            filed = self.others.get((node.domain, node.op)) if node.domain else self.standard.get(node.op)
            if filed is None:
                filed = self._file(node)
            if filed:
                self._try(node, filed)

    def _try(self, node: Node, filed: list[_Filed]) -> bool:
        trace = self.ctx.trace
        for f in filed:
            if not trace and f.promising is not None and not f.promising(node):
                continue
            f.stats.tries += 1
            if self._guarded(f.rule, f.stats, node, f.apply):
                self._count(f.rule, f.stats, node)
                return True
        return False

    def _count(self, rule: RuleBase, stats: RuleStatistics, node: Node) -> None:
        stats.hits += 1
        self.r.hits[rule.label] = self.r.hits.get(rule.label, 0) + 1
        self.applied += 1
        self.recent.append(rule.label)
        if self.ctx.witness is not None:
            self.ctx.witness(rule.label)
        if self.applied > self.limit:
            raise self._endless()

    def _apply_pattern_rule(self, rule: Any, stats: RuleStatistics, node: Node) -> bool:
        matcher = Matcher(rule.compiled, node, self.ctx.trace)
        match = matcher.match()
        if match is None:
            if self.ctx.trace and matcher.deepest:
                _note_miss(stats, matcher.deepest, node, matcher.reason)
            return False
        try:
            rule.guard(match)
            if rule.lossy and not self.r.take(rule.label, node):
                raise NoMatch("left out to stay within the error budget")
            self.r.begin(node, origin_of(reversed(match.nodes)))
            self.r.owner = rule.label
            replacement = rule.rewrite(self.r, match)
        except NoMatch as declined:
            self.r.rollback()
            if self.ctx.trace:
                _note_miss(stats, len(match.nodes), node, declined.reason)
            return False
        self._finish(rule, node, replacement)
        return True

    def _apply_node_rule(self, rule: Any, stats: RuleStatistics, node: Node) -> bool:
        self.r.begin(node)
        self.r.owner = rule.label
        try:
            replacement = rule.apply(self.r, node)
        except NoMatch as declined:
            self.r.rollback()
            if self.ctx.trace:
                _note_miss(stats, declined.matched, node, declined.reason)
            return False
        self._finish(rule, node, replacement)
        return True

    def _finish(self, rule: RuleBase, node: Node, replacement: Any) -> None:
        self.r.applied(rule.label, node)
        if replacement is MODIFIED:
            self.r.touched.append(node)
            self.r.touched.extend(u for out in node.outputs for u in out.users if u.op != RETURN)
            self.r.changes += 1
            return
        if replacement is None:
            raise PassError(f"{rule.label} returned None, expected a value", help="the rule's author is at fault")
        values = [replacement] if isinstance(replacement, Value) else list(replacement)
        self.r.replace(node, values)

    def _guarded(self, rule: RuleBase, stats: RuleStatistics, node: Node, apply: Any) -> bool:
        """Runs one rule and turns whatever goes wrong inside it into an error that names it."""
        try:
            return apply(rule, stats, node)
        except PlanishError as error:
            error.where = error.where or rule.label
            raise
        except Exception as error:
            file = inspect.getsourcefile(type(rule)) or "?"
            raise PassError(
                f"{type(error).__name__}: {error}",
                where=rule.label,
                at=repr(node) if not node.erased else None,
                origin=node.name,
                help=f"the rule is at fault ({file.rsplit('/', 1)[-1]}); skip it with --disable {type(rule).__name__}",
            ) from error

    def _endless(self) -> PassError:
        return PassError(
            f"rewriting does not end: {self.applied} applications so far; the last ones: {', '.join(self.recent)}",
            where=self.r.owner,
            help="two rules undo each other; the pass author is at fault; skip one with --disable",
        )


def _note_miss(stats: RuleStatistics, depth: int, node: Node, reason: str) -> None:
    stats.reasons[reason] = stats.reasons.get(reason, 0) + 1
    if stats.best is None or depth > stats.best[0]:
        stats.best = (depth, repr(node), reason)
