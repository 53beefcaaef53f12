"""A rewrite that imports another version of an operator set, which every node's meaning depends on.

It is right where each value is, given that those before it are: a node that stayed as it is means the same where its
operator is of the same version, and is otherwise compared with itself; one that became others is compared with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ...ir.schema import schema
from ...ir.types import type_text
from .cut import Frame, Obligation, collect
from .frames import obligations
from .ledger import CHECKED, PROVED, UNCHECKED, Verdict
from .snapshot import Change, State

OPSET = "it imports another version of the operators"


def raises(change: Change) -> bool:
    """Whether nodes that the rewrite left alone may mean something else."""
    for domain, version in change.before.opsets.items():
        now = change.after.opsets.get(domain)
        if now != version and (now is not None or any(s.domain == domain for s in change.after.base.values())):
            return True
    return False


def judge_opsets(change: Change, shown: Callable[[Frame], Verdict]) -> Verdict:
    """The verdict on the whole; ``shown`` gives that on one value. The first that is not shown ends it."""
    pairs = obligations(change)
    if pairs is None:
        return Verdict(UNCHECKED, f"{OPSET}, and a body returns other values")
    count, proved = 0, True
    for what, frame in _frames(change, pairs):
        verdict = shown(frame)
        if verdict.kind not in (PROVED, CHECKED):
            return Verdict(UNCHECKED, f"{OPSET}; {what}: {verdict.how}")
        count, proved = count + 1, proved and verdict.kind == PROVED
    nodes = f"{count} values one by one, all others by operators of the same version"
    return Verdict(PROVED if proved else CHECKED, nodes)


def _frames(change: Change, pairs: list[Obligation]) -> Iterator[tuple[str, Frame]]:
    """One value at a time, with its name; of nodes that stayed as they are one of each kind."""
    for pair in pairs:
        frame = Frame(change, [pair])
        if collect(frame):
            yield f"%{pair.old.name}", frame
    seen: set[str] = set()
    for state in _kept(change):
        types = [type_text(v.type) if v is not None else "" for v in (*state.inputs, *state.outputs)]
        data = [v.data.digest() for v in state.inputs if v is not None and v.data is not None]
        key = f"{state.op} {sorted(state.attrs.items(), key=lambda item: item[0])} {types} {data}"
        results = [v for v in state.outputs if v.uses]
        frame = Frame(change, [Obligation(v, v) for v in results], inner=set(results))
        if key not in seen and results and collect(frame):
            yield f"{state.op} at %{results[0].name}", frame
        seen.add(key)


def _kept(change: Change) -> Iterator[State]:
    """Nodes that are the same operation before and after, of an operator of another version."""
    for node in [node for nodes in change.after.orders.values() for node in nodes]:
        old, new = change.before.state(node), change.after.state(node)
        if old is not None and new is not None and old.same_operation(new) and _means_another(change, new):
            yield new


def _means_another(change: Change, state: State) -> bool:
    return _since(state, change.before.opsets) != _since(state, change.after.opsets)


def _since(state: State, opsets: dict[str, int]) -> int:
    known = schema(state.domain, state.op, opsets.get(state.domain, 0))
    return 0 if known is None else known.since
