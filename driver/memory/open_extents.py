"""What a model's values take where extents are open: bytes as expressions of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...ir.cost import value_bytes
from ...ir.dims import Dim, SymDim, add, dim_text, sub
from ...passes.shared.liveness import Liveness, Storage
from ..document import SCHEMA, Document, Table, Text

_SHOWN = 12
_LONGEST = 100
"""Characters of an expression that is shown; longer ones are of no use."""


@dataclass(frozen=True)
class OpenMemory:
    """Memory of one model in its order, for any extents of at least 1."""

    source: str
    symbols: list[str]
    liveness: Liveness
    peaks: list[tuple[Dim, int]]
    """Bytes that may be the most, and the first node at which they are alive: no other node has more, whatever the
    extents are. ``None`` where an expression is too long or a size is not known."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "model": self.source,
            "symbols": self.symbols,
            "peaks": [{"bytes": dim_text(peak), "node": at} for peak, at in self.peaks],
            "buffers": [
                {
                    "values": [v.name for v in s.values],
                    "size": dim_text(extent(s)),
                    "first_node": s.born,
                    "last_node": s.dies,
                }
                for s in self.liveness.storages
            ],
        }

    def document(self) -> Document:
        live = self.liveness
        named = [(_shown(peak), _node(live, at)) for peak, at in self.peaks[:_SHOWN]]
        at = self.peaks[0][1] if self.peaks else 0
        alive = [s for s in live.storages if s.born <= at <= s.dies]
        rows = [
            (s.values[0].name, str(s.values[0].type), _shown(extent(s)), f"{s.born} to {s.dies}")
            for s in alive[:_SHOWN]
        ]
        names = " ".join(f"--dim '{name}=...'" for name in self.symbols)
        return [
            Text(f"{self.source}: bytes alive, with {', '.join(self.symbols)} open", "bold"),
            Table("at most the largest of these", ("bytes", "at"), named),
            Table(f"alive at {_node(live, at)}, {len(alive)} values", ("value", "type", "bytes", "nodes>"), rows),
            Text(f"numbers, the best order and an arena: {names}", "dim"),
        ]


def extent(storage: Storage) -> Dim:
    """Bytes of a storage: of the value that was there first."""
    return value_bytes(storage.values[0])


def open_memory(source: str, live: Liveness, symbols: list[str]) -> OpenMemory:
    """The steps at which most may be alive."""
    steps: list[list[Storage]] = [[] for _ in range(max(len(live.nodes), 1) + 1)]
    ends: list[list[Storage]] = [[] for _ in steps]
    for s in live.storages:
        steps[s.born].append(s)
        ends[s.dies + 1].append(s)
    alive: Dim = 0
    found: list[tuple[Dim, int]] = []
    for at, (begin, end) in enumerate(zip(steps[:-1], ends[:-1], strict=True)):
        for s in end:
            alive = sub(alive, extent(s))
        for s in begin:
            alive = add(alive, extent(s))
        alive = _sum(live, at) if alive is None else alive
        if begin:
            _keep(found, alive, at)
    return OpenMemory(source, symbols, live, found)


def _sum(live: Liveness, at: int) -> Dim:
    """Anew: some size before was not known."""
    total: Dim = 0
    for s in live.storages:
        if s.born <= at <= s.dies:
            total = add(total, extent(s))
    return total


def _keep(found: list[tuple[Dim, int]], alive: Dim, at: int) -> None:
    """Adds what is alive at a node unless something is always at least as much; drops what never is more."""
    if any(_at_most(alive, other) for other, _ in found):
        return
    found[:] = [(other, i) for other, i in found if not _at_most(other, alive)]
    found.append((alive, at))


def _at_most(a: Dim, b: Dim) -> bool:
    """Whether ``a <= b`` for all extents from 1 on, as far as coefficients show it."""
    if a is None or b is None:
        return a is None and b is None
    rest = sub(b, a)
    if isinstance(rest, SymDim):
        lost = sum(-c for _, c in rest.terms if c < 0)
        return lost == 0 or (
            all(c > 0 or not m for m, c in rest.terms) and lost <= sum(c for _, c in rest.terms if c > 0)
        )
    return isinstance(rest, int) and rest >= 0


def _shown(size: Dim) -> str:
    text = dim_text(size)
    return text if len(text) <= _LONGEST else "a long formula"


def _node(live: Liveness, at: int) -> str:
    return f"{live.nodes[at].op} {live.nodes[at].name}".rstrip() if live.nodes else "no node"
