"""A model while it is being drawn: what values there are, how large their elements get, how inputs are fed.

Two properties of each value steer the choice of operators, so that models stay comparable:

* ``bound``: an estimate of the largest magnitude; what grows beyond ``LIMIT`` is damped, so that outputs are finite;
* ``exact``: whether all elements come from inputs and constants without rounding. Operators that jump (comparisons,
  Floor, TopK, casts to integers) take exact operands only: another order of rounding in front of a jump changes the
  result by more than any bound, and says nothing about a pass.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...ir.builder import Builder
from ...ir.constants import ArrayConstant, Constant, SplatConstant
from ...ir.dims import Dim, Shape, evaluate, symbol
from ...ir.dtypes import DType
from ...ir.graph import Graph, Value
from ...ir.types import TensorType

Array = np.ndarray[Any, Any]

LIMIT = {"float": 300.0, "int": 3000.0, "uint": 200.0, "bool": 1.0}
"""Magnitudes beyond which values are damped, by kind of element type."""
SYMBOLS: dict[str, tuple[int, int, int]] = {"N": (2, 3, 1), "S": (5, 4, 7), "H": (8, 6, 7), "W": (6, 9, 8)}
"""Symbolic dimensions with the sizes they take in the three samples."""
SAMPLES = 3
MAX_ELEMENTS = 20_000
EXACT = frozenset(
    "Identity Transpose Reshape Flatten Squeeze Unsqueeze Slice Split Concat Gather GatherElements GatherND Pad Expand "
    "Tile DepthToSpace SpaceToDepth Relu Abs Neg Max Min Clip Where MaxPool GlobalMaxPool ReduceMax ReduceMin Sign Not "
    "And Or Xor Equal Greater Less GreaterOrEqual LessOrEqual Shape Size Dropout ScatterElements ScatterND Compress "
    "ConstantOfShape Range TopK ArgMax ArgMin OneHot Cast CastLike Trilu ReverseSequence".split()
)
"""Operators whose results are exact where their operands are."""


@dataclass(frozen=True)
class Feed:
    """How an input is drawn: floats around zero up to ``high``; integers in ``[low, high]``."""

    low: float
    high: float


@dataclass
class Shared:
    """What a model's graphs have in common while they are drawn."""

    rng: random.Random
    opset: int
    feeds: dict[Value, Feed] = field(default_factory=dict[Value, Feed])
    bound: dict[Value, float] = field(default_factory=dict[Value, float])
    exact: set[Value] = field(default_factory=set[Value])
    constants: list[Value] = field(default_factory=list[Value])
    functions: list[Any] = field(default_factory=list[Any])
    loose: list[Value] = field(default_factory=list[Value])
    """Values of unknown shape: no motif takes them, but they may be results."""
    shapes: dict[Value, tuple[int, ...]] = field(default_factory=dict[Value, tuple[int, ...]])
    """What inputs of unknown rank are fed with."""
    arrays: int = 0
    symbols: tuple[str, ...] = ()
    """Symbolic dimensions that inputs of this model use."""


class Draft:
    """One graph (main, a body) that grows by motifs."""

    def __init__(self, shared: Shared, graph: Graph, values: Iterable[Value] = (), depth: int = 0) -> None:
        self.shared, self.graph, self.depth = shared, graph, depth
        self.rng = shared.rng
        self.b = Builder(graph)
        self.values: list[Value] = list(values)
        """What motifs may take: values of outer graphs first, the newest last."""
        self.opset = shared.opset

    # -- chance

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    def choose(self, *options: Any) -> Any:
        return self.rng.choice(options)

    def drawn(self) -> np.random.Generator:
        """A generator for arrays; each call gives another one, fixed by the seed."""
        self.shared.arrays += 1
        return np.random.default_rng([self.rng.getrandbits(32), self.shared.arrays])

    # -- emitting

    def op(self, op: str, *inputs: Any, bound: float | None = None, **attrs: Any) -> Any:
        """Appends a node; arrays and numbers become constants. Returns its output, or the list of several.

        ``bound`` is the largest magnitude to expect; without it the sum of the operands'.
        """
        like = next((v.dtype for v in inputs if isinstance(v, Value) and v.dtype is not None), None)
        operands = [self._operand(v, like) for v in inputs]
        made = self.b.op(op, *operands, **attrs)
        found = sum(self.bound(v) for v in operands if v is not None) if bound is None else bound
        exact = op in EXACT and all(v is None or v in self.shared.exact for v in operands)
        outputs: list[Value] = [made] if isinstance(made, Value) else list(made)
        for out in outputs:
            self.shared.bound[out] = found
            if exact or (out.dtype is not None and not out.dtype.is_float and op in EXACT_INTEGERS):
                self.shared.exact.add(out)
        return made if isinstance(made, Value) else outputs

    def _operand(self, v: Any, like: DType | None) -> Value | None:
        if v is None or isinstance(v, Value):
            return v
        if isinstance(v, (bool, int, float)) and like is not None:
            v = np.asarray(v, like.numpy)
        return self.const(np.asarray(v))

    def bound(self, v: Value) -> float:
        return self.shared.bound.get(v, 10.0)

    def keep(self, v: Value) -> Value:
        """Offers the value to later motifs, damped where it has grown too large."""
        v = self.damped(v)
        if v.tensor is not None and v.dtype is not None and v.shape is not None:
            self.values.append(v)
        return v

    def maybe(self, v: Value, p: float = 0.12) -> Value:
        """Offers an inner value of a motif now and then: passes must see that it has a second user."""
        if self.chance(p):
            self.keep(v)
        return v

    def damped(self, v: Value) -> Value:
        dtype = v.dtype
        if dtype is None or self.bound(v) <= LIMIT.get(dtype.kind, np.inf):
            return v
        if dtype.is_float:
            if dtype is DType.F16 or self.chance(0.4):
                return self.op("Tanh", v, bound=1.0)
            factor = 2.0 ** -np.ceil(np.log2(self.bound(v)))
            return self.op("Mul", v, self.const(np.asarray(factor, dtype.numpy)), bound=1.0)
        if dtype in (DType.I64, DType.I32):
            return self.op("Mod", v, self.const(np.asarray(self.choose(5, 7, 16), dtype.numpy)), bound=16.0)
        return v

    # -- constants and inputs

    def const(self, array: Array, *, fresh: bool = False) -> Value:
        """A constant: often one that is there already, now and then a splat or an input with a default."""
        array = np.asarray(array)
        if not fresh and self.chance(0.5):
            for old in reversed(self.shared.constants[-40:]):
                if old.data is not None and _same(old.data.numpy(), array) and self._visible(old):
                    return old
        data: Constant = ArrayConstant(array)
        if array.size > 1 and (array == array.reshape(-1)[0]).all() and self.chance(0.7):
            data = SplatConstant(array.reshape(-1)[0], data.dtype, data.shape)
        graph = self.graph if self.chance(0.5) else self.graph.root
        value = graph.add_constant(data, f"c{len(self.shared.constants)}")
        self.shared.constants.append(value)
        self.shared.bound[value] = float(np.abs(array).max(initial=0)) if array.dtype.kind in "fiu" else 1.0
        self.shared.exact.add(value)
        return value

    def _visible(self, constant: Value) -> bool:
        """Whether the constant belongs to this graph or one around it."""
        graph: Graph | None = self.graph
        while graph is not None:
            if constant.graph is graph:
                return True
            graph = graph.outer
        return constant.graph is self.graph.root

    def weight(self, shape: Sequence[int], scale: float = 1.0, dtype: DType = DType.F32) -> Value:
        """A constant of normal numbers; now and then it can be overridden by the caller."""
        array = (self.drawn().standard_normal(tuple(shape)) * scale).astype(dtype.numpy)
        if self.depth == 0 and self.chance(0.03):
            value = self.graph.add_input(f"over{len(self.graph.inputs)}", TensorType(dtype, array.shape))
            self.graph.defaults[value] = ArrayConstant(array)
            self.shared.bound[value] = 3.0 * scale
            return value
        return self.const(array)

    def input(self, dtype: DType, shape: Sequence[int | str], low: float = -3, high: float = 3) -> Value:
        """A graph input, fed with numbers in the range."""
        dims = tuple(symbol(d) if isinstance(d, str) else d for d in shape)
        value = self.graph.add_input(f"in{len(self.graph.inputs)}", TensorType(dtype, dims))
        self.shared.feeds[value] = Feed(low, high)
        self.shared.bound[value] = max(abs(low), abs(high))
        self.shared.exact.add(value)
        self.values.append(value)
        return value

    def input_of_unknown_rank(self, dtype: DType, shape: tuple[int, ...]) -> Value:
        """A graph input of which nothing but the element type is declared."""
        value = self.graph.add_input(f"in{len(self.graph.inputs)}", TensorType(dtype))
        self.shared.shapes[value] = shape
        self.shared.bound[value] = 3.0
        self.shared.exact.add(value)
        return value

    # -- choosing operands

    def pick(
        self,
        dtype: DType | Sequence[DType] | None = DType.F32,
        rank: int | Sequence[int] | None = None,
        where: Callable[[Value], bool] | None = None,
        *,
        exact: bool = False,
    ) -> Value | None:
        """A value that fits, new ones preferred; ``None`` where there is none."""
        dtypes = (dtype,) if isinstance(dtype, DType) else dtype
        ranks = (rank,) if isinstance(rank, int) else rank
        fits = [
            v
            for v in self.values
            if (dtypes is None or v.dtype in dtypes)
            and (ranks is None or v.rank in ranks)
            and (not exact or v in self.shared.exact)
            and self.elements(v) <= MAX_ELEMENTS
            and (where is None or where(v))
        ]
        if not fits:
            return None
        if self.chance(0.6):
            fits = fits[-3:]
        return self.rng.choice(fits)

    def take(
        self,
        dtype: DType = DType.F32,
        rank: int | Sequence[int] | None = None,
        where: Callable[[Value], bool] | None = None,
        *,
        exact: bool = False,
    ) -> Value | None:
        """:meth:`pick`, or a new input where nothing fits (in a body there is none to be had)."""
        found = self.pick(dtype, rank, where, exact=exact)
        if found is not None or self.depth:
            return found
        for _ in range(8):
            size = rank if isinstance(rank, int) else self.choose(*(rank or (2, 3, 4)))
            shape = self.shape(size)
            made = self.input(dtype, shape) if dtype.is_float else self.input(dtype, shape, 0, 7)
            if where is None or where(made):
                return made
            self.values.remove(made)
            self.graph.remove_input(made)
        return None

    def shape(self, rank: int) -> list[int | str]:
        """Extents for a new input: batch, channels, then space, symbolic or not."""
        names = self.shared.symbols
        batch = "N" if "N" in names and self.chance(0.6) else self.choose(1, 2)
        length = "S" if "S" in names and self.chance(0.6) else self.choose(3, 5)
        width = self.choose(4, 6, 8)
        if rank <= 1:
            return [width][:rank]
        if rank == 2:
            return [batch, width]
        if rank == 3:
            return [batch, length, width]
        height = "H" if "H" in names and self.chance(0.5) else self.choose(6, 8)
        across = "W" if "W" in names and self.chance(0.5) else self.choose(6, 8)
        rest: list[int | str] = [1] * (rank - 4)
        return [batch, self.choose(2, 3, 4, 4, 8), height, across, *rest]

    # -- extents

    def sizes(self, shape: Shape | None) -> list[tuple[int, ...]] | None:
        """The extents in each sample; ``None`` where one is not known."""
        if shape is None:
            return None
        found: list[tuple[int, ...]] = []
        for i in range(SAMPLES):
            values = {name: sizes[i] for name, sizes in SYMBOLS.items()}
            dims = [evaluate(d, values) for d in shape]
            if any(d is None for d in dims):
                return None
            found.append(tuple(d for d in dims if d is not None))
        return found

    def elements(self, v: Value) -> int:
        """The largest number of elements in any sample; very many where it is unknown."""
        sizes = self.sizes(v.shape)
        return 1 << 40 if sizes is None else max(int(np.prod(s, dtype=np.int64)) for s in sizes)

    def least(self, d: Dim) -> int:
        """The smallest size of an extent in any sample; -1 where it is unknown."""
        sizes = self.sizes((d,))
        return -1 if sizes is None else min(s[0] for s in sizes)

    def most(self, d: Dim) -> int:
        """The largest size of an extent in any sample; -1 where it is unknown."""
        sizes = self.sizes((d,))
        return -1 if sizes is None else max(s[0] for s in sizes)

    def same_in_every_sample(self, a: Dim, b: Dim) -> bool:
        return self.sizes((a,)) is not None and self.sizes((a,)) == self.sizes((b,))


EXACT_INTEGERS = frozenset("Add Sub Mul Div Mod Min Max Cast Clip Abs Neg Sign CumSum ReduceSum ReduceProd".split())
"""Operators that are exact for integers."""


def _same(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
