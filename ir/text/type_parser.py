"""Types and dimensions from text: ``f32[N,2*H+1,?]@NHWC<u8 scale=0.1 zero=0>``, ``seq<f32[*]>``, ``?``."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..dims import Dim, add, call, mul, symbol
from ..dtypes import BY_TEXT, DType
from ..types import Layout, MapType, OptionalType, Quant, SequenceType, TensorType, Type
from .lexer import Lexer

_FUNCTIONS = ("floordiv", "mod", "min", "max")
_PLAIN = re.compile(r"[a-z][a-z0-9]*\[[\w,*+?() -]*\](?!\s*[@<])")
"""A tensor type without quoted symbols and annotations."""
MAX_EXTENT = (1 << 63) - 1
"""Largest extent of one axis: what ONNX can store."""
MAX_TERMS = 256
"""Terms of a sum and factors of a product in one dimension."""


def parse_type(lx: Lexer) -> Type | None:
    """A type; ``None`` for ``?``."""
    plain = _PLAIN.match(lx.text, lx.start)
    if plain is None:
        return _parse_type(lx)
    seen = lx.types.get(plain[0])
    if seen is not None:
        lx.seek(plain.end())
        return seen
    made = parse_tensor_type(lx)
    if lx.prev_end == plain.end():
        lx.types[plain[0]] = made
    return made


def _parse_type(lx: Lexer) -> Type | None:
    if lx.kind == "ident" and lx.token in _CONTAINERS:
        lx.enter()
        kind = lx.advance()
        lx.expect("<")
        made = _CONTAINERS[kind](lx)
        lx.expect(">")
        lx.leave()
        return made
    if lx.take("?"):
        return _tensor_rest(lx, None) if lx.at_punct("[") else None
    return parse_tensor_type(lx)


def parse_tensor_type(lx: Lexer) -> TensorType:
    """A dense tensor's type."""
    if lx.take("?"):
        return _tensor_rest(lx, None)
    return _tensor_rest(lx, parse_dtype(lx))


def parse_dtype(lx: Lexer) -> DType:
    """An element type."""
    found = BY_TEXT.get(lx.token) if lx.kind == "ident" else None
    if found is None:
        raise lx.error("a type", help=f"element types are {' '.join(BY_TEXT)}; containers seq, optional, map, sparse")
    lx.advance()
    return found


def _tensor_rest(lx: Lexer, dtype: DType | None) -> TensorType:
    lx.expect("[", "'[' and the shape")
    dims: list[Dim] | None = []
    if lx.take("*"):
        dims = None
    elif not lx.at_punct("]"):
        dims.append(parse_dim(lx))
        while lx.take(","):
            dims.append(parse_dim(lx))
    lx.expect("]", "',' or ']'")
    layout = Layout(lx.sigiled("at", "a layout")) if lx.kind == "at" else None
    quant = None
    if lx.at_punct("<"):
        quant = _quant(lx)
    return TensorType(dtype, None if dims is None else tuple(dims), layout, quant)


def _quant(lx: Lexer) -> Quant:
    lx.expect("<")
    storage = parse_dtype(lx)
    scale: tuple[float, ...] = ()
    zero: tuple[int, ...] = ()
    axis: int | None = None
    block = 0
    while lx.kind == "ident":
        at, key = lx.start, lx.advance()
        lx.expect("=")
        if key == "scale":
            scale = (_number(lx), *(_number(lx) for _ in _commas(lx)))
        elif key == "zero":
            zero = (lx.integer(), *(lx.integer() for _ in _commas(lx)))
        elif key == "axis":
            axis = lx.integer()
        elif key == "block":
            block = lx.integer()
        else:
            raise lx.error("scale, zero, axis or block", f"{key!r}", at)
    lx.expect(">", "scale=, zero=, axis=, block= or '>'")
    return Quant(storage, scale, zero, axis, block)


def _number(lx: Lexer) -> float:
    text = lx.number()
    return float("nan") if text.startswith("nan") else float(text)


def _commas(lx: Lexer) -> Iterator[None]:
    while lx.take(","):
        yield


def _sequence(lx: Lexer) -> Type:
    return SequenceType(parse_type(lx))


def _optional(lx: Lexer) -> Type:
    return OptionalType(parse_type(lx))


def _map(lx: Lexer) -> Type:
    key = parse_dtype(lx)
    lx.expect(",")
    return MapType(key, parse_type(lx))


def _sparse(lx: Lexer) -> Type:
    t = parse_tensor_type(lx)
    return TensorType(t.dtype, t.shape, t.layout, t.quant, sparse=True)


_CONTAINERS = {"seq": _sequence, "optional": _optional, "map": _map, "sparse": _sparse}


# -- dimensions


def parse_dim(lx: Lexer, low: int = 0) -> Dim:
    """A dimension: ``?``, an integer of at least ``low``, or a sum of products of symbols and calls."""
    if lx.take("?"):
        return None
    at = lx.start
    total: Dim = 0
    negative = lx.take("-")
    for _ in range(MAX_TERMS):
        term = _product(lx)
        total = add(total, mul(-1, term) if negative else term)
        negative = lx.at_punct("-")
        if not (negative or lx.at_punct("+")):
            break
        lx.advance()
    else:
        raise lx.error(f"a sum of at most {MAX_TERMS} terms", "a longer one", at)
    if total is None:
        raise lx.error("a shorter dimension", "one that is too long when it is multiplied out", at)
    if isinstance(total, int) and not low <= total <= MAX_EXTENT:
        raise lx.error(f"an integer from {low} to 2^63-1", str(total), at)
    return total


def _product(lx: Lexer) -> Dim:
    at = lx.start
    total = _factor(lx)
    for _ in range(MAX_TERMS):
        if not lx.take("*"):
            return total
        total = mul(total, _factor(lx))
    raise lx.error(f"a product of at most {MAX_TERMS} factors", "a longer one", at)


def _factor(lx: Lexer) -> Dim:
    if lx.kind == "number":
        return lx.integer("an integer, a symbol or a call")
    if lx.kind == "quoted":
        name = lx.unquoted(lx.token)
        lx.advance()
        return symbol(name)
    if lx.kind != "ident":
        raise lx.error("a dimension: an integer, a symbol, '?' or a call of floordiv, mod, min, max")
    name = lx.advance()
    if name not in _FUNCTIONS:
        return symbol(name)
    lx.enter()
    lx.expect("(")
    a = parse_dim(lx, -MAX_EXTENT)
    lx.expect(",")
    b = parse_dim(lx, -MAX_EXTENT)
    lx.expect(")")
    lx.leave()
    return call(name, a, b)
