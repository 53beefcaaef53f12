"""The schedule of a kernel: from the database, or the best of a few candidates by measuring, or the best guess."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from ....passes.target import get_target, native
from ..kernels import conv, matmul
from ..kernels.conv import Conv
from ..kernels.machine import Machine
from ..kernels.matmul import MatMul
from ..kernels.tile import Epilogue, Tile
from .database import Database, Entry, load_database
from .measure import Local, Runner

CANDIDATES = 3
MARGIN = 0.03
"""How much faster than the best guess another candidate has to be: less is within what times differ by."""
USUAL = 64
"""What symbolic extents are taken for while measuring."""


@dataclass
class Chooser:
    """Chooses the tiles of one build. Kernels of equal sizes share a choice, whatever follows their sums."""

    machine: Machine
    database: Database = field(default_factory=Database)
    runner: Runner | None = None
    """Who measures; ``None``: nobody, unknown kernels get the best guess."""
    seconds: float = 30.0
    """What all measuring together may take; kernels that come later get the best guess."""
    progress: Callable[[str], None] = lambda line: None
    spent: float = 0.0
    """Seconds taken so far."""

    def tile(self, spec: Conv | MatMul) -> Tile:
        """The tile for a convolution or product."""
        key = key_of(spec, self.machine)
        known = self.database.entries.get(key)
        family: Any = conv if isinstance(spec, Conv) else matmul
        candidates: list[Tile] = family.tiles(spec, self.machine)[:CANDIDATES]
        if known is not None:
            return known.tile
        if self.runner is None or self.spent >= self.seconds or len(candidates) == 1:
            return candidates[0]
        begin = time.perf_counter()
        times = self.runner.times_us([self._kernel(family, spec, t) for t in candidates], self.machine)
        self.spent += time.perf_counter() - begin
        fastest = min(range(len(times)), key=times.__getitem__)
        best = fastest if times[fastest] < (1 - MARGIN) * times[0] else 0
        self.progress(f"{key}: {candidates[best]} {times[best]:.1f} us, {candidates[0]} {times[0]:.1f} us")
        self.database.record(key, Entry(candidates[best], round(times[best], 2), round(times[0], 2)))
        return candidates[best]

    def _kernel(self, family: Any, spec: Conv | MatMul, tile: Tile) -> Any:
        sums = "float32" if spec.dtype == "float32" else "int32"
        return family.build(with_usual_extents(spec), self.machine, tile, Epilogue(dtype=sums))


def shipped(machine: Machine) -> Chooser:
    """What was measured for the machine before and lies beside this file; nothing is measured."""
    path = Path(__file__).parent / f"{machine.processor.name}.json"
    return Chooser(machine, load_database(path, update=False))


def local_runner(machine: Machine) -> Runner | None:
    """A runner on this machine where it has all that ``machine`` has; ``None`` elsewhere."""
    here, wanted = get_target(native()), machine.processor
    fits = here.arch == wanted.arch and wanted.features <= here.features
    return Local() if fits else None


def key_of(spec: Conv | MatMul, machine: Machine) -> str:
    """The kernel in words, with those of its fields that are not as usual; symbolic extents by ``?``."""
    shown = [f"{f.name}={_shown(getattr(spec, f.name))}" for f in fields(spec) if getattr(spec, f.name) != f.default]
    return f"{machine.processor.name} {type(spec).__name__.lower()} {' '.join(shown)}"


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        parts: list[Any] = list(value)  # pyright: ignore[reportUnknownArgumentType]
        return f"({','.join(map(_shown, parts))})"
    return str(value) if isinstance(value, int | str) else "?"


def with_usual_extents(spec: Any) -> Any:
    """The same kernel with numbers for symbolic extents; batches of one."""
    change: dict[str, Any] = {}
    for f in fields(spec):
        value = getattr(spec, f.name)
        usual = 1 if f.name == "batch" else USUAL
        if isinstance(value, tuple):
            change[f.name] = tuple(map(partial(_number, usual=usual), value))  # pyright: ignore[reportUnknownArgumentType]
        else:
            change[f.name] = _number(value, usual)
    return replace(spec, **change)


def _number(value: Any, usual: int) -> Any:
    return value if isinstance(value, int | str) else usual
