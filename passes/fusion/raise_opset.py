"""Raise the model's import of the standard operators to a later opset.

Each node means in the new opset what it meant in the old one: attributes that became operands are constants,
Softmax before 13 goes through a matrix, Upsample becomes Resize.

**Why** fused operators come with later opsets: LayerNormalization with 17, Gelu with 20, RMSNormalization with 23.
**Needs** opset 7 or later; for every operator that changed an adapter (`passes/shared/opset_adapters.py`) or schemas
that say the new version only admits more. It is all or nothing: one node without an equal leaves the model as it is,
and says so.
**Leaves** models with functions (run `inline-functions` first), and lower or equal opsets.
**Numbers** reassociates: the same operations, but a runtime may have another kernel for another version.
**Source** docs/Changelog.md of ONNX; `passes/shared/opset_adapters.py` for what changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...ir.errors import PlanishError
from ...ir.graph import Model, Node
from ...ir.node_check import check_node
from ..core import Numbers, Pass
from ..rewrite import NoMatch, Rewriter
from ..shared.attention import attention_around
from ..shared.attributes import require_own_attributes
from ..shared.moments import has_moments
from ..shared.norms import ROOTS, find_norm
from ..shared.opset_adapters import Adapter, Old, Results, adapter_for

_FOR_LOSSY = ("lossy",)
_IR_VERSIONS = ((9, 4), (10, 5), (11, 6), (12, 7), (15, 8), (19, 9), (21, 10), (23, 11), (24, 12), (25, 13), (28, 14))
"""Opsets from which on a file states at least this IR version. Source: onnx.helper.VERSION_TABLE."""


@dataclass
class RaiseOpset(Pass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES
    to: int = 21
    """The opset to import."""
    when: tuple[str, ...] = ()
    """Only where one of these is spelled out (``layer-norm``, ``rms-norm``, ``attention``) and the target's
    ``newest_opset`` allows it. ``lossy``: only where lossy passes, which it makes way for, may change something. Empty:
    always."""
    proposes: ClassVar[bool] = True  # nothing by itself

    @property
    def lossy(self) -> bool:
        """With ``lossy`` it belongs to the passes behind it: where they are left out, so is it."""
        return self.when == _FOR_LOSSY

    def run(self, model: Model, r: Rewriter) -> None:
        before = model.opsets.get("", 0)
        if (self.when and before >= self.to) or (self.lossy and r.ctx.choices.lossless):
            return  # there is no way to make, and nobody asked for an opset
        if self.when and not self.lossy and not any(_spelled(node) in self.when for node in model.all_nodes()):
            if r.ctx.trace:  # nothing is lost by that, so no report need say it
                r.ctx.note(f"nothing of {', '.join(self.when)} is spelled out")
            return
        try:
            _require_permission(self, before, r)
            plan = _plan(model, before, self.to)
        except NoMatch as declined:
            r.ctx.note(declined.reason)
            return
        first = next(iter(model.all_nodes()), None)
        if first is not None and not r.allow(first):
            return
        _carry_out(model, plan, before, self.to, r)


def _require_permission(p: RaiseOpset, before: int, r: Rewriter) -> None:
    """Unasked (with ``when``), the opset rises only as far as the target's runtime is known to follow."""
    newest = r.ctx.target.newest_opset if r.ctx.target is not None else 0
    if p.when and not p.lossy and p.to > max(newest, before):
        keeps = f"takes opset {newest} at most" if newest else "keeps the model's opset, a named target would not"
        raise NoMatch(f"{', '.join(p.when)}: opset {p.to} has operators for what is spelled out; the target {keeps}")


def _spelled(node: Node) -> str | None:
    """What newer versions have an operator for, where ``node`` is the anchor of its spelling."""
    if node.domain or node.op not in ("Softmax", *ROOTS):
        return None
    try:
        if node.op == "Softmax":
            attention_around(node)
            return "attention"
        if node.op == "Sqrt" and has_moments(node):
            return "layer-norm"
        return "layer-norm" if find_norm(node).centered else "rms-norm"
    except NoMatch:
        return None


def _plan(model: Model, before: int, after: int) -> list[tuple[Node, Adapter]]:
    """Nodes that change, with their adapters. Raises :class:`NoMatch` where the model cannot be raised as a whole."""
    if not 7 <= before < after:
        raise NoMatch(f"the model imports opset {before}, expected one from 7 on and below {after}")
    if model.functions:
        raise NoMatch("the model has functions with opsets of their own; run inline-functions first")
    plan: list[tuple[Node, Adapter]] = []
    for node in model.all_nodes():
        if node.domain:
            continue
        try:
            adapter = adapter_for(node.op, before, after)
            if adapter is not None:
                require_own_attributes(node)
                plan.append((node, adapter))
        except NoMatch as declined:
            raise NoMatch(f"{node!r}: {declined.reason}") from None
    return plan


def _carry_out(model: Model, plan: list[tuple[Node, Adapter]], before: int, after: int, r: Rewriter) -> None:
    """Emits the new nodes beside the old ones, and only when all are there puts them in the old ones' places."""
    model.opsets[""] = after
    made: list[tuple[Node, Results, list[Node]]] = []
    reason, changes = "", r.changes
    for node, adapter in plan:
        r.begin(node)
        try:
            made.append((node, adapter(r, node, Old(node, before)), list(r.created)))
        except (NoMatch, PlanishError) as declined:
            reason = f"{node!r}: {declined.reason if isinstance(declined, NoMatch) else declined.message}"
            r.rollback()
            break
    reason = reason or _unfit(model, {node for node, _ in plan})
    if reason:
        for _, _, created in reversed(made):
            for node in reversed(created):
                r.erase(node)
        model.opsets[""] = before
        r.changes = changes
        r.ctx.note(reason)
        return
    for node, results, created in made:
        r.created[:] = created
        r.replace(node, results)
    model.ir_version = max([model.ir_version, *[ir for opset, ir in _IR_VERSIONS if opset <= after]])
    r.changes += 1


def _unfit(model: Model, replaced: set[Node]) -> str:
    """What is wrong with a node that stays as it is; empty where nothing is."""
    for node in model.all_nodes():
        problem = check_node(node) if not node.domain and node not in replaced else None
        if problem:
            return f"{node!r}: {problem}"
    return ""
