"""Runs a program before and after a pass through ONNX Runtime, with its optimizations off, and compares.

Inputs are seeded. Every symbol takes several values: distinct ones, all ones, and zero where the original
runs with it. Floating-point inputs of an ``exact`` pass contain signed zeros, infinities, NaN and
subnormals, because those are what an "exact" rewrite gets wrong.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from planish.ir.dims import Dim, SymDim, evaluate
from planish.ir.dtypes import DType
from planish.ir.graph import Model, Value
from planish.ir.types import TensorType
from planish.passes.core import Numbers

Array = np.ndarray[Any, Any]
Feeds = dict[str, Array]

DEFAULT_RANK = 2
REASSOCIATION_ULPS = 64
"""Golden programs sum at most a few hundred terms: n terms in any order differ by less than about
sqrt(n) to n units in the last place of the largest partial sum; 64 is between the two for n = 256."""


class Runner:
    """One model in ONNX Runtime. Raises the runtime's own exception where it refuses the model."""

    def __init__(self, model: Model | bytes) -> None:
        import onnxruntime as ort

        if isinstance(model, Model):
            from planish.ir.onnx_writer import model_to_bytes

            model = model_to_bytes(model)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        options.add_session_config_entry("session.set_denormal_as_zero", "0")
        self.session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.names = [o.name for o in self.session.get_outputs()]

    def __call__(self, feeds: Feeds) -> list[Any]:
        return list(self.session.run(None, feeds))


def symbols_of(model: Model) -> list[str]:
    """Names of the symbols in the inputs' shapes, in order."""
    found: dict[str, None] = {}
    for value in model.graph.inputs:
        for d in value.shape or ():
            for name in sorted(d.symbols()) if isinstance(d, SymDim) else ():
                found[name] = None
    return list(found)


def symbol_values(model: Model, given: str) -> Iterator[dict[str, int]]:
    """Values of the symbols for each run. ``given`` is a case's ``dims`` option."""
    if given:
        for run in given.split(";"):
            yield {name: int(value) for name, value in (item.split("=") for item in run.split())}
        return
    names = symbols_of(model)
    yield {name: 2 + i for i, name in enumerate(names)}
    if names:
        yield {name: 5 + 2 * i for i, name in enumerate(reversed(names))}
        yield dict.fromkeys(names, 1)
        for zero in names:
            yield {name: 0 if name == zero else 3 for name in names}


def make_feeds(model: Model, dims: dict[str, int], seed: int, options: dict[str, str], *, special: bool) -> Feeds:
    """Seeded inputs of the main graph; those with a default get one only in every other run."""
    ranges = dict(item.split("=") for item in options.get("values", "").split())
    shapes = dict(item.split("=") for item in options.get("shapes", "").split())
    feeds: Feeds = {}
    for value in model.graph.inputs:
        if value in model.graph.defaults and seed % 2 == 0:
            continue
        draw = np.random.default_rng([seed, zlib.crc32(value.name.encode())])
        shape = _shape(value, dims, shapes.get(value.name), draw)
        feeds[value.name] = _elements(value, shape, ranges.get(value.name), draw, special=special)
    return feeds


def _shape(value: Value, dims: dict[str, int], given: str | None, draw: np.random.Generator) -> tuple[int, ...]:
    if given is not None:
        return tuple(int(d) for d in given.split(",") if d)
    if value.shape is None:
        return tuple(int(n) for n in draw.integers(1, 4, DEFAULT_RANK))
    return tuple(_extent(d, dims, draw) for d in value.shape)


def _extent(d: Dim, dims: dict[str, int], draw: np.random.Generator) -> int:
    found = evaluate(d, dims)
    return int(draw.integers(1, 5)) if found is None else found


def _elements(
    value: Value, shape: tuple[int, ...], limits: str | None, draw: np.random.Generator, *, special: bool
) -> Array:
    t = value.type
    assert isinstance(t, TensorType)
    assert t.dtype is not None, f"input {value.name} needs an element type"
    dtype = t.dtype
    if limits is not None:
        low, _, high = limits.partition("..")
        a, b = float(low), float(high or low)
        if dtype.is_float:
            return draw.uniform(a, b, shape).astype(dtype.numpy)
        return draw.integers(int(a), int(b) + 1, shape).astype(dtype.numpy)
    if dtype is DType.BOOL:
        return draw.integers(0, 2, shape).astype(bool)
    if dtype is DType.STRING:
        return draw.choice(np.array(["", "a", "planish", "ß"], object), shape)
    if dtype.is_integer:
        low, high = (0, 7) if dtype.kind == "uint" else (-4, 4)
        return draw.integers(low, high, shape).astype(dtype.numpy)
    array = draw.standard_normal(shape).astype(dtype.numpy)
    if special and dtype in (DType.F32, DType.F64, DType.F16) and array.size:
        tiny = np.finfo(dtype.numpy).smallest_subnormal
        pick = draw.random(shape) < 0.4
        some = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, tiny, -tiny, 1.0, -1.0]).astype(dtype.numpy)
        array = np.where(pick, draw.choice(some, shape), array)
    return array


# -- comparing


def difference(
    before: Any, after: Any, numbers: Numbers, *, free_zeros: bool = False, bound: float | None = None
) -> str | None:
    """What differs between two outputs beyond the numeric contract, or ``None``.

    ``exact``: every bit, but any NaN equals any NaN (its payload depends on the processor's operand order).
    ``free_zeros``: zeros may change sign. ``bound``: what an approximating pass may differ by, relative to
    the largest element.
    """
    if isinstance(before, (list, tuple)):
        if not isinstance(after, (list, tuple)) or len(before) != len(after):
            return "the sequences have different lengths"
        pairs = zip(before, after, strict=True)
        return next(
            (d for d in (difference(a, b, numbers, free_zeros=free_zeros, bound=bound) for a, b in pairs) if d), None
        )
    if before is None or after is None or isinstance(before, dict):
        return None if before == after else f"{before!r} became {after!r}"
    a, b = np.asarray(before), np.asarray(after)
    if a.dtype != b.dtype or a.shape != b.shape:
        return f"{a.dtype}{list(a.shape)} became {b.dtype}{list(b.shape)}"
    if a.dtype.kind not in "fV" or a.dtype == object:
        return _first(a, b, a != b)
    if numbers is Numbers.EXACT:
        return _first(a, b, _bits_differ(a, b, free_zeros=free_zeros))
    eps = float(np.finfo(a.dtype).eps)
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(wide_a)
    largest = float(np.max(np.abs(wide_a[finite]), initial=0.0))
    allowed = largest * (REASSOCIATION_ULPS * eps if bound is None else bound)
    with np.errstate(invalid="ignore"):
        same = (
            (wide_a == wide_b) | (np.isnan(wide_a) & np.isnan(wide_b)) | (finite & (np.abs(wide_a - wide_b) <= allowed))
        )
    return _first(a, b, ~same)


def _bits_differ(a: Array, b: Array, *, free_zeros: bool) -> Array:
    nan = np.isnan(a) & np.isnan(b)
    different = (a != b) & ~nan
    if not free_zeros:
        different |= (a == 0) & (b == 0) & (np.signbit(a) != np.signbit(b))
    return different


def _first(a: Array, b: Array, different: Array) -> str | None:
    if not different.any():
        return None
    at = tuple(int(i) for i in np.argwhere(different)[0])
    return f"{int(different.sum())} of {a.size} elements differ, the first at {list(at)}: {a[at]!r} became {b[at]!r}"


def compare_runs(before: Model, after: Model, options: dict[str, str], numbers: Numbers) -> str | None:
    """Runs both on the same inputs for all values of the symbols; says what differs, or ``None``.

    A value for which the original does not run is left out, but the original must run for one.
    """
    first, second = Runner(before), Runner(after)
    if first.names != second.names:
        return f"outputs {first.names} became {second.names}"
    ran, refusal = 0, ""
    for seed, dims in enumerate(symbol_values(before, options.get("dims", ""))):
        for special in (False, True) if numbers is Numbers.EXACT else (False,):
            feeds = make_feeds(before, dims, seed, options, special=special)
            try:
                expected = first(feeds)
            except Exception as error:  # The runtime has no common exception type.
                refusal = str(error)
                continue
            ran += 1
            found = second(feeds)
            for name, x, y in zip(first.names, expected, found, strict=True):
                bound = float(options["tolerance"]) if "tolerance" in options else None
                what = difference(x, y, numbers, free_zeros="zeros" in options, bound=bound)
                if what:
                    return f"output {name} for {dims}: {what}"
    return None if ran else f"the original ran for no value of the symbols: {refusal}"
