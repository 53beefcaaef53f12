"""Sampling at places that data says: ``GridSample``, and the places that a matrix makes; rows put where data says.

Source: GridSample-22: places in [-1, 1] are those of the operand's edges (or of its outer elements' centres with
``align_corners``); the grid's last axis has them in the reverse order of the axes. TensorScatter-24.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..api import tirx
from ..lower.extents import Extent, expr
from ..lower.forms import Element, Expr, Index, flat
from .core import Context, Kind, Unsupported, named, number, rule

Body = Callable[[Expr], Expr]


@dataclass(frozen=True)
class _Axis:
    """One axis of space."""

    extent: Extent
    aligned: bool
    padding: str
    dtype: str

    def number(self, x: float) -> Expr:
        return number(x, self.dtype)

    @property
    def last(self) -> Expr:
        return expr(self.extent) - 1

    @property
    def borders(self) -> tuple[Expr, Expr]:
        """Lowest and highest place inside."""
        end = number(self.extent, self.dtype)
        if self.aligned:
            return self.number(0), end - self.number(1)
        return self.number(-0.5), end - self.number(0.5)

    def place(self, given: Expr) -> Expr:
        """Where a place of the grid lies, in elements."""
        end = number(self.extent, self.dtype)
        if self.aligned:
            return (given + self.number(1)) / self.number(2) * (end - self.number(1))
        return ((given + self.number(1)) * end - self.number(1)) / self.number(2)

    def brought_in(self, at: Expr) -> Expr:
        """A place outside, as the padding has it."""
        if self.padding == "border":
            return tirx.max(self.number(0), tirx.min(at, number(self.extent, self.dtype) - self.number(1)))
        return self.reflected(at) if self.padding == "reflection" else at

    def reflected(self, at: Expr) -> Expr:
        """Mirrored at the borders until it is inside."""
        low, high = self.borders
        # An axis of one element has no distance between aligned borders.
        width = tirx.max(high - low, self.number(1e-6))

        def mirrored(beyond: Expr, near: Expr, far: Expr, towards: Callable[[Expr, Expr], Expr]) -> Expr:
            def turned(turns: Expr) -> Expr:
                rest = beyond - turns * width
                odd = tirx.EQ(tirx.floormod(turns.astype("int32"), 2), 1)
                return tirx.Select(odd, towards(far, -rest), towards(near, rest))

            return named(tirx.floor(beyond / width), turned)

        below = mirrored(low - at, low, high, lambda a, b: a + b)
        above = mirrored(at - high, high, low, lambda a, b: a - b)
        return tirx.Select(at < low, below, tirx.Select(at > high, above, at))

    def index(self, at: Expr) -> tuple[Expr, Expr | None]:
        """The element of a whole place, and whether it is inside where that has to be asked."""
        if self.padding == "reflection":
            at = self.reflected(at)
        whole = at.astype("int32")
        kept = tirx.max(tirx.min(whole, self.last), 0)
        return kept, tirx.all(whole >= 0, whole <= self.last) if self.padding == "zeros" else None


@rule(Kind.GATHERING, "GridSample")
def grid_sample(c: Context) -> Element:
    x, grid, shape, dtype = c.x(0), c.x(1), c.extents(0), c.dtype()
    mode, padding = (_text(c, name, default) for name, default in (("mode", "linear"), ("padding_mode", "zeros")))
    mode = mode.removeprefix("bi")
    if dtype != "float32" or c.dtype(1) != "float32":
        raise Unsupported(f"GridSample of {dtype}")
    if mode == "cubic" and len(shape) > 4:
        raise Unsupported("cubic GridSample of volumes")
    axes = [_Axis(extent, bool(c.node.attr("align_corners", 0)), padding, dtype) for extent in shape[2:]]
    space = len(axes)

    def element(index: Index) -> Expr:
        def given(i: int) -> Expr:
            at = axes[i].place(grid((index[0], *index[2:], space - 1 - i)))
            if mode == "cubic" and padding == "border":
                return at  # ONNX Runtime brings in neighbours, the standard's reference the place: linear is the same
            return axes[i].brought_in(tirx.nearbyint(at) if mode == "nearest" else at)

        def read(places: Sequence[Expr]) -> Expr:
            found = [axis.index(at) for axis, at in zip(axes, places, strict=True)]
            value = x((*index[:2], *(at for at, _ in found)))
            inside = [condition for _, condition in found if condition is not None]
            return tirx.if_then_else(tirx.all(*inside), value, number(0, dtype)) if inside else value

        def sampled(places: tuple[Expr, ...]) -> Expr:
            if mode == "nearest":
                return read(places)
            return _weighted(places, mode, dtype, read)

        def bound(done: tuple[Expr, ...]) -> Expr:
            if len(done) == space:
                return sampled(done)
            at = given(len(done))
            # A name that an index reads alone is none to TVM where it looks at what a block reads.
            return bound((*done, at)) if mode == "nearest" else named(at, lambda name: bound((*done, name)))

        return bound(())

    return element


@rule(Kind.GATHERING, "AffineGrid")
def affine_grid(c: Context) -> Element:
    """Places of all elements of a result, turned by a matrix for each sample. Source: AffineGrid-20."""
    theta, out, dtype = c.x(0), c.out_extents(), c.out_dtype()
    space, aligned = len(out) - 2, bool(c.node.attr("align_corners", 0))

    def place(i: Expr, extent: Extent) -> Expr:
        """In [-1, 1]."""
        at, n, one = flat(i).astype(dtype), number(extent, dtype), number(1, dtype)
        if aligned:
            return number(2, dtype) * at / tirx.max(n - one, one) - one
        return (number(2, dtype) * at + one) / n - one

    def element(index: Index) -> Expr:
        row = flat(index[-1])
        total: Expr = theta((index[0], row, space))
        for k in range(space):
            axis = space - 1 - k
            total = total + theta((index[0], row, k)) * place(index[1 + axis], out[1 + axis])
        return total

    return element


def _weighted(places: Sequence[Expr], mode: str, dtype: str, read: Callable[[Sequence[Expr]], Expr]) -> Expr:
    """The sum over neighbours of all axes."""
    offsets = (0, 1) if mode == "linear" else (-1, 0, 1, 2)
    total: Expr = None
    for chosen in itertools.product(range(len(offsets)), repeat=len(places)):
        at = [tirx.floor(p) + number(offsets[k], dtype) for p, k in zip(places, chosen, strict=True)]
        term = read(at)
        for p, k in zip(places, chosen, strict=True):
            term = term * _weight(p - tirx.floor(p), k, mode, dtype)
        total = term if total is None else total + term
    return total


def _weight(part: Expr, k: int, mode: str, dtype: str) -> Expr:
    """Of the k-th neighbour of a place ``part`` behind an element; cubic: Keys 1981 with -0.75."""
    one = number(1, dtype)
    if mode == "linear":
        return part if k else one - part
    if mode != "cubic":
        raise Unsupported(f"GridSample by {mode}")
    a = -0.75
    distance = (part + one, part, one - part, number(2, dtype) - part)[k]

    def near(d: Expr) -> Expr:
        return ((number(a + 2, dtype) * d - number(a + 3, dtype)) * d) * d + one

    def far(d: Expr) -> Expr:
        return ((number(a, dtype) * d - number(5 * a, dtype)) * d + number(8 * a, dtype)) * d - number(4 * a, dtype)

    return near(distance) if k in (1, 2) else far(distance)


def _text(c: Context, name: str, default: str) -> str:
    found = c.node.attr(name, default)
    return found.decode() if isinstance(found, bytes) else str(found)


@rule(Kind.STAGE, "TensorScatter")
def tensor_scatter(c: Context) -> Element:
    """The update's element where it lies in the rows behind the sample's index, else the cache's."""
    axis = int(c.node.attr("axis", -2)) % c.rank()
    rows, new = c.extents(0)[axis], c.extents(1)[axis]
    circular = c.node.attr("mode", "linear") in ("circular", b"circular")

    def element(index: Index) -> Expr:
        at = flat(index[axis])
        if c.has(2):
            at = at - c.x(2)((index[0],)).astype("int32")
        at = tirx.floormod(at, expr(rows)) if circular else at
        inside = tirx.all(at >= 0, at < expr(new))
        near = tirx.max(tirx.min(at, expr(new) - 1), 0)
        return tirx.if_then_else(inside, c.x(1)((*index[:axis], near, *index[axis + 1 :])), c.x(0)(index))

    return element
