"""Constants as text, and data of big ones in a resources section.

    dense<[1, 2, 3]>   splat<0.5>   rand<7>   rand<7, uniform, scale=0.1>   #<digest>
    sparse<dense<f32[2] [1, 2]>, dense<i64[2] [3, 5]>>   repeat<dense<f32[2,1] [1, 2]>>

As an attribute the type stands inside: ``dense<f32[3] [1, 2, 3]>``, ``resource<f32[64,64] #<digest>>``.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable
from typing import Any, TypeGuard

import numpy as np

from ..constants import (
    DENSE_BYTES,
    ArrayConstant,
    BytesConstant,
    Constant,
    SeededConstant,
    SplatConstant,
)
from ..dtypes import DType
from ..errors import TextError
from ..onnx_proto import SparseConstant
from ..repetition import RepeatedConstant
from ..types import TensorType, Type
from .lexer import Lexer
from .literals import double_text, element_texts, float_array, integer_array, unquote_bytes
from .type_parser import MAX_EXTENT, parse_tensor_type

INLINE_ELEMENTS = 16
"""Tensors of up to this many elements are written out."""

_OF_FEW = (SeededConstant, SplatConstant, SparseConstant, RepeatedConstant)
Array = np.ndarray[Any, Any]
Remember = Callable[[Constant], str]
"""Keeps a constant for the resources and returns its digest."""


def states_type(t: Type | None) -> TypeGuard[TensorType]:
    """Whether a constant of this type can do without a type inside its brackets."""
    return isinstance(t, TensorType) and t.dtype is not None and t.is_static


# -- printing


def constant_text(data: Constant, remember: Remember) -> str:
    """The text behind ``const``."""
    if isinstance(data, _OF_FEW) or data.count <= INLINE_ELEMENTS:
        return _literal(data, "", remember)
    return f"#{remember(data)}"


def constant_attr_text(data: Constant, remember: Remember) -> str:
    """The text as an attribute, with the type inside."""
    if isinstance(data, _OF_FEW) or data.count <= INLINE_ELEMENTS:
        return _literal(data, f"{data.type} ", remember)
    return f"resource<{data.type} #{remember(data)}>"


def _literal(data: Constant, head: str, remember: Remember) -> str:
    if isinstance(data, SeededConstant):
        kind = "" if data.kind == "normal" else f", {data.kind}"
        scale = "" if data.scale == 1.0 else f", scale={double_text(data.scale)}"
        return f"rand<{head}{data.seed}{kind}{scale}>"
    if isinstance(data, SplatConstant):
        return f"splat<{head}{element_texts(np.asarray(data.value, data.dtype.numpy), data.dtype)[0]}>"
    if isinstance(data, SparseConstant):
        values, indices = constant_attr_text(data.values, remember), constant_attr_text(data.indices, remember)
        return f"sparse<{head}{values}, {indices}>"
    if isinstance(data, RepeatedConstant):
        return f"repeat<{head}{constant_attr_text(data.base, remember)}>"
    texts = element_texts(data.numpy(), data.dtype)
    return f"dense<{head}{texts[0]}>" if data.shape == () else f"dense<{head}[{', '.join(texts)}]>"


def resource_bytes(data: Constant) -> bytes:
    """What a resources section holds of a constant: its file bytes; strings each behind its length (8 bytes)."""
    if data.dtype is DType.STRING:
        return b"".join(len(s).to_bytes(8, "little") + s for s in data.numpy().reshape(-1))
    return b"".join(data.chunks())


# -- parsing


class Resources:
    """Where ``#digest`` gets its constant: what the caller gave, then the section at the end of the text."""

    def __init__(self, given: dict[str, Constant] | None) -> None:
        self._given = {} if given is None else given
        self._inline: dict[str, tuple[str, int]] = {}
        self._made: dict[str, Constant] = {}

    def read_section(self, lx: Lexer) -> None:
        """Reads ``{ #digest: "base64" ... }``; the bytes are decoded when used."""
        lx.expect("{")
        while not lx.take("}"):
            at = lx.start
            digest = lx.expect_kind("hash", "'#' and a digest, or '}'")[1:]
            lx.expect(":")
            if lx.kind != "string":
                raise lx.error("the data as a base64 string")
            if digest in self._inline:
                raise lx.error("each digest once", f"#{digest} again", at)
            self._inline[digest] = (lx.token[1:-1], at)
            lx.advance()

    def get(self, lx: Lexer, digest: str, at: int, dtype: DType, shape: tuple[int, ...]) -> Constant:
        """The constant; its type must be the one stated. Raises ``TextError``, also for damaged data."""
        found = self._made.get(digest) or self._given.get(digest)
        if found is None:
            if digest not in self._inline:
                raise lx.fault(
                    f"the data of constant #{digest} is missing",
                    at,
                    "the text holds only its hash: print with print_model(model, resources='inline'), or give "
                    "parse_model(text, resources={digest: constant}) what print_model(model, resources={}) collected",
                )
            found = self._made[digest] = self._decode(lx, digest, dtype, shape)
        if found.dtype is not dtype or found.shape != shape:
            raise lx.fault(f"constant #{digest} is {found.type}, written is {TensorType(dtype, shape)}", at)
        return found

    def _decode(self, lx: Lexer, digest: str, dtype: DType, shape: tuple[int, ...]) -> Constant:
        text, at = self._inline[digest]
        try:
            raw = base64.b64decode(text, validate=True)
            data = _strings(raw, shape) if dtype is DType.STRING else BytesConstant(raw, dtype, shape)
        except (ValueError, binascii.Error) as error:
            raise lx.fault(f"the data of #{digest} is damaged: {error}", at) from None
        if data.digest() != digest:
            raise lx.fault(f"the data of #{digest} hashes to {data.digest()} for {TensorType(dtype, shape)}", at)
        return data


def _strings(raw: bytes, shape: tuple[int, ...]) -> Constant:
    items: list[bytes] = []
    at = 0
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 8], "little")
        items.append(raw[at + 8 : at + 8 + size])
        at += 8 + size
    if len(items) != math.prod(shape) or at != len(raw):
        raise ValueError(f"{len(items)} strings found, {list(shape)} takes {math.prod(shape)}")
    return ArrayConstant(_object_array(items).reshape(shape), DType.STRING)


def _object_array(items: list[bytes]) -> Array:
    array = np.empty(len(items), object)
    array[:] = items
    return array


def parse_constant(lx: Lexer, stated: TensorType | None, resources: Resources) -> Constant:
    """A constant; its type is ``stated``, or stands inside the angle brackets (as an attribute)."""
    at = lx.start
    if lx.kind == "hash" and stated is not None:
        dtype, shape = _static(lx, stated, at)
        return resources.get(lx, lx.advance()[1:], at, dtype, shape)
    kind = lx.token if lx.kind == "ident" else ""
    read = _READERS.get(kind)
    if read is None:
        raise lx.error("dense<...>, splat<...>, repeat<...>, rand<...>, sparse<...> or #digest")
    lx.advance()
    lx.enter()
    lx.expect("<")
    dtype, shape = _static(lx, stated or parse_tensor_type(lx), at)
    data = read(lx, dtype, shape, resources)
    lx.expect(">")
    lx.leave()
    return data


def _static(lx: Lexer, t: TensorType, at: int) -> tuple[DType, tuple[int, ...]]:
    shape: list[int] = []
    for d in t.shape if t.shape is not None else (None,):
        if not isinstance(d, int):
            raise lx.error("a constant's type with an element type and only integers as extents", f"{t}", at)
        shape.append(d)
    if t.dtype is None or math.prod(shape) > MAX_EXTENT:
        raise lx.error("a constant's type with an element type and at most 2^63-1 elements", f"{t}", at)
    return t.dtype, tuple(shape)


def _dense(lx: Lexer, dtype: DType, shape: tuple[int, ...], _: Resources) -> Constant:
    count = math.prod(shape)
    at = lx.start
    elements = _Elements(lx, dtype)
    if not lx.take("["):
        elements.read()
    elif not lx.at_punct("]"):
        elements.read()
        while lx.take(","):
            if len(elements.items) == count:
                raise lx.fault(f"more than the {count} elements that {TensorType(dtype, shape)} takes", at)
            elements.read()
        lx.expect("]", "',' or ']'")
    else:
        lx.advance()
    if len(elements.items) != count:
        raise lx.fault(f"{len(elements.items)} elements found, {TensorType(dtype, shape)} takes {count}", at)
    return ArrayConstant(elements.array(at).reshape(shape), dtype)


def _splat(lx: Lexer, dtype: DType, shape: tuple[int, ...], _: Resources) -> Constant:
    at = lx.start
    elements = _Elements(lx, dtype)
    elements.read()
    return SplatConstant(elements.array(at).reshape(()), dtype, shape)


def _rand(lx: Lexer, dtype: DType, shape: tuple[int, ...], _: Resources) -> Constant:
    at = lx.start
    seed = lx.integer("a seed")
    kind, scale = "normal", 1.0
    while lx.take(","):
        option_at, option = lx.start, lx.expect_kind("ident", "uniform, normal or scale=")
        if option == "scale":
            lx.expect("=")
            scale = float(lx.number())
        elif option in ("uniform", "normal"):
            kind = option
        else:
            raise lx.error("uniform, normal or scale=", repr(option), option_at)
    if dtype is DType.STRING or seed < 0 or not math.isfinite(scale):
        raise lx.fault(f"rand of {dtype}, seed {seed}, scale {scale}: needs numbers, a seed from 0, a finite scale", at)
    return SeededConstant(seed, dtype, shape, kind, scale)


def _sparse(lx: Lexer, dtype: DType, shape: tuple[int, ...], resources: Resources) -> Constant:
    at = lx.start
    values = parse_constant(lx, None, resources)
    lx.expect(",")
    indices = parse_constant(lx, None, resources)
    if values.dtype is not dtype or indices.dtype is not DType.I64 or len(values.shape) != 1:
        raise lx.fault(f"{values.type} at {indices.type}, expected {dtype}[n] at i64[n] or i64[n,rank]", at)
    if dtype.nbytes(math.prod(shape)) > DENSE_BYTES:
        raise lx.fault(f"sparse of {TensorType(dtype, shape)}, expected at most {DENSE_BYTES} bytes when dense", at)
    n = values.shape[0]
    where = indices.numpy() if indices.shape in ((n,), (n, len(shape))) else None
    bound: Any = math.prod(shape) if len(indices.shape) == 1 else np.array(shape)
    if where is None or bool(((where < 0) | (where >= bound)).any()):
        raise lx.fault(f"indices {indices.type} do not fit {n} values in {list(shape)}", at)
    return SparseConstant(values, indices, shape)


def _repeat(lx: Lexer, dtype: DType, shape: tuple[int, ...], resources: Resources) -> Constant:
    at = lx.start
    base = parse_constant(lx, None, resources)
    fits = len(base.shape) == len(shape) and all(b in (1, d) for b, d in zip(base.shape, shape, strict=True))
    if base.dtype is not dtype or not fits:
        raise lx.fault(f"{base.type} cannot be repeated to {TensorType(dtype, shape)}", at)
    return RepeatedConstant(base, shape)


def _resource(lx: Lexer, dtype: DType, shape: tuple[int, ...], resources: Resources) -> Constant:
    at = lx.start
    return resources.get(lx, lx.expect_kind("hash", "'#' and a digest")[1:], at, dtype, shape)


_READERS: dict[str, Callable[[Lexer, DType, tuple[int, ...], Resources], Constant]] = {
    "dense": _dense,
    "splat": _splat,
    "rand": _rand,
    "repeat": _repeat,
    "sparse": _sparse,
    "resource": _resource,
}


class _Elements:
    """Reads elements of one type, then makes the flat array."""

    def __init__(self, lx: Lexer, dtype: DType) -> None:
        self.lx, self.dtype = lx, dtype
        self.items: list[Any] = []

    def read(self) -> None:
        lx, kind = self.lx, self.dtype.kind
        if kind == "float":
            self.items.append(lx.number())
        elif kind in ("int", "uint"):
            self.items.append(lx.integer())
        elif kind == "bool":
            if not (lx.at_word("true") or lx.at_word("false")):
                raise lx.error("true or false")
            self.items.append(lx.advance() == "true")
        elif kind == "string":
            self.items.append(self._string())
        else:
            lx.expect("(", "a complex number (real, imaginary)")
            real = lx.number()
            lx.expect(",")
            self.items.append((real, lx.number()))
            lx.expect(")")

    def _string(self) -> bytes:
        lx = self.lx
        if lx.kind == "bytes":
            raw = lx.token
            try:
                item = unquote_bytes(raw)
            except ValueError as error:
                raise lx.error('bytes b"..." with escapes \\xHH', str(error)) from None
            lx.advance()
            return item
        try:
            return lx.string("a string").encode()
        except UnicodeEncodeError as error:
            raise lx.error('a string of whole characters; write bytes as b"..."', str(error)) from None

    def array(self, at: int) -> Array:
        dtype = self.dtype
        try:
            if dtype.kind == "float":
                return float_array(self.items, dtype)
            if dtype.kind in ("int", "uint"):
                return integer_array(self.items, dtype)
            if dtype is DType.STRING:
                return _object_array(self.items)
            if dtype is DType.BOOL:
                return np.array(self.items, np.bool_)
            part = DType.F32 if dtype is DType.C64 else DType.F64
            return float_array([p for pair in self.items for p in pair], part).view(dtype.numpy)
        except ValueError as error:
            raise self._fault(str(error), at) from None

    def _fault(self, message: str, at: int) -> TextError:
        return self.lx.fault(message, at)
