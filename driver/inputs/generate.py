"""Samples made up from the types of a model's inputs, where the user gives none.

They exercise the arithmetic, not the task: real samples prove more, and the report says which it was.
Sizes of symbolic dimensions are found by trying; index inputs stay within the table they index; integers
that the graph compares with constants take those constants.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np

from ...backends.core import Array, Sample
from ...backends.ort.isolated import RuntimeCrash
from ...ir.dims import Dim, SymDim, dim_text, substitute, symbol
from ...ir.dtypes import DType
from ...ir.errors import BackendError, UsageError
from ...ir.graph import Model, Node, Value
from ...ir.types import TensorType, type_text
from .samples import Samples
from .trouble import KINDS, ORDINARY, SHORT, troubled

BATCHES = (1, 2, 3)
SIZES = (32, 64, 48, 224, 16, 128, 8, 7, 256, 1, 512, 640, 4, 2, 1600, 16000)
"""Tried in this order for every dimension that is not the batch; 32 and 64 fit most pyramids, the last are of sound."""
CHANNELS = (3, 1)
ODD_BATCH = 3
MAX_ELEMENTS = 1 << 24
MAX_ATTEMPTS = 300
RANKS = (2, 4, 3, 1, 0)
"""Tried in this order for inputs of unknown rank."""
OPEN_RANK_ATTEMPTS = 24
"""For each rank then."""
_MOVES = frozenset(
    "Identity Cast Reshape Unsqueeze Squeeze Flatten Transpose Slice Expand Tile Split Concat Gather Where".split()
)
_WORDS = ("ok", "red", "blue", "green", "planish", "naïve", "", "4711")


@dataclass(frozen=True)
class Draw:
    """How the elements of one input are drawn."""

    text: str
    draw: Callable[[np.random.Generator, tuple[int, ...], int], Array]


def generate_samples(
    model: Model,
    accepts: Callable[[Sample], object],
    *,
    count: int = 4,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    trouble: bool = False,
) -> Samples:
    """``count`` samples that ``accepts`` runs without ``BackendError``, over several sizes of each symbol.

    ``dims`` fixes symbols. ``trouble`` adds samples that aim at trouble, behind the others. The same
    model and seed give the same samples. Raises ``UsageError`` when no size is accepted, or an input is no tensor.
    """
    inputs = [v for v in model.graph.inputs if v not in model.graph.defaults]
    maker = _Maker(inputs, accepts, seed)
    open_rank = any(v.tensor is not None and v.shape is None for v in inputs)
    for maker.rank in RANKS if open_rank else RANKS[:1]:
        attempts = OPEN_RANK_ATTEMPTS if open_rank else MAX_ATTEMPTS
        for sizes in islice(_assignments(inputs, dims or {}, maker.rank), attempts):
            if len(maker.items) >= count:
                break
            maker.attempt(sizes)
        if maker.items:
            break
    if not maker.items:
        _no_sample(inputs, maker.refusal)
    # Static models, and those that accept few sizes: more draws of sizes that work.
    for sizes in islice(cycle(list(maker.sizes)), 4 * count):
        if len(maker.items) >= count:
            break
        maker.attempt(sizes)
    texts = [",".join(f"{k}={s}" for k, s in sizes.items()) for sizes in maker.sizes]
    note = f" for {'; '.join(dict.fromkeys(texts))}" if any(texts) else ""
    ranges = {name: draw.text for name, draw in maker.draws.items()}
    if trouble:
        _add_trouble(maker, inputs, dims or {})
        aims = ", ".join(kind for kind in maker.kinds if kind)
        note += f"; {aims}" if aims else ""
    return Samples(maker.items, f"made up{note}", ranges, maker.kinds)


def _add_trouble(maker: _Maker, inputs: list[Value], dims: Mapping[str, int]) -> None:
    """One sample of each kind of trouble that the model accepts."""
    accepted = list(maker.sizes)
    smallest = min(accepted, key=lambda sizes: sum(sizes.values()))
    for kind in KINDS:
        if kind == SHORT:
            batch = _batch_symbols(inputs, maker.rank)
            short = {name: dims.get(name, ODD_BATCH if name in batch else 1) for name in smallest}
            if smallest and short not in accepted:
                maker.attempt(short, kind)
        else:
            maker.attempt(smallest, kind)


def _batch_symbols(inputs: list[Value], rank: int) -> set[str]:
    """Symbols of the first axes."""
    firsts = [dims[0] for dims in (_dims(v, rank) for v in inputs) if len(dims) > 1]
    return {name for d in firsts if isinstance(d, SymDim) for name in d.symbols()}


class _Maker:
    """Tries sizes and keeps the samples that are accepted."""

    def __init__(self, inputs: list[Value], accepts: Callable[[Sample], object], seed: int) -> None:
        self.inputs, self.accepts, self.seed = inputs, accepts, seed
        self.draws = {v.name: _draw_for(v) for v in inputs}
        self.items: list[Sample] = []
        self.sizes: list[dict[str, int]] = []
        self.kinds: list[str] = []
        self.fixed = frozenset(v.name for v in inputs if v.dtype is not None and v.dtype.is_integer and any(_uses(v)))
        self.attempts = 0
        self.rank = RANKS[0]
        """Of the inputs whose rank is unknown."""
        self.refusal: BackendError | None = None
        self.crashed: list[dict[str, int]] = []
        """Sizes with which the runtime crashed: smaller ones are not tried."""

    def attempt(self, sizes: dict[str, int], kind: str = ORDINARY) -> None:
        if any(all(size <= bad.get(name, -1) for name, size in sizes.items()) for bad in self.crashed):
            return
        shapes = {v.name: _shape(v, sizes, self.rank) for v in self.inputs}
        if sum(math.prod(shape) for shape in shapes.values()) > MAX_ELEMENTS:
            return
        i = self.attempts
        self.attempts += 1
        random = np.random.default_rng([self.seed, i])
        # A draw without axes is a scalar of numpy, which is no array.
        sample = {name: np.asarray(draw.draw(random, shapes[name], i)) for name, draw in self.draws.items()}
        if kind:
            changed = troubled(kind, sample, self.fixed, random)
            if changed is None:
                return
            sample = changed
        try:
            self.accepts(sample)
        except BackendError as error:
            self.refusal = error
            if isinstance(error, RuntimeCrash):
                self.crashed.append(sizes)
        else:
            self.items.append(sample)
            self.sizes.append(sizes)
            self.kinds.append(kind)


def _no_sample(inputs: list[Value], refusal: BackendError | None) -> None:
    described = ", ".join(f"{v.name}: {type_text(v.type)}" for v in inputs)
    raise UsageError(
        f"no sample could be made up that the model accepts (inputs {described}); "
        f"last refusal: {refusal.message if refusal else 'inputs too large'}",
        where="samples",
        help="give real samples (--samples FILE.npz), or fix sizes with --dim NAME=SIZE",
    )


# -- sizes


def _assignments(inputs: list[Value], fixed: Mapping[str, int], rank: int) -> Iterator[dict[str, int]]:
    """Sizes for all symbols, likely ones first."""
    batch: dict[str, None] = {}
    others: dict[str, None] = {}
    channels: dict[str, None] = {}
    for value in inputs:
        shape = _dims(value, rank)
        for axis, d in enumerate(shape):
            for name in sorted(d.symbols()) if isinstance(d, SymDim) else ():
                if name in fixed:
                    continue
                role = batch if axis == 0 and len(shape) > 1 else channels if axis == 1 and len(shape) == 4 else others
                role[name] = None
    for name in batch:
        others.pop(name, None)
    names = [*others, *channels]
    if not batch and not names:
        yield dict(fixed)
        return
    # First all alike, with batch sizes mixed in; then, where nothing fits, dimensions that follow the batch.
    for j, size in enumerate(SIZES if names else (0,) * len(BATCHES)):
        for channel in (*CHANNELS, size) if channels else (size,):
            sizes = dict.fromkeys(others, size) | dict.fromkeys(channels, channel)
            for b in _batches(j, with_batch=bool(batch), others=bool(names)):
                yield {**sizes, **dict.fromkeys(batch, b), **fixed}
    for size in SIZES if 0 < len(names) <= 4 else ():
        for pattern in range(1, 1 << len(names)):
            for b in BATCHES:
                follows = {name: b if pattern >> k & 1 else size for k, name in enumerate(names)}
                yield {**follows, **dict.fromkeys(batch, b), **fixed}


def _batches(turn: int, *, with_batch: bool, others: bool) -> tuple[int, ...]:
    """Sizes of the batch that go with the ``turn``-th size of the others."""
    if not with_batch:
        return BATCHES[:1]
    if not others:
        return BATCHES[turn : turn + 1]
    return BATCHES[turn % 3], BATCHES[(turn + 1) % 3]


def _dims(value: Value, rank: int) -> tuple[Dim, ...]:
    """The input's dims, with a symbol of its own for each unknown one; ``rank`` of them where the rank is unknown."""
    tensor = value.tensor
    if tensor is None:
        raise UsageError(
            f"input {value.name!r} is a {type_text(value.type)}; planish makes up tensors only",
            where="samples",
            help="give real samples in Python: planish.optimize(model, samples=[{...}])",
        )
    if tensor.shape is None:
        return tuple(symbol(f"{value.name}.{i}") for i in range(rank))
    return tuple(symbol(f"{value.name}.{i}") if d is None else d for i, d in enumerate(tensor.shape))


def _shape(value: Value, sizes: Mapping[str, int], rank: int) -> tuple[int, ...]:
    shape: list[int] = []
    for d in _dims(value, rank):
        found = substitute(d, dict(sizes)) if isinstance(d, SymDim) else d
        if not isinstance(found, int) or found < 0:
            raise UsageError(
                f"dimension {dim_text(d)} of input {value.name!r} has no size",
                where="samples",
                help="fix its symbols with --dim NAME=SIZE",
            )
        shape.append(found)
    return tuple(shape)


# -- elements


def _draw_for(value: Value) -> Draw:
    tensor = value.tensor
    dtype = tensor.dtype if isinstance(tensor, TensorType) else None
    if dtype is None or dtype is DType.STRING:
        return Draw("short words", lambda r, shape, i: _words(r, shape))
    if dtype is DType.BOOL:
        return Draw("true or false", lambda r, shape, i: r.random(shape) < 0.5)
    if dtype.is_float:
        return Draw(
            "normal(0, 1), every second sample uniform in [0, 1)", lambda r, shape, i: _floats(r, shape, i, dtype)
        )
    if dtype.is_integer:
        return _draw_integers(value, dtype)
    raise UsageError(f"planish makes up no elements of {dtype.text}", where="samples", help="give real samples")


def _floats(r: np.random.Generator, shape: tuple[int, ...], i: int, dtype: DType) -> Array:
    return np.asarray(r.random(shape) if i % 2 else r.standard_normal(shape)).astype(dtype.numpy)


def _words(r: np.random.Generator, shape: tuple[int, ...]) -> Array:
    words = np.array(_WORDS, object)
    return words[r.integers(0, len(_WORDS), math.prod(shape))].reshape(shape)


def _draw_integers(value: Value, dtype: DType) -> Draw:
    bound, constants = _uses(value)
    if constants:
        # One value more, for the branch that is taken when none matches.
        choices = np.array([*sorted(constants), max(constants) // 2], dtype.numpy)
        return Draw(f"one of {', '.join(map(str, choices[:8]))}", lambda r, shape, i: _choose(choices, shape, i))
    if "mask" in value.name.lower():
        return Draw("0 or 1, the first sample all 1", lambda r, shape, i: _mask(r, shape, i, dtype))
    if bound is not None:
        high = max(1, bound)
    else:
        high = 1 << min(dtype.bits, 8) if dtype.bits <= 8 and dtype.kind == "uint" else 8
    low = -high if bound is None and dtype.kind == "int" and dtype.bits <= 8 else 0
    return Draw(f"integers in [{low}, {high})", lambda r, shape, i: r.integers(low, high, shape).astype(dtype.numpy))


def _choose(choices: Array, shape: tuple[int, ...], i: int) -> Array:
    return np.full(shape, choices[i % len(choices)])


def _mask(r: np.random.Generator, shape: tuple[int, ...], i: int, dtype: DType) -> Array:
    mask = (r.random(shape) < 0.75) | (i == 0)
    if shape and shape[-1]:
        mask[..., 0] = True
    return np.asarray(mask).astype(dtype.numpy)


def _uses(value: Value) -> tuple[int | None, set[int]]:
    """What the graph says about an integer input: the size of the smallest table it indexes, and the constants it is
    compared with."""
    bound: int | None = None
    constants: set[int] = set()
    queue, seen = deque([value]), {value}
    while queue:
        v = queue.popleft()
        for node, i in list(v.uses):
            rows = _table_rows(node, i)
            if rows is not None:
                bound = rows if bound is None else min(bound, rows)
            elif node.op == "Equal" and not node.domain:
                constants |= _compared(node, i)
            elif node.op in _MOVES and not node.domain and i == (1 if node.op == "Where" else 0):
                new = [out for out in node.outputs if out not in seen]
                seen.update(new)
                queue.extend(new)
    return bound, constants


def _table_rows(node: Node, i: int) -> int | None:
    """Rows of the table that operand ``i`` indexes, where the graph says."""
    table: Value | None = None
    axis: int = 0
    if node.domain == "" and node.op in ("Gather", "GatherElements") and i == 1:
        table, axis = node.input(0), node.attr("axis", 0)
    elif node.domain == "" and node.op == "OneHot" and i == 0:
        depth = node.input(1)
        return int(depth.numpy().reshape(-1)[0]) if depth is not None and depth.data is not None else None
    elif node.op == "EmbedLayerNormalization" and i in (0, 1):
        table = node.input(2 if i == 0 else 4)
    shape = table.shape if table is not None else None
    if not shape or not -len(shape) <= axis < len(shape):
        return None
    rows = shape[axis]
    return rows if isinstance(rows, int) and rows > 0 else None


def _compared(node: Node, i: int) -> set[int]:
    other = node.input(1 - i)
    if other is None or other.data is None or other.data.count > 8:
        return set()
    return {int(item) for item in other.numpy().reshape(-1)}
