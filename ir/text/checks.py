"""Types of parsed lines: filled in by inference where they are not written, checked where they are."""

from __future__ import annotations

from typing import TypeAlias

from ..errors import ModelError, TextError
from ..graph import Node
from ..infer import infer_node
from ..type_agreement import contradiction
from ..types import Type, type_text
from .lexer import Lexer

Written: TypeAlias = tuple[Node, list[Type | None], int]
"""A node, the types its line states, and where in the text the line starts."""


def settle_types(lx: Lexer, lines: list[Written], check: bool) -> None:
    """Infers the lines in order; a written type stays.

    Raises ``TextError`` where inference proves the opposite of what is written or of what the operator
    takes. Without ``check`` only lines that leave a type open are inferred, and what fails stays open.
    """
    for node, types, at in lines:
        if not check and None not in types:
            continue
        _settle(lx, node, types, at, check)
    for node, types, _ in lines:
        # Inference of a node with bodies went over lines inside it once more.
        for out, written in zip(node.outputs, types, strict=True):
            if written is not None:
                out.type = written


def _settle(lx: Lexer, node: Node, types: list[Type | None], at: int, check: bool) -> None:
    try:
        infer_node(node)
    except ModelError as error:
        if check:
            raise _refused(lx, error, at) from None
    for out, written in zip(node.outputs, types, strict=True):
        if written is None:
            continue
        clash = contradiction(written, out.type) if check else None
        if clash is not None:
            raise lx.fault(
                f"%{out.name} cannot be {type_text(written)}, {node.op} gives {type_text(out.type)}: {clash}",
                at,
                "leave the type out to have it inferred",
            )
        out.type = written


def _refused(lx: Lexer, error: ModelError, at: int) -> TextError:
    return lx.fault(error.message, at, "the operands do not fit the operator; parse with check=False to read it anyway")
