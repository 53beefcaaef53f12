"""Comparing outputs element by element, with bounds that follow the scale of each channel.

Integers, booleans and strings must be equal, NaN and infinities must be in the same places. A float may
differ from the reference by

    FLOOR * eps * s  +  NOISE * n  +  tolerance * s

* ``eps`` is the spacing of the output's element type at 1.
* ``s`` is the scale of the element's surroundings: the largest magnitude in the tightest slice through it along
  one axis that has ``SLICE`` elements. In a tensor of boxes and scores, a score is held to the scale of the
  scores; a mean over all outputs would not see a channel of wrong ones. ``s`` is at least ``eps`` times the
  largest magnitude of all, and at least 0.5 behind a Sigmoid, which runtimes compute and round as ``0.5 + ...``.
* ``n`` is what rounding noise does (see ``noise.py``): the largest relative change anywhere times ``s``, but no
  more than the largest absolute change anywhere. Noise comes in rare peaks, so that its maximum over the
  output says more than its value at the element.
* ``tolerance`` is what the user allows on top, 0 unless stated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from ...backends.core import Array, Outputs
from ...ir.dtypes import from_numpy

FLOOR = 8.0
"""Roundings that any reordering may add: sums of a few terms, a product folded into a weight."""
LOW_FLOOR = 2.0
"""The same for types of at most 16 bits: kernels compute in float32 and round to them at the end."""
NOISE = 3.0
"""How far beyond the measured noise a result may lie: the noise is a maximum over few draws."""
SLICE = 16
"""The fewest elements that say what scale a slice has."""
SMALL = 256
"""Outputs with fewer elements say too little about the noise, other samples must help."""
LOW_PRECISION = 1e-4
EQUAL, ROUNDED, UNSTABLE, DIFFERENT = "bit-equal", "within-bound", "unstable", "different"
ORDER = (EQUAL, ROUNDED, UNSTABLE, DIFFERENT)


@dataclass(frozen=True)
class Noise:
    """What rounding noise does to one output of one sample."""

    amount: Array
    """Largest change of each element over the noisy runs."""
    flips: int = 0
    """Elements that changed, for outputs that must be equal; for floats, those that became or ceased to be NaN."""
    reshaped: bool = False
    """Whether noise changes the shape."""
    elsewhere: float = 0.0
    """For small outputs: the largest change in other samples."""


@dataclass
class OutputCheck:
    """How one output compares, over all samples."""

    output: str
    status: str = EQUAL
    error: float = 0.0
    """Largest absolute difference."""
    relative: float = 0.0
    """Largest difference over the scale of the element's surroundings."""
    used: float = 0.0
    """Largest difference over its bound: above 1 is different."""
    noise: float = 0.0
    """Largest change by rounding noise over the scale, where noise was measured."""
    worst: dict[str, Any] = field(default_factory=dict[str, Any])
    """Sample, index, expected, found, bound of the element that used most of its bound."""
    reason: str = ""
    """What differs, for the statuses ``different`` and ``unstable``."""
    note: str = ""
    """What differs and does not count (see ``trouble.py``)."""

    def merge(self, other: OutputCheck) -> None:
        """Takes in the result of another sample."""
        if (ORDER.index(other.status), other.used, other.error) > (ORDER.index(self.status), self.used, self.error):
            self.worst, self.reason = other.worst, other.reason
        self.status = max(self.status, other.status, key=ORDER.index)
        self.error = max(self.error, other.error)
        self.relative = max(self.relative, other.relative)
        self.used = max(self.used, other.used)
        self.noise = max(self.noise, other.noise)
        self.note = self.note or other.note

    @property
    def equivalent(self) -> bool:
        return self.status != DIFFERENT

    def __str__(self) -> str:
        if self.status == EQUAL:
            return f"output {self.output}: equal to the bit"
        return f"output {self.output}: {self.reason or self.status}"


def leaves(names: Sequence[str], outputs: Outputs) -> list[tuple[str, Any]]:
    """Arrays with labels: sequences and maps taken apart (``y[2]``, ``y['cat']``), ``None`` for an absent optional."""
    found: list[tuple[str, Any]] = []
    stack: list[tuple[str, Any]] = list(zip(names, outputs, strict=True))[::-1]
    while stack:
        label, item = stack.pop()
        if isinstance(item, Mapping):
            table = cast("Mapping[Any, Any]", item)
            keys = sorted(table, key=str)
            found.append((f"{label}.keys", np.array([str(key) for key in keys])))
            stack.extend((f"{label}[{key!r}]", table[key]) for key in reversed(keys))
        elif isinstance(item, list):
            parts = cast("list[Any]", item)
            found.append((f"{label}.length", np.asarray(len(parts))))
            stack.extend((f"{label}[{i}]", part) for i, part in reversed(list(enumerate(parts))))
        else:
            found.append((label, None if item is None else np.asarray(item)))
    return found


def check_output(
    label: str,
    expected: Any,
    found: Any,
    *,
    sample: int = 0,
    noise: Noise | None = None,
    tolerance: float = 0.0,
    resolution: float = 0.0,
) -> OutputCheck:
    """Compares one array with the reference. Without ``noise`` the bound is the floor alone.

    ``resolution`` is the least scale that any element is taken to have.
    """
    if expected is None or found is None:
        same = expected is None and found is None
        return OutputCheck(label) if same else OutputCheck(label, DIFFERENT, reason="one of the two is absent")
    if expected.dtype != found.dtype:
        reason = f"element type is {found.dtype}, expected {expected.dtype}"
        return OutputCheck(label, DIFFERENT, reason=reason, used=np.inf)
    if expected.shape != found.shape:
        status = UNSTABLE if noise is not None and noise.reshaped else DIFFERENT
        reason = f"shape is {list(found.shape)}, expected {list(expected.shape)} (sample {sample})"
        return OutputCheck(label, status, used=np.inf, reason=reason)
    if not is_float(expected):
        return _check_exact(label, expected, found, sample, noise)
    return _check_floats(label, expected, found, sample, noise, tolerance, resolution)


def _check_exact(label: str, a: Array, b: Array, sample: int, noise: Noise | None) -> OutputCheck:
    differs = np.asarray(a != b, bool)
    count = int(differs.sum())
    if not count:
        return OutputCheck(label)
    index = _first(differs)
    unstable = noise is not None and (noise.reshaped or count <= 2 * noise.flips)
    reason = (
        f"{count} of {a.size} elements differ where they must be equal, the first at {list(index)}: "
        f"{a[index]!r} became {b[index]!r} (sample {sample})"
    )
    if unstable:
        reason += f"; rounding noise changes {noise.flips if noise else 0} of them by itself"
    error = float(np.max(np.abs(a.astype(np.float64) - b.astype(np.float64)))) if a.dtype.kind in "iub" else 0.0
    worst = {
        "sample": sample,
        "index": list(index),
        "expected": _plain(a[index]),
        "found": _plain(b[index]),
        "bound": 0.0,
    }
    return OutputCheck(label, UNSTABLE if unstable else DIFFERENT, error, used=np.inf, worst=worst, reason=reason)


def _check_floats(
    label: str, a: Array, b: Array, sample: int, noise: Noise | None, tolerance: float, resolution: float
) -> OutputCheck:
    x, y = a.astype(np.float64), b.astype(np.float64)
    odd = ~(np.isfinite(x) & np.isfinite(y)) & ~((x == y) | (np.isnan(x) & np.isnan(y)))
    if odd.any():
        return _odd(label, x, y, odd, sample, noise)
    finite = np.isfinite(x)
    with np.errstate(invalid="ignore"):
        error = np.where(finite, np.abs(x - y), 0.0)
    if not error.any():
        return OutputCheck(label)
    bound, scale, spread = _bounds(a, noise, tolerance, resolution)
    used = error / bound
    at = np.unravel_index(int(np.argmax(used)), used.shape)
    # More than half of the digits lost to noise: what the passes do cannot be told from it.
    largest = float(np.abs(x[finite]).max())
    drowned = float(error.max()) > (tolerance + np.sqrt(epsilon(a))) * max(largest, resolution)
    status = DIFFERENT if used[at] > 1 else UNSTABLE if drowned else ROUNDED
    limit, moved = float(bound[at]), float(spread[at])
    return OutputCheck(
        label,
        status,
        float(error.max()),
        _largest_ratio(error, scale),
        float(used[at]),
        _largest_ratio(spread, scale),
        _worst(sample, at, a[at], b[at], limit),
        _explain(status, a[at], b[at], at, limit, sample, moved if noise is not None else None),
    )


def float_bound(expected: Array, noise: Noise | None, tolerance: float = 0.0, resolution: float = 0.0) -> Array:
    """How far each element of a float array may be from ``expected``."""
    return _bounds(expected, noise, tolerance, resolution)[0]


def _bounds(a: Array, noise: Noise | None, tolerance: float, resolution: float) -> tuple[Array, Array, Array]:
    """The bound, the scale of each element's surroundings, and how far rounding noise moves it."""
    x = a.astype(np.float64)
    magnitude = np.where(np.isfinite(x), np.abs(x), 0.0)
    eps = epsilon(a)
    scale = np.maximum(surroundings(magnitude), max(resolution, eps * float(magnitude.max(initial=0.0))))
    spread = _spread(noise, scale)
    # Where everything around is zero, the smallest number of the type is no difference worth reporting.
    tiny = float(np.finfo(np.float32 if eps > 1e-10 else np.float64).tiny)
    floor = FLOOR if eps < LOW_PRECISION else LOW_FLOOR
    return (floor * eps + tolerance) * scale + NOISE * spread + tiny, scale, spread


def _spread(noise: Noise | None, scale: Array) -> Array:
    """How far rounding noise may move each element."""
    if noise is None:
        return np.zeros_like(scale)
    peak = float(noise.amount.max(initial=0.0))
    return np.maximum(np.minimum(peak, _largest_ratio(noise.amount, scale) * scale), noise.elsewhere)


def _largest_ratio(part: Array, whole: Array) -> float:
    return float((part / np.where(whole > 0, whole, np.inf)).max())


def _worst(sample: int, index: Any, expected: Any, found: Any, bound: float) -> dict[str, Any]:
    return {
        "sample": sample,
        "index": [int(i) for i in index],
        "expected": _plain(expected),
        "found": _plain(found),
        "bound": bound,
    }


def _odd(label: str, x: Array, y: Array, odd: Array, sample: int, noise: Noise | None) -> OutputCheck:
    """NaN or infinity on one side only."""
    index = _first(odd)
    count = int(odd.sum())
    unstable = noise is not None and count <= 2 * noise.flips
    reason = f"{count} elements are NaN or infinite on one side only, at {list(index)} {x[index]} became {y[index]}"
    worst = {
        "sample": sample,
        "index": list(index),
        "expected": _plain(x[index]),
        "found": _plain(y[index]),
        "bound": 0.0,
    }
    return OutputCheck(
        label,
        UNSTABLE if unstable else DIFFERENT,
        np.inf,
        used=np.inf,
        worst=worst,
        reason=f"{reason} (sample {sample})",
    )


def _explain(status: str, a: Any, b: Any, at: Any, bound: float, sample: int, noise: float | None) -> str:
    text = (
        f"element {[int(i) for i in at]} of sample {sample} was {_number(a)} and is {_number(b)}, "
        f"off by {abs(float(a) - float(b)):.3g}, allowed {bound:.3g}"
    )
    if noise is not None:
        text += f" (rounding noise alone moves it by up to {noise:.3g})"
    if status == UNSTABLE:
        text += "; the model is unstable there: its own rounding decides these digits"
    return text


def surroundings(magnitude: Array) -> Array:
    """For each element the smallest, over the axes and the whole tensor, of the largest magnitude in its slice.

    Only slices of at least ``SLICE`` elements count, and the whole tensor.
    """
    if magnitude.size == 0:
        return magnitude
    found = np.full(magnitude.shape, magnitude.max())
    for axis in range(magnitude.ndim):
        others = tuple(i for i in range(magnitude.ndim) if i != axis)
        if magnitude.shape[axis] > 1 and magnitude.size // magnitude.shape[axis] >= SLICE:
            np.minimum(found, magnitude.max(axis=others, keepdims=True), out=found)
    return found


def epsilon(array: Array) -> float:
    """Spacing of the element type's numbers at 1."""
    if array.dtype.kind == "f" and array.dtype.itemsize in (2, 4, 8):
        return float(np.finfo(array.dtype).eps)
    from ml_dtypes import finfo

    return float(finfo(array.dtype).eps)  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]


def is_float(array: Array) -> bool:
    if array.dtype.kind == "f":
        return True
    try:
        return array.dtype.kind == "V" and from_numpy(array.dtype).is_float
    except TypeError:
        return False


def _first(mask: Array) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(mask)), mask.shape))


def _plain(item: Any) -> Any:
    """JSON has no NaN and no numpy scalars."""
    item = item.item() if hasattr(item, "item") else item
    if isinstance(item, bytes):
        return item.decode(errors="replace")
    if isinstance(item, float) and not np.isfinite(item):
        return str(item)
    return item if isinstance(item, (bool, int, float, str)) else str(item)


def _number(item: Any) -> str:
    return f"{float(item):.9g}"
