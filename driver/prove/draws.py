"""Operands for the two sides of a cut: sizes of symbols, and elements."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from itertools import islice, product

import numpy as np

from ...ir.dims import SymDim, evaluate
from ...ir.dtypes import DType
from ...ir.graph import Model, Value
from ...ir.types import TensorType
from . import number as N
from .evaluate import Limits
from .field import Field
from .number import Array, Number, Undecided
from .operators import Item
from .ring import ring

SCALES = (1.0, 0.06, 30.0)
_INTEGERS = ((-4, 5), (0, 3), (0, 2), (-1, 1))
ATTEMPTS = 15
SHAPES = [shape for rank in range(4) for shape in product((3, 2, 1), repeat=rank)]
"""For operands of unknown rank: all shapes of rank 0 to 3 with small extents."""
MOST_BOOLS = 3
"""Boolean operands of which all combinations of values are tried."""
MAX_POOL = 6
"""Constants of a cut from which numbers are drawn."""


class Manner(Enum):
    """How elements are drawn."""

    FREE = "free"
    """Independent of each other."""
    TIES = "ties"
    """From a few numbers, the scalar constants of the cut among them, so that many coincide."""
    IDS = "ids"
    """Each different, whatever the type: for what is only moved."""


class Draws:
    """Operands for the inputs of a model."""

    def __init__(self, model: Model, other: Model | None = None) -> None:
        """``other``: another model whose constants are of interest."""
        self.inputs = list(model.graph.inputs)
        self.symbols = sorted(set(self._symbols()))
        self.attempts = ATTEMPTS if all(v.shape is not None for v in self.inputs) else 2 * len(SHAPES)
        """Draws that cover what is not known: sizes, or ranks."""
        self.fixed = not self.symbols and self.attempts == ATTEMPTS
        """Whether all shapes are known."""
        self.bools = [v for v in self.inputs if v.dtype is DType.BOOL]
        self.choices = 1 << len(self.bools) if len(self.bools) <= MOST_BOOLS else 1
        """Draws in which every element of the boolean operands has had all values, beside any of the others."""
        self.ties = 0
        """Draws in which numbers coincide so far: each goes on where the last one stopped, so that all come up."""
        self.pool = _pool([model] if other is None else [model, other])

    def _symbols(self) -> Iterator[str]:
        """The symbols of the inputs, with one for each extent that has none."""
        for v in self.inputs:
            for axis, d in enumerate(v.shape or ()):
                if d is None:
                    yield _unnamed(v, axis)
                elif isinstance(d, SymDim):
                    yield from d.symbols()

    def sizes(self) -> Iterator[dict[str, int]]:
        """Values of the symbols: all small ones for at most two symbols, else some; then larger ones."""
        symbols = self.symbols
        while not symbols:
            yield {}
        yield {s: 2 + i % 3 for i, s in enumerate(symbols)}
        if len(symbols) <= 2:
            few: list[int] = [1, 2, 3]
            small = product(few, repeat=len(symbols))
            yield from (dict(zip(symbols, values, strict=True)) for values in small)
        else:
            yield dict.fromkeys(symbols, 1)
            yield {s: 3 - i % 3 for i, s in enumerate(symbols)}
        yield dict.fromkeys(symbols, 0)
        for base in (8, 16, 5, 32):
            yield {s: base + i for i, s in enumerate(symbols)}
            yield dict.fromkeys(symbols, base)

    def fitting(self) -> Iterator[dict[str, int]]:
        """All small values of three or four symbols, some of which may be sums of others."""
        few: list[int] = [1, 2, 3]
        if 3 <= len(self.symbols) <= 4:
            yield from (dict(zip(self.symbols, v, strict=True)) for v in product(few, repeat=len(self.symbols)))

    def draw(self, sizes: dict[str, int], attempt: int, manner: Manner = Manner.FREE) -> list[Item]:
        """One operand for each input. Raises :class:`Undecided`."""
        random = np.random.default_rng([attempt, len(self.inputs)])
        self.ties += manner is Manner.TIES
        return [self._leaf(v, sizes, random, attempt, manner) for v in self.inputs]

    def _leaf(self, v: Value, sizes: dict[str, int], random: np.random.Generator, attempt: int, manner: Manner) -> Item:
        shape, dtype = self._shape(v, sizes, attempt), self._dtype(v, attempt)
        if np.prod(shape, dtype=np.float64) > Limits().elements:
            raise Undecided(f"an operand of shape {list(shape)}")
        if v.known is not None and not dtype.is_float:
            return _known(v, sizes)
        if manner is Manner.IDS or dtype.is_float:
            if dtype.is_float and dtype.bits < 16:
                raise Undecided(f"no numbers of type {dtype.text}")
            if manner is Manner.TIES:
                found = self._pooled(self.inputs.index(v), shape, dtype)
            else:
                found = N.free(random, shape, dtype, SCALES[attempt % len(SCALES)])
            found.dtype = dtype if dtype.is_float else None
            return found
        if dtype is DType.BOOL and self.choices > 1:
            places = np.arange(int(np.prod(shape))).reshape(shape)
            return (places + attempt) >> self.bools.index(v) & 1 == 1
        return _others(dtype, shape, random, attempt)

    def _shape(self, v: Value, sizes: dict[str, int], attempt: int) -> tuple[int, ...]:
        if v.shape is None:
            return SHAPES[attempt // 2 * (1 if attempt % 2 else 1 + 7 * self.inputs.index(v)) % len(SHAPES)]
        found: list[int] = []
        for axis, d in enumerate(v.shape):
            size = sizes[_unnamed(v, axis)] if d is None else evaluate(d, sizes)
            if size is None or size < 0:
                raise Undecided("an extent of an operand is not known")
            found.append(size)
        return tuple(found)

    def _dtype(self, v: Value, attempt: int) -> DType:
        if v.type is None:  # inside a function it is the caller's
            return (DType.F32, DType.F32, DType.F32, DType.I64)[attempt % 4]
        if not isinstance(v.type, TensorType) or v.type.dtype is None:
            raise Undecided("an operand is no tensor")
        return v.type.dtype

    def _pooled(self, number: int, shape: tuple[int, ...], dtype: DType) -> Number:
        image, near = self.pool
        order = np.random.default_rng(number).permutation(len(near))
        count = int(np.prod(shape))
        which = order[(np.arange(count) + self.ties * count) % len(near)].reshape(shape)
        return Number(np.asarray(image[which]), np.asarray(near[which]), np.zeros(shape), dtype)


def _pool(models: list[Model]) -> tuple[Field, Array]:
    """A few numbers: constants and what lies beside them."""
    found: dict[float, None] = {0.0: None, 1.0: None}
    for model in models:
        for v in model.graph.constants:
            if v.data is not None and v.data.dtype.is_float and v.data.count == 1 and v.uses:
                found[float(v.numpy().reshape(-1)[0])] = None
        for node in model.graph:
            found.update((float(a), None) for a in node.attrs.values() if isinstance(a, float))
    fixed = [x for x in found if np.isfinite(x) and abs(x) < 1e6][:MAX_POOL]
    random = np.random.default_rng(len(fixed))
    loose = [y for x in fixed for y in (x - 0.5, x + 0.75, -1.25 * x)]
    image = np.concatenate([ring().from_floats(np.array(fixed)), ring().draw(random, (len(loose),))])
    near, first = np.unique(np.array([*fixed, *loose]), return_index=True)
    return image[first], near


def _unnamed(v: Value, axis: int) -> str:
    return f"?{v.name}.{axis}"


def _known(v: Value, sizes: dict[str, int]) -> Item:
    found = [evaluate(d, sizes) for d in v.known or ()]
    if any(n is None for n in found) or v.dtype is None or v.shape is None:
        raise Undecided("an element of an operand is not known")
    return np.array(found, v.dtype.numpy).reshape([len(found)] * len(v.shape))


def _others(dtype: DType, shape: tuple[int, ...], random: np.random.Generator, attempt: int) -> Item:
    if dtype is DType.BOOL:
        return random.integers(0, 2, shape).astype(bool)
    if dtype is DType.STRING:
        return random.choice(np.array(["", "a", "planish", "ß"], object), shape)
    if not dtype.is_integer:
        raise Undecided(f"no numbers of type {dtype.text}")
    low, high = _INTEGERS[attempt % len(_INTEGERS)]
    return random.integers(0 if dtype.kind == "uint" else low, high, shape).astype(dtype.numpy)


def made_up(model: Model, count: int) -> Iterator[dict[str, Array]]:
    """Ordinary operands for a cut, by name, for a few values of its symbols."""
    draws = Draws(model)
    for attempt, sizes in enumerate(islice(draws.sizes(), count)):
        try:
            if any(v.type is None or v.shape is None for v in model.graph.inputs):
                return
            items = draws.draw(sizes, 3 * attempt)
        except Undecided:
            return
        pairs = zip(model.graph.inputs, items, strict=True)
        yield {v.name: _array(v, item) for v, item in pairs if item is not None}


def _array(v: Value, item: Number | Array) -> Array:
    return item.near.astype(v.dtype.numpy) if isinstance(item, Number) and v.dtype is not None else np.asarray(item)
