"""Transposed convolution as convolutions of stride 1 over the input, which write every stride-th place of the output.

    out[s q + u] = sum over j of x[q + a - j] w[r + s j]        u + p = s a + r,  0 <= r < s;  u = 0 .. s - 1

Along an axis, neighbouring ``u`` that read the same window of the input are outputs of one convolution, side by side;
where vectors would stay half empty all of them are, with zeros where their windows differ. Nothing is added up in
memory, and sums go through the epilogue straight to their places.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .columns import Array
from .conv import ConvWriter, pack, tile_of, unsupported
from .emit import Expr, function, seq
from .machine import Machine
from .math import with_math
from .tile import PLAIN, Epilogue, Tile
from .window import Conv, Landing

MOST = 16
"""Phases that are written out."""


@dataclass(frozen=True)
class Transposed:
    """A transposed convolution. ``batch``, ``height`` and ``width`` may be symbolic."""

    batch: Expr
    channels: int
    height: Expr
    width: Expr
    outputs: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    """Top, left."""
    beyond: tuple[int, ...]
    """Rows and columns of the output beyond ``strides`` times the input's; may be negative."""
    groups: int = 1
    in_block: int = 1
    out_block: int = 1

    @property
    def out_height(self) -> Expr:
        return self.height * self.strides[0] + self.beyond[0]

    @property
    def out_width(self) -> Expr:
        return self.width * self.strides[1] + self.beyond[1]


@dataclass(frozen=True)
class _Run:
    """Neighbouring places ``u`` along one axis."""

    begin: int
    count: int
    low: int
    """First place of the window, from q on."""
    taps: int
    beyond: int
    """How many q there are beyond the input's extent; may be negative."""

    def joined(self, other: _Run) -> _Run:
        """With the places behind, over the windows of both."""
        low, end = min(self.low, other.low), max(self.low + self.taps, other.low + other.taps)
        return _Run(self.begin, self.count + other.count, low, end - low, self.beyond)

    def ones(self) -> list[_Run]:
        """Its places one by one."""
        return [replace(self, begin=self.begin + i, count=1) for i in range(self.count)]


@dataclass(frozen=True)
class Phase:
    """One of the convolutions."""

    conv: Conv
    landing: Landing
    runs: tuple[_Run, _Run]


def _runs(t: Transposed, axis: int, *, all_of_them: bool) -> list[_Run]:
    stride, pad = t.strides[axis], t.pads[axis]
    found: list[_Run] = []
    for u in range(stride):
        whole, rest = divmod(u + pad, stride)
        taps = len(range(rest, t.kernel[axis], stride))
        run = _Run(u, 1, whole - taps + 1, taps, -((u - t.beyond[axis]) // stride))
        last = found[-1] if found else None
        same = last is not None and (last.low, last.taps) == (run.low, run.taps)
        if last is not None and last.beyond == run.beyond and (same or all_of_them):
            found[-1] = last.joined(run)
        else:
            found.append(run)
    return found


def phases(t: Transposed, lanes: int) -> list[Phase]:
    """The convolutions that it is made of, for vectors of so many ``lanes``; those without a result are left out."""
    joined = (False, True) if t.groups == 1 and t.outputs % t.out_block == 0 else (False,)
    ways: list[list[Phase]] = []
    for all_y, all_x in itertools.product(joined, joined):
        runs = itertools.product(_runs(t, 0, all_of_them=all_y), _runs(t, 1, all_of_them=all_x))
        split = ((y, x) for y, x in runs) if len(joined) > 1 else _apart(runs)
        ways.append([_phase(t, y, x) for y, x in split])
    best = min(ways, key=lambda way: sum(_steps(phase.conv, lanes) for phase in way))
    known = [(p, (p.conv.out_height, p.conv.out_width)) for p in best]
    return [p for p, extents in known if all(not isinstance(n, int) or n > 0 for n in extents)]


def _narrow(machine: Machine) -> int:
    """Lanes of the shortest vectors that are worth as much for each lane."""
    return max(4, machine.lanes() // 2)


def _apart(runs: Iterable[tuple[_Run, _Run]]) -> Iterator[tuple[_Run, _Run]]:
    """Runs of one place each."""
    for y, x in runs:
        yield from itertools.product(y.ones(), x.ones())


def _phase(t: Transposed, y: _Run, x: _Run) -> Phase:
    ends = [run.low + run.taps - 1 + run.beyond for run in (y, x)]
    conv = Conv(
        t.batch,
        t.channels,
        t.height,
        t.width,
        t.outputs * y.count * x.count,
        (y.taps, x.taps),
        pads=(-y.low, -x.low, ends[0], ends[1]),
        groups=t.groups,
        in_block=t.in_block,
        out_block=t.out_block,
    )
    landing = Landing((t.strides[0], t.strides[1]), (y.begin, x.begin), x.count, t.outputs, (t.out_height, t.out_width))
    return Phase(conv, landing, (y, x))


def _steps(conv: Conv, lanes: int) -> int:
    """Vectors times positions of the kernel."""
    return conv.groups * -(-conv.outputs // conv.groups // lanes) * conv.kernel[0] * conv.kernel[1]


def unfit(transposed: Transposed) -> str | None:
    """Why there is no kernel of this file for it; ``None`` where there is."""
    if any(k < s for k, s in zip(transposed.kernel, transposed.strides, strict=True)):
        return "places that no product reaches"
    if transposed.strides[0] * transposed.strides[1] > MOST:
        return "too many phases"
    if transposed.groups > 1 and transposed.groups == transposed.channels:
        return "depthwise"
    return next((why for p in phases(transposed, 1) if (why := unsupported(p.conv)) is not None), None)


def tiles_of(transposed: Transposed, machine: Machine) -> list[Tile]:
    """The schedule of each phase."""
    return [tile_of(phase.conv, machine) for phase in phases(transposed, _narrow(machine))]


def packed(weights: Array, transposed: Transposed, machine: Machine, tiles: Sequence[Tile]) -> list[Array]:
    """Weights ``[C, M / groups, kH, kW]`` as the phases read them."""
    channels, outputs, *kernel = weights.shape
    groups = transposed.groups
    apart = weights.reshape(groups, channels // groups, outputs, *kernel).swapaxes(1, 2)
    whole = np.ascontiguousarray(apart.reshape(groups * outputs, channels // groups, *kernel))
    made = phases(transposed, _narrow(machine))
    return [pack(_taps(whole, transposed, p), p.conv, tile) for p, tile in zip(made, tiles, strict=True)]


def _taps(whole: Array, t: Transposed, phase: Phase) -> Array:
    """Weights ``[M, C / groups, kH, kW]`` as those of a phase's convolution."""
    found = np.zeros((phase.conv.outputs, whole.shape[1], *phase.conv.kernel), whole.dtype)
    by_place = found.reshape(phase.runs[0].count, phase.runs[1].count, *whole.shape[:2], *phase.conv.kernel)
    chosen = [_positions(run, t.kernel[i], t.strides[i], t.pads[i]) for i, run in enumerate(phase.runs)]
    for (uy, ty, ky), (ux, tx, kx) in itertools.product(*chosen):
        by_place[uy, ux, :, :, ty, tx] = whole[:, :, ky, kx]
    return found


def _positions(run: _Run, kernel: int, stride: int, pad: int) -> list[tuple[int, int, int]]:
    """Which position of the kernel stands at each tap of each place: (place, tap, position)."""
    found: list[tuple[int, int, int]] = []
    for u, tap in itertools.product(range(run.count), range(run.taps)):
        # x[q + low + tap] belongs to position k of the output's place s q + u where u + p = s (low + tap) + k.
        k = run.begin + u + pad - stride * (run.low + tap)
        found += [(u, tap, k)] if 0 <= k < kernel else []
    return found


def build(
    transposed: Transposed, machine: Machine, tiles: Sequence[Tile], epilogue: Epilogue = PLAIN, *, name: str = "conv"
) -> Any:
    """The kernel ``(x, packed weights of every phase..., extras..., output)``."""
    writers = [
        ConvWriter(phase.conv, machine, tile, epilogue, phase.landing)
        for phase, tile in zip(phases(transposed, _narrow(machine)), tiles, strict=True)
    ]
    first = writers[0]
    for writer in writers[1:]:
        writer.x, writer.extras, writer.out = first.x, first.extras, first.out
    operands = [first.x, *(writer.weights for writer in writers), *first.extras, first.out]
    return with_math(function(operands, seq([writer.body() for writer in writers]), name), machine)
