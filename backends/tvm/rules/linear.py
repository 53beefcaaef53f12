"""Products of matrices and convolutions as plain sums: what anchors of groups compute, whatever kernel makes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from ..api import te, tirx
from ..lower.extents import Extent, Extents, expr
from ..lower.forms import Element, Expr, Index, flat
from .core import Context, Kind, Unsupported, number, reduce_axis, rule
from .windows import may_reach, windows


@rule(Kind.STAGE, "MatMul")
def matmul(c: Context) -> Element:
    """Batch axes broadcast; vectors count as rows or columns."""
    a, b, sa, sb, out, dtype = c.x(0), c.x(1), c.extents(0), c.extents(1), c.out_extents(), c.out_dtype()
    inner = sa[-1]
    lead = max(len(sa), len(sb)) - 2
    row, column = len(sa) > 1, len(sb) > 1
    c.same(inner, sb[-2] if column else sb[0])
    for shape in (sa[:-2], sb[:-2]):
        for have, want in zip(reversed(shape), reversed(out[:lead] if lead > 0 else ()), strict=False):
            c.same(want if have == 1 else have, want)

    def batch(index: Index, shape: Extents) -> Index:
        own = shape[:-2]
        given = index[lead - len(own) : lead] if lead > 0 else ()
        return tuple(0 if n == 1 else i for i, n in zip(given, own, strict=True))

    def fill(index: Index) -> Expr:
        k = reduce_axis(inner, "k")
        rest = index[max(lead, 0) :]
        left = (*batch(index, sa), rest[0], k) if row else (k,)
        right = (*batch(index, sb), k, rest[-1]) if column else (k,)
        return te.sum(a(left).astype(dtype) * b(right).astype(dtype), axis=[k])

    return c.compute(out, dtype, fill, name="matmul")


@rule(Kind.STAGE, "Gemm")
def gemm(c: Context) -> Element:
    """alpha A' B' + beta C."""
    a, b, dtype = c.x(0), c.x(1), c.out_dtype()
    ta, tb = bool(c.node.attr("transA", 0)), bool(c.node.attr("transB", 0))
    inner = c.extents(0)[0 if ta else 1]
    c.same(inner, c.extents(1)[1 if tb else 0])
    alpha, beta = float(c.node.attr("alpha", 1.0)), float(c.node.attr("beta", 1.0))

    def fill(index: Index) -> Expr:
        k = reduce_axis(inner, "k")
        left = (k, index[0]) if ta else (index[0], k)
        right = (index[1], k) if tb else (k, index[1])
        return te.sum(a(left) * b(right), axis=[k])

    product = c.compute(c.out_extents(), dtype, fill, name="gemm")
    scaled: Element = product if alpha == 1 else lambda index: product(index) * number(alpha, dtype)
    if not c.has(2) or beta == 0:
        return scaled
    added = c.spread(2)
    return lambda index: scaled(index) + (added(index) if beta == 1 else added(index) * number(beta, dtype))


@rule(Kind.STAGE, "Einsum")
def einsum(c: Context) -> Element:
    """The sum of products over labels that the result has not; what is a product of matrices is one before."""
    written = c.node.attr("equation")
    equation = (written.decode() if isinstance(written, bytes) else str(written)).replace(" ", "")
    left, arrow, right = equation.partition("->")
    count, dtype = len(c.node.inputs), c.dtype()
    terms = [_labels(term, c.rank(i)) for i, term in enumerate(left.split(","))]
    if len(terms) != count:
        raise Unsupported(f"{equation} for {count} operands")
    extents: dict[str, Extent] = {}
    for i, labels in enumerate(terms):
        for label, extent in zip(labels, c.extents(i), strict=True):
            if extent != 1 and extents.get(label, 1) != 1:
                c.same(extents[label], extent)
            extents[label] = extents[label] if extents.get(label, 1) != 1 else extent
    spread = sorted({label for labels in terms for label in labels if label.startswith(".")}, reverse=True)
    if arrow:
        head, dots, tail = right.partition("...")
        result = [*head, *(spread if dots else []), *tail]
    else:
        every = "".join(left.split(",")).replace("...", "")
        result = [*spread, *sorted(label for label in set(every) if every.count(label) == 1)]
    summed = [label for label in extents if label not in result]

    def element(index: Index, reduced: dict[str, Expr]) -> Expr:
        at = dict(zip(result, index, strict=True)) | reduced
        total: Expr = None
        for i, labels in enumerate(terms):
            own = zip(labels, c.extents(i), strict=True)
            term = c.x(i)(tuple(0 if extent == 1 else at[label] for label, extent in own))
            total = term if total is None else total * term
        return total

    if not summed:
        return lambda index: element(index, {})

    def fill(index: Index) -> Expr:
        loops = {label: reduce_axis(extents[label], f"r{i}") for i, label in enumerate(summed)}
        return te.sum(element(index, loops), axis=list(loops.values()))

    return c.compute(tuple(extents[label] for label in result), dtype, fill, name="einsum")


def _labels(term: str, rank: int) -> list[str]:
    """A label for every axis; those of an ellipsis are numbered from the last."""
    head, dots, tail = term.partition("...")
    spread = rank - len(head) - len(tail) if dots else 0
    return [*head, *(f".{i}" for i in reversed(range(spread))), *tail]


@rule(Kind.STAGE, "Conv")
def conv(c: Context) -> Element:
    x, w, shape, weights, out, dtype = c.x(0), c.x(1), c.extents(0), c.shape(1), c.out_extents(), c.out_dtype()
    groups, channels = int(c.node.attr("group", 1)), weights[1]
    v = windows(c, shape[2:], weights[2:], out[2:])
    per_group = weights[0] // groups

    def fill(index: Index) -> Expr:
        oc = flat(index[1])
        r = reduce_axis(channels, "c")
        loops = [reduce_axis(k, f"k{i}") for i, k in enumerate(v.kernel)]
        at = [
            flat(i) * s + k * d - b
            for i, s, k, d, b in zip(index[2:], v.strides, loops, v.dilations, v.begins, strict=True)
        ]
        source = r if groups == 1 else (oc // per_group) * channels + r
        inside: list[Any] = []
        for place, n, o, s, k, d, b in zip(
            at, shape[2:], out[2:], v.strides, v.kernel, v.dilations, v.begins, strict=True
        ):
            inside += [place >= 0] if b else []
            inside += [place < expr(n)] if may_reach((o - 1) * s + (k - 1) * d - b, n) else []
        found = x((index[0], source, *at))
        found = tirx.if_then_else(tirx.all(*inside), found, number(0, dtype)) if inside else found
        return te.sum(found * w((oc, r, *loops)), axis=[r, *loops])

    found = c.compute(out, dtype, fill, name="conv")
    if not c.has(2):
        return found
    bias = c.x(2)
    return lambda index: found(index) + bias((index[1],))


@rule(Kind.STAGE, "ConvTranspose")
def conv_transpose(c: Context) -> Element:
    """Each result gathers the operand's elements whose kernels cover it."""
    x, w, shape, weights, out, dtype = c.x(0), c.x(1), c.shape(0), c.shape(1), c.out_shape(), c.out_dtype()
    groups, space = int(c.node.attr("group", 1)), len(shape) - 2
    per_group, channels = weights[1], weights[0] // groups
    attrs = c.node.attrs
    strides = [int(s) for s in cast("Any", attrs.get("strides")) or (1,) * space]
    dilations = [int(d) for d in cast("Any", attrs.get("dilations")) or (1,) * space]
    begins = transpose_begins(c, shape[2:], weights[2:], out[2:], strides, dilations)

    def fill(index: Index) -> Expr:
        oc = flat(index[1])
        r = reduce_axis(channels, "c")
        loops = [reduce_axis(k, f"k{i}") for i, k in enumerate(weights[2:])]
        places: list[Any] = []
        inside: list[Any] = []
        for i, k, s, d, b, n in zip(index[2:], loops, strides, dilations, begins, shape[2:], strict=True):
            at = flat(i) + b - k * d
            places.append(tirx.floordiv(at, s) if s > 1 else at)
            inside += [at >= 0, places[-1] < n] + ([tirx.EQ(tirx.floormod(at, s), 0)] if s > 1 else [])
        source = r if groups == 1 else (oc // per_group) * channels + r
        target = oc if groups == 1 else oc % per_group
        found = tirx.if_then_else(tirx.all(*inside), x((index[0], source, *places)), number(0, dtype))
        return te.sum(found * w((source, target, *loops)), axis=[r, *loops])

    found = c.compute(out, dtype, fill, name="conv_transpose")
    if not c.has(2):
        return found
    bias = c.x(2)
    return lambda index: found(index) + bias((index[1],))


def transpose_begins(
    c: Context, space: Any, kernel: Any, out: Any, strides: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    """Padding in front. Source: ConvTranspose-22: what the output's extent leaves, shared out by ``auto_pad``."""
    attrs, n = c.node.attrs, len(strides)
    auto = c.node.attr("auto_pad", "NOTSET")
    auto = auto.decode() if isinstance(auto, bytes) else auto
    written = cast("Any", attrs.get("pads"))
    if written is not None and not attrs.get("output_shape"):
        return [int(p) for p in written[:n]]
    if auto in ("NOTSET", "VALID") and not attrs.get("output_shape"):
        return [0] * n
    extra = [int(p) for p in cast("Any", attrs.get("output_padding")) or (0,) * n]
    total = [
        max(s * (x - 1) + e + (k - 1) * d + 1 - o, 0)
        for s, x, e, k, d, o in zip(strides, space, extra, kernel, dilations, out, strict=True)
    ]
    return [t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in total]
