"""The schedule of a kernel: from the database, or the best of a few candidates by measuring, or the best guess."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from ....passes.target import Target, get_target, native
from ..kernels import conv, matmul
from ..kernels.arithmetic import is_integer
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
    trials: int = 0
    """Schedules that MetaSchedule tries for a function without a template; 0: none."""
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

    def function(self, function: Any) -> Any | None:
        """A faster schedule than planish's own for a function without a template; ``None``: nobody knows one."""
        if not self.trials and not self.database.functions:
            return None
        from .functions import Search, applied, function_key, unsearchable

        key = function_key(function, self.machine)
        found = self.database.functions.get(key)
        searching = self.trials > (found.trials if found else 0) and self.spent < self.seconds
        if self.runner is not None and searching and unsearchable(function) is None:
            begin = time.perf_counter()
            search = Search(function, self.machine, self.runner, partial(self.database.record, key))
            found = search.run(found, self.trials, self.seconds - self.spent)
            self.spent += time.perf_counter() - begin
            self.progress(f"{key}: {found.time_us:.1f} us, {found.own_us:.1f} us; {found.trials} trials")
        return applied(function, found.trace, self.machine) if found is not None and found.trace else None

    def _kernel(self, family: Any, spec: Conv | MatMul, tile: Tile) -> Any:
        sums = "int32" if is_integer(spec.dtype) else "float32"
        return family.build(with_usual_extents(spec), self.machine, tile, Epilogue(dtype=sums))


def informed(target: Target, schedules: Path | None = None) -> Machine:
    """The machine with what was measured for it: in a file of the caller's, and in the one that lies beside this file.
    Nothing is measured. Raises ``BackendError`` for a file that is no database."""
    machine = Machine(target)
    known = load_database(Path(__file__).parent / f"{target.name}.json", update=False)
    if schedules is not None:
        known = load_database(schedules, update=False).over(known)
    chooser = Chooser(machine, known)
    return Machine(target, chooser.tile, chooser.function)


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
    """The same kernel with numbers for symbolic extents; batches of one, images larger than the window."""
    change: dict[str, Any] = {}
    for f in fields(spec):
        value = getattr(spec, f.name)
        usual = 1 if f.name == "batch" else USUAL
        if f.name in ("height", "width"):
            axis = int(f.name == "width")
            usual = max(USUAL, (spec.kernel[axis] - 1) * spec.dilations[axis] + 1)
        if isinstance(value, tuple):
            change[f.name] = tuple(map(partial(_number, usual=usual), value))  # pyright: ignore[reportUnknownArgumentType]
        else:
            change[f.name] = _number(value, usual)
    return replace(spec, **change)


def _number(value: Any, usual: int) -> Any:
    return value if isinstance(value, int | str) else usual
