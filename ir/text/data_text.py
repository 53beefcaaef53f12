"""Plain data as text: doc strings, metadata, and the ``extra`` dictionaries of graphs, nodes and values.

``null true false 3 1.5 "text" b"bytes" [1, 2] (1, 2) {"key" = value} type<f32[N]>``. Anything else (an object that a
reader kept) has no text: the entry of the dictionary that holds it is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..types import MapType, OptionalType, SequenceType, TensorType
from .lexer import MAX_DEPTH, Lexer
from .literals import double_text, quote, quote_bytes, unquote_bytes
from .type_parser import parse_type
from .type_printer import render_type


class _NoText(Exception):
    """The data holds an object that is not plain."""


def data_text(data: Any, depth: int = 0) -> str:
    """The text of plain data. Raises ``_NoText`` for an object of another kind outside a dictionary."""
    if data is None:
        return "null"
    if isinstance(data, bool):
        return "true" if data else "false"
    if isinstance(data, int):
        return str(int(data))
    if isinstance(data, float):
        return double_text(data)
    if isinstance(data, str):
        return quote(data)
    if isinstance(data, bytes):
        return quote_bytes(data)
    if isinstance(data, (TensorType, SequenceType, OptionalType, MapType)):
        return f"type<{render_type(data)}>"
    if depth < MAX_DEPTH // 2:
        if isinstance(data, dict):
            return dict_text(data, depth + 1)  # pyright: ignore[reportUnknownArgumentType]
        if isinstance(data, list):
            return "[" + ", ".join([data_text(d, depth + 1) for d in data]) + "]"  # pyright: ignore[reportUnknownVariableType]
        if isinstance(data, tuple):
            return "(" + ", ".join([data_text(d, depth + 1) for d in data]) + ")"  # pyright: ignore[reportUnknownVariableType]
    raise _NoText


def dict_text(data: Mapping[Any, Any], depth: int = 0) -> str:
    """``{"key" = value, ...}`` in the dictionary's order, without the entries that have no text."""
    parts: list[str] = []
    for key, value in data.items():
        try:
            if isinstance(key, str):
                parts.append(f"{quote(key)} = {data_text(value, depth)}")
        except _NoText:
            continue
    return "{" + ", ".join(parts) + "}"


def parse_data(lx: Lexer) -> Any:
    """Plain data."""
    if lx.kind == "string":
        return lx.string()
    if lx.kind == "bytes":
        return _bytes(lx)
    if lx.at_punct("{"):
        return parse_dict(lx)
    if lx.at_punct("["):
        return _items(lx, "[", "]")
    if lx.at_punct("("):
        return tuple(_items(lx, "(", ")"))
    if lx.kind == "ident" and lx.token in _WORDS:
        return _WORDS[lx.advance()]
    if lx.take_word("type"):
        lx.expect("<")
        t = parse_type(lx)
        lx.expect(">")
        return t
    return _number(lx)


_WORDS = {"null": None, "true": True, "false": False}


def _number(lx: Lexer) -> int | float:
    text = lx.number("null, true, false, a number, a string, [...], (...) or {...}")
    if text.startswith("nan"):
        return float("nan")
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _bytes(lx: Lexer) -> bytes:
    try:
        raw = unquote_bytes(lx.token)
    except ValueError as error:
        raise lx.error('bytes b"..."', str(error)) from None
    lx.advance()
    return raw


def _items(lx: Lexer, opening: str, closing: str) -> list[Any]:
    lx.enter()
    lx.expect(opening)
    items: list[Any] = []
    if not lx.at_punct(closing):
        items.append(parse_data(lx))
        while lx.take(","):
            items.append(parse_data(lx))
    lx.expect(closing, f"',' or {closing!r}")
    lx.leave()
    return items


def parse_dict(lx: Lexer) -> dict[str, Any]:
    """``{"key" = value, ...}``; a key once."""
    lx.enter()
    lx.expect("{")
    found: dict[str, Any] = {}
    while not lx.at_punct("}"):
        at = lx.start
        key = lx.word("a key or '}'")
        if key in found:
            raise lx.error("each key once", f"{key!r} again", at)
        lx.expect("=")
        found[key] = parse_data(lx)
        if not lx.take(","):
            break
    lx.expect("}", "',' or '}'")
    lx.leave()
    return found
