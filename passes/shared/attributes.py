"""Attributes inside function bodies may be given by the caller, and are then no numbers."""

from __future__ import annotations

from ...ir.graph import AttrRef, Node
from ..rewrite.rule import NoMatch


def require_own_attributes(node: Node) -> None:
    """Raises :class:`NoMatch` where the function's caller gives an attribute of ``node``."""
    if node.attrs:
        for name, attr in node.attrs.items():
            if isinstance(attr, AttrRef):
                raise NoMatch(f"{name} of {node.op} is given by the function's caller")
