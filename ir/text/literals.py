"""Strings, floats and tensor elements as text: shortest form that reads back to the same bits.

Floats are written in the fewest digits that give back the same bits of their own element type
(attributes: float32). Not-a-numbers other than the type's usual one keep their bits: ``nan:0x7fc00001``.
"""

from __future__ import annotations

import re
import struct
from typing import Any

import numpy as np

from ..dtypes import DType

Array = np.ndarray[Any, Any]

_BARE = re.compile(r"[A-Za-z0-9_.]+\Z")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0"}
_ESCAPED = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\", '"': '\\"'}
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.S)


# -- strings


def quote(text: str) -> str:
    """``text`` in double quotes on one line; everything that does not print is escaped."""
    if text.isprintable():
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return '"' + "".join(_ESCAPED.get(c) or (c if c.isprintable() else _unicode_escape(c)) for c in text) + '"'


def escape_unprintable(text: str) -> str:
    """``text`` with everything that does not print escaped, quotes and backslashes as they are."""
    return "".join(c if c.isprintable() else _ESCAPED.get(c) or _unicode_escape(c) for c in text)


def _unicode_escape(char: str) -> str:
    code = ord(char)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def quote_bytes(raw: bytes) -> str:
    """``raw`` as ``b"..."``."""
    return 'b"' + "".join(_ESCAPED.get(c := chr(b)) or (c if 32 <= b < 127 else f"\\x{b:02x}") for b in raw) + '"'


def string_element(raw: bytes) -> str:
    """An element of a string tensor: ``"..."`` where the bytes are UTF-8, else ``b"..."``."""
    try:
        return quote(raw.decode())
    except UnicodeDecodeError:
        return quote_bytes(raw)


def unquote(token: str) -> str:
    """The string of a token with its quotes (double or single).

    Raises ``ValueError`` for an unknown escape and for half a surrogate pair, which no file can hold.
    """
    inner = token[1:-1]
    text = _ESCAPE.sub(_unescape, inner) if "\\" in inner else inner
    if not text.isascii() and _SURROGATE.search(text):
        raise ValueError("half a surrogate pair")
    return text


def unquote_bytes(token: str) -> bytes:
    """The bytes of a ``b"..."`` token. Raises ``ValueError`` for characters beyond a byte."""
    return unquote(token[1:]).encode("latin-1")


def _unescape(m: re.Match[str]) -> str:
    code = m[1] or m[2] or m[3]
    if code is not None:
        return chr(int(code, 16))
    if m[4] in "\\\"'":
        return m[4]
    if m[4] not in _ESCAPES:
        raise ValueError(f"unknown escape \\{m[4]}")
    return _ESCAPES[m[4]]


def bare(name: str) -> str:
    """A value's or graph's name behind its ``%`` or ``@``: quoted where it has odd characters."""
    return name if _BARE.match(name) else quote(name)


def word(name: str) -> str:
    """An operator, domain or attribute name: quoted where it is not an identifier (dots allowed)."""
    return name if _IDENTIFIER.match(name) else quote(name)


# -- floats


def float_text(x: float) -> str:
    """A float attribute, which ONNX keeps as float32; always with a point, an exponent, or a word (``inf``)."""
    with np.errstate(over="ignore"):
        text = str(np.float32(x))
    if text == "nan":
        bits = struct.unpack("<I", np.float32(x).tobytes())[0]
        return "nan" if bits == 0x7FC00000 else f"nan:{bits:#010x}"
    return text


def double_text(x: float) -> str:
    """A Python float, shortest form."""
    return repr(float(x))


def float_attribute(text: str) -> float:
    """The float attribute that ``text`` stands for, rounded to float32. Raises ``ValueError`` beyond its range."""
    return float(float_array([text], DType.F32)[0])


def float_array(texts: list[str], dtype: DType) -> Array:
    """Elements of a float type from their texts. Raises ``ValueError`` for one beyond the type's range."""
    values = np.array([0.0 if t.startswith("nan") else float(t) for t in texts], np.float64)
    with np.errstate(all="ignore"):
        # A float64 goes to the 8- and 16-bit types by way of float32 in some versions of ml_dtypes: fine, since
        # the printer checks its text with this same function.
        out = values.astype(dtype.numpy)
        wide = out.astype(np.float64)
    bits = out.view(_bits_type(dtype))
    for i, text in enumerate(texts):
        if text.startswith("nan"):
            bits[i] = _nan_bits(text, dtype)
        elif not np.isfinite(wide[i]) and not text.endswith("inf"):
            raise ValueError(f"{text} is beyond the range of {dtype.text}")
        elif text.endswith("inf") and not np.isinf(wide[i]):
            raise ValueError(f"{dtype.text} has no infinity")
    return out


def _bits_type(dtype: DType) -> Any:
    return {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}[dtype.numpy.itemsize]


def _nan_bits(text: str, dtype: DType) -> int:
    """Bits of ``nan`` or ``nan:0x...``."""
    if text != "nan":
        bits = int(text[4:], 16)
        if bits >> max(8, dtype.bits):
            raise ValueError(f"{text} has more bits than {dtype.text}")
        if not _is_nan(np.array(bits, _bits_type(dtype)).view(dtype.numpy)):
            raise ValueError(f"{text} are not the bits of a not-a-number of {dtype.text}")
        return bits
    made = np.array(np.nan).astype(dtype.numpy)
    if not _is_nan(made):
        raise ValueError(f"{dtype.text} has no not-a-number")
    return int(made.view(_bits_type(dtype)))


def _is_nan(element: Array) -> bool:
    with np.errstate(all="ignore"):
        return bool(np.isnan(element.astype(np.float64)))


def _float_elements(flat: Array, dtype: DType) -> list[str]:
    bits = flat.view(_bits_type(dtype))
    with np.errstate(all="ignore"):
        wide = flat.astype(np.float64)
    usual = int(np.array(np.nan).astype(dtype.numpy).view(_bits_type(dtype)))
    out: list[str] = []
    for i in range(flat.size):
        if np.isnan(wide[i]):
            out.append("nan" if bits[i] == usual else f"nan:{int(bits[i]):#0{2 + dtype.numpy.itemsize * 2}x}")
            continue
        text = _shortest(float(wide[i]), flat[i], bits[i], dtype)
        out.append(text[:-2] if text.endswith(".0") and text != "-0.0" else text)
    return out


def _shortest(x: float, element: Any, bits: Any, dtype: DType) -> str:
    if dtype in (DType.F32, DType.F16):
        text = str(element)  # numpy prints its own types in shortest round-trip form; reading goes through a double
        if struct.pack("<f" if dtype is DType.F32 else "<e", float(text)) == element.tobytes():
            return text
    elif dtype is not DType.F64 and np.isfinite(x):
        for digits in range(1, 10):
            text = f"{x:.{digits}g}"
            if float_array([text], dtype).view(_bits_type(dtype))[0] == bits:
                return "-0.0" if text == "-0" else text
    return repr(x)


# -- elements


def element_texts(array: Array, dtype: DType) -> list[str]:
    """The elements in row-major order, each as text."""
    flat = np.ascontiguousarray(array).reshape(-1)
    if dtype.kind == "float":
        return _float_elements(flat, dtype)
    if dtype.kind in ("int", "uint"):
        return [str(int(x)) for x in flat]
    if dtype is DType.BOOL:
        return ["true" if x else "false" for x in flat]
    if dtype is DType.STRING:
        return [string_element(x) for x in flat]
    part = DType.F32 if dtype is DType.C64 else DType.F64
    parts = _float_elements(flat.view(part.numpy), part)
    return [f"({re}, {im})" for re, im in zip(parts[::2], parts[1::2], strict=True)]


def integer_array(values: list[int], dtype: DType) -> Array:
    """Elements of an integer type. Raises ``ValueError`` for one beyond the type's range."""
    low = -(1 << (dtype.bits - 1)) if dtype.kind == "int" else 0
    high = (1 << (dtype.bits - (dtype.kind == "int"))) - 1
    for v in values:
        if not low <= v <= high:
            raise ValueError(f"{v} is beyond the range of {dtype.text}, {low} to {high}")
    return np.array(values, np.uint64 if dtype.kind == "uint" else np.int64).astype(dtype.numpy)
