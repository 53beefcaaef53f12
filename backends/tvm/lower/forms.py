"""How values lie in memory, and elements of them by logical index.

A form with ``block`` b > 1 stores the axis ``axis`` of extent C as [..., C/b, ..., b]: ``NCHW`` becomes ``NCHWc``.
Images of fewer channels than a block have one, filled up with anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np

from ..api import te, tirx
from .extents import Extent, Extents, count, exprs

Array: TypeAlias = np.ndarray[Any, Any]
Expr: TypeAlias = Any
"""An expression of TVM, or a number."""
Index: TypeAlias = tuple[Any, ...]
"""A logical index: an expression for every axis, or a ``Channel`` where the axis is blocked."""
Element: TypeAlias = Callable[[Index], Expr]
"""The element of a value at a logical index."""


@dataclass(frozen=True)
class Channel:
    """Index of a blocked axis, as its two parts, so that equally blocked operands need no division."""

    outer: Expr
    inner: Expr
    block: int

    @property
    def flat(self) -> Expr:
        return self.outer * self.block + self.inner


def flat(i: Any) -> Expr:
    """An index as one expression."""
    return i.flat if isinstance(i, Channel) else i


@dataclass(frozen=True)
class Form:
    """Logical shape, element type as TVM names it, and blocking."""

    shape: Extents
    dtype: str
    block: int = 1
    axis: int = 1

    @property
    def physical(self) -> Extents:
        """The shape in memory."""
        if self.block == 1:
            return self.shape
        before, after = self.shape[: self.axis], self.shape[self.axis + 1 :]
        return (*before, -(-cast("int", self.shape[self.axis]) // self.block), *after, self.block)

    @property
    def nbytes(self) -> Extent:
        return count(self.physical) * np.dtype(self.dtype).itemsize

    def placeholder(self, name: str) -> Any:
        """A tensor of this form."""
        return te.placeholder(exprs(self.physical), self.dtype, name=name)

    def packed(self, array: Array) -> Array:
        """A tensor of the logical shape, which is numbers, as it lies in memory."""
        shape = cast("tuple[int, ...]", self.shape)
        array = array.reshape(shape)
        if self.block == 1:
            return np.ascontiguousarray(array)
        split = array.reshape(*shape[: self.axis], -1, self.block, *shape[self.axis + 1 :])
        return np.ascontiguousarray(np.moveaxis(split, self.axis + 1, -1))

    def logical(self, index: Index) -> Index:
        """The logical index of a place in memory."""
        if self.block == 1:
            return index
        extent = cast("int", self.shape[self.axis])
        channel: Any = Channel(index[self.axis], index[-1], self.block)
        if extent < self.block:
            channel = tirx.min(index[-1], extent - 1)
        return (*index[: self.axis], channel, *index[self.axis + 1 : -1])

    def element(self, tensor: Any) -> Element:
        """Elements of a tensor that has this form."""

        def read(index: Index) -> Expr:
            if self.block == 1:
                return tensor(*map(flat, index))
            at = index[self.axis]
            if isinstance(at, Channel) and at.block == self.block:
                outer, inner = at.outer, at.inner
            else:
                outer, inner = flat(at) // self.block, flat(at) % self.block
            before, after = index[: self.axis], index[self.axis + 1 :]
            return tensor(*map(flat, before), outer, *map(flat, after), inner)

        return read

    def compute(self, fill: Element, name: str) -> Any:
        """A tensor of this form; ``fill`` may be a reduction."""

        def place(*index: Expr) -> Expr:
            return fill(self.logical(index))

        return te.compute(exprs(self.physical), place, name=name)


def broadcast(element: Element, shape: Extents, wanted: Extents) -> Element:
    """Elements of a value of ``shape`` as if it had the shape ``wanted`` (numpy's rule)."""
    if shape == wanted:
        return element
    skipped = len(wanted) - len(shape)

    def read(index: Index) -> Expr:
        own = index[skipped:]
        return element(tuple(0 if extent == 1 else i for extent, i in zip(shape, own, strict=True)))

    return read
