"""Types as text; ``type_parser.py`` reads them back."""

from __future__ import annotations

from ..dims import dim_text
from ..types import MapType, OptionalType, SequenceType, TensorType, Type
from .literals import bare, double_text, escape_unprintable


def render_type(t: Type | None) -> str:
    """The text of a type, on one line whatever its symbols are called."""
    if isinstance(t, TensorType):
        return _tensor_text(t)
    if isinstance(t, SequenceType):
        return f"seq<{render_type(t.element)}>"
    if isinstance(t, OptionalType):
        return f"optional<{render_type(t.element)}>"
    if isinstance(t, MapType):
        return f"map<{t.key.text}, {render_type(t.element)}>"
    return "?"


def _tensor_text(t: TensorType) -> str:
    shape = "*" if t.shape is None else ",".join([str(d) if type(d) is int else dim_text(d) for d in t.shape])
    if not shape.isprintable():
        shape = escape_unprintable(shape)  # inside the single quotes of symbols
    text = f"{'?' if t.dtype is None else t.dtype.text}[{shape}]"
    if t.layout is not None:
        text += f"@{bare(t.layout.name)}"
    if t.quant is not None:
        q = t.quant
        parts = [q.storage.text]
        if q.scale:
            parts.append("scale=" + ",".join(map(double_text, q.scale)))
        if q.zero_point:
            parts.append("zero=" + ",".join(map(str, q.zero_point)))
        if q.axis is not None:
            parts.append(f"axis={q.axis}")
        if q.block:
            parts.append(f"block={q.block}")
        text += f"<{' '.join(parts)}>"
    return f"sparse<{text}>" if t.sparse else text
