"""Samples that aim at trouble: what breaks rewrites that hold for ordinary numbers.

Kinds, in the order of the samples:

* ``short``: every extent that the batch does not give is 1, the batch is odd;
* ``padded``: masks that end (or begin) in padding, with token ids of 0 under it;
* ``zeros``: all numbers 0 (one float in three is -0);
* ``extreme``: negative and positive numbers large and subnormal, and zeros, among ordinary ones;
* ``NaN``, ``infinities``: these among ordinary ones.

Under these, elements that are not finite in the original's own result say nothing about a rewrite that is claimed for
real numbers. What a difference on a sample with NaN or infinities means is in ``unusual.py``.
"""

from __future__ import annotations

import numpy as np

from ...backends.core import Array, Sample
from ...ir.dtypes import from_numpy

ORDINARY = ""
SHORT, PADDED, ZEROS, EXTREME, NANS, INFINITIES = "short", "padded", "zeros", "extreme", "NaN", "infinities"
KINDS = (SHORT, PADDED, ZEROS, EXTREME, NANS, INFINITIES)
UNUSUAL = (NANS, INFINITIES)
LARGE = {2: 60.0, 4: 1e4, 8: 1e8}
"""By bytes of an element: products of a few stay finite."""


def is_mask(name: str) -> bool:
    return "mask" in name.lower()


def is_tokens(name: str) -> bool:
    """Whether an input holds token ids, which are padded where its mask says."""
    return name.lower().endswith("ids") and not any(word in name.lower() for word in ("position", "type", "segment"))


def troubled(kind: str, sample: Sample, fixed: frozenset[str], random: np.random.Generator) -> dict[str, Array] | None:
    """The sample with trouble of the kind; ``None`` where it has no room for it.

    ``fixed`` are inputs that choose between branches or index something, whose numbers have a meaning.
    """
    if kind == SHORT:
        return dict(sample)
    if kind == PADDED:
        return _padded(sample, random)
    found = {name: _changed(kind, array, name in fixed, random) for name, array in sample.items()}
    return found if any(found[name] is not array for name, array in sample.items()) else None


def _padded(sample: Sample, random: np.random.Generator) -> dict[str, Array] | None:
    masks = [name for name, array in sample.items() if is_mask(name) and array.ndim >= 2 and array.shape[-1] > 1]
    if not masks:
        return None
    found = dict(sample)
    lengths: dict[tuple[int, ...], Array] = {}
    for name in masks:
        array = sample[name]
        rows: tuple[int, ...] = array.shape[:-1]
        width = int(array.shape[-1])
        if rows not in lengths:
            lengths[rows] = random.random(rows)
        keep: Array = 1 + (lengths[rows] * (width - 1)).astype(np.int64)
        # Half of the rows are padded at the front, as decoders want it.
        at: Array = np.arange(width)
        front = np.asarray(np.arange(keep.size).reshape(rows) % 2 == 1)[..., None]
        real: Array = np.where(front, at >= width - keep[..., None], at < keep[..., None])
        found[name] = real.astype(array.dtype)
        for other, ids in sample.items():
            if is_tokens(other) and ids.shape == array.shape:
                found[other] = np.where(real, ids, 0).astype(ids.dtype)
    return found


def _changed(kind: str, array: Array, fixed: bool, random: np.random.Generator) -> Array:
    if _is_float(array) and array.size:
        return _floats(kind, array, random)
    if kind == ZEROS and not fixed and array.dtype.kind in "iu" and array.size:
        return np.zeros_like(array)
    return array


def _floats(kind: str, array: Array, random: np.random.Generator) -> Array:
    if kind == ZEROS:
        zeros: Array = np.zeros(array.shape, array.dtype)
        zeros.reshape(-1)[::3] = -zeros.reshape(-1)[::3]
        return zeros
    size = array.dtype.itemsize
    large = LARGE.get(size, 4.0)
    tiny = {2: 1e-7, 4: 1e-40, 8: 1e-310}.get(size, 0.0)
    odd = {NANS: [np.nan], INFINITIES: [np.inf, -np.inf]}.get(kind, [large, -large, tiny, -tiny, 0.0, -0.0, -1.0])
    made: Array = array.astype(np.float64).reshape(-1)
    share = 0.02 if kind in UNUSUAL else 0.3
    chosen = random.random(made.size) < share
    chosen[random.integers(made.size)] = True
    made[chosen] = np.resize(np.array(odd), int(chosen.sum()))
    return made.reshape(array.shape).astype(array.dtype)


def _is_float(array: Array) -> bool:
    try:
        return from_numpy(array.dtype).is_float
    except TypeError:
        return False
