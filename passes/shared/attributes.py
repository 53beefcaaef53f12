"""Attributes as numbers: a function's caller may give them, and they hold float32 only."""

from __future__ import annotations

import numpy as np

from ...ir.dtypes import DType
from ...ir.graph import AttrRef, Function, Node
from ..rewrite.rule import NoMatch


def require_own_attributes(node: Node) -> None:
    """Raises :class:`NoMatch` where the function's caller gives an attribute of ``node``."""
    if node.attrs:
        for name, attr in node.attrs.items():
            if isinstance(attr, AttrRef):
                raise NoMatch(f"{name} of {node.op} is given by the function's caller")


def resolve_attributes(node: Node, call: Node, function: Function) -> None:
    """Puts the caller's attributes in place of references to them in a node of the function's body."""
    for name, attr in list(node.attrs.items()):
        if isinstance(attr, AttrRef):
            given = call.attrs.get(attr.name, function.defaults.get(attr.name))
            if given is None:
                del node.attrs[name]
            else:
                node.attrs[name] = given


def require_attribute(name: str, number: float, dtype: DType | None) -> None:
    """Raises :class:`NoMatch` where ``number`` as an attribute would be another one to float64 values."""
    if dtype is DType.F64 and float(np.float32(number)) != number:
        raise NoMatch(f"{name} is {number}, attributes hold float32 only, and the values are {dtype!r}")
