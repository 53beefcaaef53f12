"""What values of a model take of memory as its nodes run, and where they could lie: ``inspect --memory``, ``plan``.

See ``passes/shared/liveness.py`` for what shares memory, and ``passes/shared/arena`` for how an arena is laid out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...ir.errors import BudgetError, UsageError
from ...ir.graph import Model
from ...ir.safe_files import SafeFiles, output_path
from ...passes.shared.arena.place import NODES, Placement, Progress, place
from ...passes.shared.arena.spaces import Space, Spread
from ...passes.shared.liveness import Liveness, Storage, liveness
from ...passes.shared.memory_plan import planned
from ...passes.shared.order.search import Ordering, best_order
from ...passes.shared.order.tasks import tasks_of
from ..checks.validate import AnyModel, as_model
from ..dims import input_symbols, with_dims
from ..document import SCHEMA, Document, Table, Text, bytes_text
from ..select.front import new_picture
from .open_extents import OpenMemory, open_memory

ALIGNMENT = 64
"""Bytes; a cache line, and what vector instructions want."""
_SHOWN = 12
_MOST_BYTES = 1 << 60
"""What 64 bits hold with room to add."""
_WIDTH, _HEIGHT = 72, 8


@dataclass
class Memory:
    """Memory of one model in its order."""

    source: str
    liveness: Liveness
    placement: Placement
    alignment: int
    ordering: Ordering
    """The best order of the nodes that was found; ``order-nodes`` makes it."""
    capacity: int | None = None
    spaces: Sequence[Space] = ()
    """Memories of the target, the fastest first; the arena is for engines that have one."""
    spread: Spread | None = None
    """Where the storages lie in them."""

    @property
    def fits(self) -> bool:
        if self.spread is not None and not self.spread.fits:
            return False
        return self.capacity is None or self.placement.height <= self.capacity

    @property
    def at_peak(self) -> int:
        """Index of the node at the first peak."""
        profile = self.liveness.profile
        return profile.index(max(profile))

    def to_dict(self) -> dict[str, Any]:
        """Also the plan for a firmware engine: offsets, sizes, and the nodes between which they are valid."""
        live = self.liveness
        return {
            "schema": SCHEMA,
            "model": self.source,
            "peak_bytes": live.peak,
            "least_bytes": self.ordering.bound,
            "best_order_bytes": self.ordering.peak,
            "arena_bytes": self.placement.height,
            "arena_bound_bytes": self.placement.bound,
            "alignment": self.alignment,
            "nodes": [node.name or node.op for node in live.nodes],
            "profile_bytes": live.profile,
            "unknown": [v.name for v in live.unknown],
            **self._spaces_dict(),
            "buffers": [
                {
                    "values": [v.name for v in s.values],
                    **({"memory": place[0]} if self.spread is not None else {}),
                    "offset": place[1],
                    "size": s.size,
                    "first_node": s.born,
                    "last_node": s.dies,
                }
                for s, place in self._places()
            ],
        }

    def _places(self) -> list[tuple[Storage, tuple[int, int]]]:
        """Every storage with its memory and the offset there."""
        found = self.spread
        if found is None:
            places = [(0, offset) for offset in self.placement.offsets]
        else:
            places = list(zip(found.space, found.offset, strict=True))
        return list(zip(self.liveness.storages, places, strict=False))

    def _spaces_dict(self) -> dict[str, Any]:
        if self.spread is None:
            return {}
        used = zip(self.spaces, self.spread.used, self.spread.traffic, strict=True)
        rows = [{"name": s.name, "bytes": n, "capacity": s.capacity, "traffic": t} for s, n, t in used]
        return {"memories": rows}

    def document(self) -> Document:
        live, at = self.liveness, self.at_peak
        node = f" at {live.nodes[at].op} {live.nodes[at].name}".rstrip() if live.nodes else ""
        p = self.placement
        above = "the least possible" if p.height == p.bound else f"{p.gap:.2%} above the bound {bytes_text(p.bound)}"
        alive = live.alive(at)
        rows = [
            (s.values[0].name, str(s.values[0].type), bytes_text(s.size), f"{s.born} to {s.dies}")
            for s in alive[:_SHOWN]
        ]
        document: Document = [
            Text(f"{self.source}: at most {bytes_text(live.peak)} alive{node}", "bold"),
            Text(f"  {self._order_text()}"),
            Text(f"  in one arena {bytes_text(p.height)}, {above}; offsets are multiples of {self.alignment}"),
            Text("\n".join(["", *_drawn(live.profile)])),
            Table(f"alive at the peak, {len(alive)} values", ("value", "type", "size>", "nodes>"), rows),
        ]
        if self.spread is not None:
            document.append(self._spread_text(self.spread))
        elif not self.fits:
            document.append(Text(f"no placement in {self.capacity:,} bytes was found", "bold red"))
        if live.unknown:
            names = ", ".join(v.name for v in live.unknown[:3])
            document.append(
                Text(f"{len(live.unknown)} values have no known size and are not counted: {names}", "yellow")
            )
        return document

    def _spread_text(self, spread: Spread) -> Text:
        homeless = spread.space.count(-1)
        if homeless:
            return Text(f"{homeless} of {len(spread.space)} buffers have no place in any memory", "bold red")
        total = sum(spread.traffic) or 1
        parts = [
            f"{bytes_text(used)} in {space.name} with {traffic / total:.0%} of what is read and written"
            for space, used, traffic in zip(self.spaces, spread.used, spread.traffic, strict=True)
        ]
        return Text("; ".join(parts))

    def _order_text(self) -> str:
        best = self.ordering
        proof = "which is proved" if best.peak == best.bound else f"at least {bytes_text(best.bound)} are needed"
        if best.peak == self.liveness.peak:
            return f"no order of the nodes that was found needs less; {proof}"
        return f"in the best order of the nodes {bytes_text(best.peak)}, {proof} (pass order-nodes)"

    def c_header(self) -> str:
        """Offsets and sizes as C macros, for engines without a file system."""
        stem = _identifier(Path(self.source).stem)
        where = "one arena" if self.spread is None else "each memory"
        lines = [
            f"/* Memory plan of {self.source.replace('*/', '')}: byte offsets into {where}. */",
            f"#ifndef {stem}_PLAN_H",
            f"#define {stem}_PLAN_H",
            f"#define {stem}_ARENA_ALIGNMENT {self.alignment}u",
        ]
        if self.spread is None:
            lines.append(f"#define {stem}_ARENA_SIZE {self.placement.height}u")
        else:
            for i, (space, used) in enumerate(zip(self.spaces, self.spread.used, strict=True)):
                name = f"{stem}_MEMORY_{_identifier(space.name)}"
                lines += [f"#define {name} {i}", f"#define {name}_SIZE {used}u"]
        taken: set[str] = set()
        for s, (memory, offset) in self._places():
            for value in s.values:
                name = _identifier(value.name)
                while name in taken:
                    name += "_"
                taken.add(name)
                if self.spread is not None:
                    space = _identifier(self.spaces[memory].name)
                    lines.append(f"#define {stem}_{name}_MEMORY {stem}_MEMORY_{space}")
                lines.append(f"#define {stem}_{name}_OFFSET {offset}u /* {s.size} bytes, nodes {s.born} to {s.dies} */")
        return "\n".join([*lines, "#endif", ""])

    def csv(self) -> str:
        """The buffers in the format of google/minimalloc, with offsets, and the memory where there are several."""
        several = self.spread is not None
        rows = ["id,lower,upper,size,offset" + ",memory" * several]
        for i, (s, (memory, offset)) in enumerate(self._places()):
            rows.append(
                f"{i},{s.born},{s.dies + 1},{s.size},{offset}" + (f",{self.spaces[memory].name}" if several else "")
            )
        return "\n".join([*rows, ""])

    def json(self) -> str:
        return json.dumps(self.to_dict(), indent=1) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the plan in the form that the name's suffix asks for. Raises ``UsageError``."""
        path = Path(path)
        text = _FORMS[_form(path)](self)
        with SafeFiles() as files:
            files.create(path).write(text.encode())

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Writes a picture of the arena over time, a box for each buffer. Raises ``UsageError``."""
        path = Path(path)
        figure, kind = new_picture(path)
        axes = figure.add_subplot()
        for i, (s, offset) in enumerate(zip(self.liveness.storages, self.placement.offsets, strict=False)):
            axes.bar(
                s.born, s.size, s.dies + 1 - s.born, offset, align="edge", color=f"C{i % 10}", linewidth=0, alpha=0.7
            )
        profile = self.liveness.profile
        axes.step(range(len(profile) + 1), [*profile, profile[-1]], where="post", color="black", label="alive")
        axes.axhline(self.placement.bound, color="C3", linestyle=":", label="bound")
        axes.set_xlabel("node")
        axes.set_ylabel("bytes")
        axes.legend()
        with SafeFiles() as files:
            figure.savefig(files.create(path), format=kind, metadata={"Date": None} if kind == "svg" else None)


def memory(
    model: AnyModel,
    *,
    dims: Mapping[str, int] | None = None,
    alignment: int = ALIGNMENT,
    capacity: int | None = None,
    memories: Sequence[tuple[str, int | None]] = (),
    nodes: int = NODES,
    progress: Progress | None = None,
) -> Memory:
    """What the model takes in its order, and an arena for it. Raises ``ReadError``, and ``UsageError`` for open dims.

    ``alignment`` of the offsets, bytes; ``capacity``: an arena of so many bytes is good enough; ``memories``: values
    are spread over these as well, the fastest first, by name and bytes.
    """
    if alignment < 1 or (capacity is not None and capacity < 1):
        raise UsageError("the alignment and the capacity are positive numbers of bytes", where="memory")
    graph, source = as_model(model)
    graph = with_dims(graph, dims or {})
    live = liveness(graph.graph)
    symbols = input_symbols(graph)
    if live.unknown and symbols:
        raise UsageError(
            f"{len(live.unknown)} of {sum(len(s.values) for s in live.storages)} sizes depend on {', '.join(symbols)}",
            where="memory",
            help="fix them: " + " ".join(f"--dim '{name}=...'" for name in symbols),
        )
    total = sum(s.size for s in live.storages) + sum(live.workspace.values())
    if total >= _MOST_BYTES:
        raise UsageError(
            f"the values take {total:,} bytes together", where="memory", help="give smaller extents (--dim)"
        )
    placement = place(live.buffers(alignment), capacity, nodes=nodes, progress=progress)
    ordering = best_order(tasks_of(graph.graph, live.workspace)[1], progress=progress)
    name = source.name if isinstance(source, Path) else "model"
    spaces = [Space(*memory) for memory in memories]
    spread = planned(live, alignment, spaces, nodes=nodes, progress=progress) if spaces else None
    return Memory(name, live, placement, alignment, ordering, capacity, spaces, spread)


def inspect_memory(model: AnyModel, dims: Mapping[str, int], progress: Progress | None = None) -> Memory | OpenMemory:
    """``memory``, or the sizes as expressions where ``dims`` leave extents open. Raises ``ReadError``."""
    graph, source = as_model(model)
    graph = with_dims(graph, dims)
    symbols, live = input_symbols(graph), liveness(graph.graph)
    if not symbols or not live.unknown:
        return memory(model, dims=dims, progress=progress)
    return open_memory(source.name if isinstance(source, Path) else "model", live, symbols)


def plan_model(
    model: AnyModel,
    capacity: int | None = None,
    *,
    output: str | os.PathLike[str] | None = None,
    dims: Mapping[str, int] | None = None,
    alignment: int = ALIGNMENT,
    memories: Sequence[tuple[str, int | None]] = (),
    nodes: int = NODES,
    progress: Progress | None = None,
) -> Memory:
    """``memory``, with the plan written to ``output`` where it fits: ``.json``, ``.h`` (C) or ``.csv``."""
    path = output_path(output) if output is not None else None
    if path is not None:
        _form(path)
    found = memory(
        model,
        dims=dims,
        alignment=alignment,
        capacity=capacity,
        memories=memories,
        nodes=nodes,
        progress=progress,
    )
    if path is not None and found.fits:
        found.save(path)
    return found


def check_limit(model: Model, limit: int) -> Placement:
    """An arena for the model's values within ``limit`` bytes.

    Raises ``UsageError`` for open extents, ``BudgetError`` where no placement below the limit was found.
    """
    live = liveness(model.graph)
    if live.unknown:
        raise UsageError(
            f"{len(live.unknown)} sizes are no numbers, as %{live.unknown[0].name}'s",
            where="max-memory",
            help="fix the open extents with --dim; sizes that depend on data have no limit",
        )
    found = place(live.buffers(ALIGNMENT), limit)
    if found.height > limit:
        raise BudgetError(
            f"the values take {found.height:,} bytes, {live.peak:,} at once at the peak; the limit is {limit:,}",
            where="max-memory",
            help="the least that orders, parts of regions and computing again reached; narrower types take less",
        )
    return found


_FORMS: dict[str, Callable[[Memory], str]] = {".json": Memory.json, ".h": Memory.c_header, ".csv": Memory.csv}


def _form(path: Path) -> str:
    """The suffix. Raises ``UsageError`` for one of no form."""
    if path.suffix not in _FORMS:
        raise UsageError(
            f"{path.name} has the suffix of no form of plan", where="output", help=f"one of {', '.join(_FORMS)}"
        )
    return path.suffix


def _identifier(name: str) -> str:
    text = "".join(c if c.isascii() and c.isalnum() else "_" for c in name).upper()
    return text if text[:1].isalpha() else f"V{text}"


def _drawn(profile: list[int]) -> list[str]:
    """Bytes over nodes as columns of characters, the highest of each stretch."""
    width = min(len(profile), _WIDTH)
    stretches = [profile[i * len(profile) // width : (i + 1) * len(profile) // width] for i in range(width)]
    top = max(profile) or 1
    levels = [round(max(stretch) / top * _HEIGHT * 2) for stretch in stretches]
    rows: list[str] = []
    for row in range(_HEIGHT, 0, -1):
        cells = ["█" if level >= 2 * row else "▄" if level == 2 * row - 1 else " " for level in levels]
        label = bytes_text(top) if row == _HEIGHT else ""
        rows.append(f"{label:>10} {''.join(cells)}".rstrip())
    return [*rows, f"{'':>10} node 0{len(profile) - 1:>{max(width - 6, 1)}}"]
