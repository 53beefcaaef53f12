"""Kernels whose sums a template computes: what follows them elementwise goes into its write-back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np

from ....ir.graph import Node, Value
from ..api import te, tvm
from ..groups import Group
from ..kernels import blocked_weights
from ..kernels import conv as conv_kernels
from ..kernels import matmul as matmul_kernels
from ..kernels import transposed as transposed_kernels
from ..kernels.machine import Machine
from ..kernels.tile import Epilogue
from ..kernels.transposed import Transposed
from ..layout import Layouts
from ..rules.core import Context, dtype_of, is_static, numbers, shape_of, static_shape
from ..rules.linear import transpose_begins
from ..rules.windows import windows
from .blocked import Blocked, blocked_of
from .extents import Extents, expr, exprs
from .forms import Array, Element, Expr, Form, Index, broadcast
from .integers import Integers, integers_of
from .kernels import Kernel, Operand, Operands, atoms_of, group_name, run_rules
from .requantized import merged_constants

FLOATS = ("float32", "float16")
"""Types of sums' results that templates store."""


def anchored_kernel(group: Group, layouts: Layouts, machine: Machine) -> Kernel | None:
    """The group by a template of its first node; ``None`` where there is none for it."""
    node = group.nodes[0]
    template = TEMPLATES.get(node.op)
    if machine.is_gpu or template is None or dtype_of(node.output) not in FLOATS:
        return None
    made = template(group, layouts, machine)
    if made is not None:
        made.atoms = atoms_of(group)
    return made


Spread = Callable[[Element], Element]


def _reader(buffer: Any) -> Callable[..., Expr]:
    return lambda *at: buffer[at]


@dataclass(frozen=True)
class Source:
    """What a product is made of."""

    x: Value
    weights: Array
    dtype: str
    zero_point: int
    narrow: bool
    integers: Integers | None
    """Where sums are integers."""


def _source(node: Node) -> Source | None:
    """Of a product with constant weights."""
    found = integers_of(node)
    if found is not None:
        if dtype_of(node.output) != "float32":
            return None
        dtype = dtype_of(found.x)
        return Source(found.x, found.weights, dtype, found.zero_point, found.narrow, found)
    x, w = node.inputs[0], node.inputs[1]
    if x is None or w is None or w.data is None or dtype_of(x) not in FLOATS or dtype_of(w) != dtype_of(x):
        return None
    return Source(x, w.data.numpy(), dtype_of(x), 0, False, None)


class Tail:
    """What follows the sums of a group's first node: an optional bias, then the other nodes."""

    def __init__(
        self, group: Group, layouts: Layouts, bias: Value | None, spread: Spread | None = None, *, turned: bool = False
    ) -> None:
        """``bias`` is added to the sums; ``spread`` makes of its elements those at the result's index; ``turned``: the
        template has the two axes of space the other way round."""
        self.turned = turned
        self.node, self.out = group.nodes[0], group.outputs[0]
        self.form = layouts.form(self.out)
        self.sum: Expr = None
        self.sum_dtype = "float32"
        self.operands = Operands(layouts)
        dtype = dtype_of(self.node.output)
        added = self.operands.element(bias) if bias is not None else None
        if added is not None and spread is not None:
            added = spread(added)
        self.floats: Element = lambda index: self.sum

        def first(index: Index) -> Expr:
            if added is None:
                found = self.floats(index)
            else:  # sums are of single precision, and so is a bias that goes into them
                found = self.floats(index) + added(index).astype("float32")
            return found if dtype == "float32" else found.astype(dtype)

        rest = group.nodes[1:]
        if rest:
            self.element = run_rules(rest, self.operands, self.form.block, {self.node.output: first})[0].element
        else:
            self.element = first
        self.placeholders = list(self.operands.read)

    def dequantize(self, integers: Integers, weights_sums: Array, seen_zero_point: int, axis: int) -> None:
        """Sums are integers without the zero point's share: what makes them floats; ``axis`` is the outputs'."""
        self.sum_dtype = "int32"
        share = (-seen_zero_point * weights_sums).astype(np.int32)
        scales = np.ascontiguousarray(np.broadcast_to(integers.weight_scales * np.float32(integers.scale), share.shape))
        offset, scale = self.operands.table(share), self.operands.table(scales)
        bias = None if integers.bias is None else integers.bias
        added = None
        if bias is not None:
            added = self.operands.table(np.ascontiguousarray(np.broadcast_to(bias, share.shape)))

        def floats(index: Index) -> Expr:
            at = (index[axis],)
            found = (self.sum + offset(at)).astype("float32") * scale(at)
            return found if added is None else found + added(at)

        self.floats = floats
        self.placeholders = list(self.operands.read)

    def apply(self, total: Expr, index: tuple[Expr, ...], extras: Sequence[Any]) -> Expr:
        """The stored value at a physical index of the result."""
        self.sum = total
        self.operands.read = [_reader(extra) for extra in extras]
        try:
            value = self.element(self._logical(index))
            return value if self.sum_dtype == "float32" else merged_constants(value)
        finally:
            self.operands.read, self.sum = self.placeholders, None

    def _logical(self, index: tuple[Expr, ...]) -> Index:
        found = self.form.logical(index)
        return (*found[:2], found[3], found[2]) if self.turned else found

    def epilogue(self) -> Epilogue:
        """In the templates' form."""
        extras = tuple((exprs(operand.form.physical), operand.form.dtype) for operand in self.operands.all)
        return Epilogue(self.apply, extras, self.form.dtype, self._key())

    def _key(self) -> str:
        """The tail as a function of its own, over sums that lie in a tensor."""
        sums = te.placeholder(exprs(self.form.physical), self.sum_dtype, name="sums")

        def fill(*index: Expr) -> Expr:
            self.sum = sums(*index)
            return self.element(self.form.logical(index))

        out = te.compute(exprs(self.form.physical), fill, name="out")
        return tvm.ir.save_json(te.create_prim_func([sums, *self.operands.tensors, out]))


def _conv(group: Group, layouts: Layouts, machine: Machine) -> Kernel | None:
    node = group.nodes[0]
    made = _source(node)
    if made is None or len(shape_of(made.x)) != 4 or not isinstance(shape_of(made.x)[1], int):
        return None
    spec = conv_spec(node, layouts.form(made.x), layouts.form(group.outputs[0]))
    spec = replace(spec, dtype=made.dtype, zero_point=made.zero_point, narrow=made.narrow)
    source = layouts.form(made.x)
    for block in (spec.in_block, spec.out_block, 1):  # groups of channels want both sides alike, or no blocks
        source, spec = replace(source, block=block), replace(spec, in_block=block)
        whole = block in (1, layouts.form(made.x).block) or spec.channels % block == 0
        if whole and conv_kernels.unsupported(spec) is None:
            break
    if conv_kernels.unsupported(spec) is not None or made.x.data is not None:
        return None
    # A column is a row that lies across: tiles are cut from rows.
    turned = source.shape[3] == spec.kernel[1] == 1 and spec.pads[1] == spec.pads[3] == 0 and source.shape[2] != 1
    array = made.weights
    result = layouts.form(group.outputs[0])
    if turned:
        spec, array = _turned(spec), array.swapaxes(2, 3)
        source, result = _turned_form(source), _turned_form(result)
    tile = conv_kernels.tile_of(spec, machine)
    bias = node.input(2) if made.integers is None else None
    tail = Tail(group, layouts, bias, lambda bias: lambda index: bias((index[1],)), turned=turned)
    if made.integers is not None:
        sums = array.astype(np.int64).sum(axis=(1, 2, 3))
        tail.dequantize(made.integers, sums, conv_kernels.seen_zero_point(spec, machine, tile), 1)
    epilogue = tail.epilogue()
    packed = conv_kernels.pack(np.ascontiguousarray(array), spec, tile)
    operands = [Operand(made.x, source), Operand(packed, Form(packed.shape, str(packed.dtype)))]
    name = group_name(group)
    return Kernel(
        name,
        f"{spec} {tile} {turned} {epilogue.key}",
        lambda: conv_kernels.build(spec, machine, tile, epilogue, name=name),
        [*operands, *tail.operands.all],
        [(tail.out, result)],
        equal=tail.operands.equal,
    )


def _transposed(group: Group, layouts: Layouts, machine: Machine) -> Kernel | None:
    node = group.nodes[0]
    made = _source(node)
    if made is None or made.x.data is not None or len(shape_of(made.x)) != 4 or not is_static(shape_of(made.x)[1:2]):
        return None
    if made.dtype != "float32":
        return None
    source, result = layouts.form(made.x), layouts.form(group.outputs[0])
    spec = transposed_spec(node, source, result)
    if spec is None:
        return None
    for block in (source.block, result.block, 1):  # as for convolutions
        source, spec = replace(source, block=block), replace(spec, in_block=block)
        if transposed_kernels.unfit(spec) is None and spec.channels % block == 0:
            break
    if transposed_kernels.unfit(spec) is not None:
        return None
    tiles = transposed_kernels.tiles_of(spec, machine)
    tail = Tail(group, layouts, node.input(2), lambda bias: lambda index: bias((index[1],)))
    epilogue, name = tail.epilogue(), group_name(group)
    packed = transposed_kernels.packed(made.weights, spec, machine, tiles)
    return Kernel(
        name,
        f"{spec} {tiles} {epilogue.key}",
        lambda: transposed_kernels.build(spec, machine, tiles, epilogue, name=name),
        [Operand(made.x, source), *(Operand(w, Form(w.shape, "float32")) for w in packed), *tail.operands.all],
        [(tail.out, result)],
        equal=tail.operands.equal,
    )


def transposed_spec(node: Node, x: Form, out: Form) -> Transposed | None:
    """The transposed convolution as the template names it; ``None`` where it cannot."""
    weights = node.inputs[1]
    assert weights is not None
    kernel, extents = static_shape(weights)[2:], exprs(x.shape)
    strides, dilations = (tuple(cast("Any", node.attrs.get(n)) or (1, 1)) for n in ("strides", "dilations"))
    begins = transpose_begins(Context(node, []), x.shape[2:], kernel, out.shape[2:], strides, dilations)
    beyond = tuple(o - s * n for o, s, n in zip(out.shape[2:], strides, x.shape[2:], strict=True))
    if dilations != (1, 1) or not is_static(beyond):
        return None
    return Transposed(
        extents[0],
        numbers(x.shape[1:2])[0],
        extents[2],
        extents[3],
        numbers(out.shape[1:2])[0],
        (kernel[0], kernel[1]),
        (strides[0], strides[1]),
        (begins[0], begins[1]),
        numbers(beyond),
        int(node.attr("group", 1)),
        x.block,
        out.block,
    )


def _turned(conv: conv_kernels.Conv) -> conv_kernels.Conv:
    top, left, bottom, right = conv.pads
    return replace(
        conv,
        height=conv.width,
        width=conv.height,
        kernel=conv.kernel[::-1],
        strides=conv.strides[::-1],
        dilations=conv.dilations[::-1],
        pads=(left, top, right, bottom),
    )


def _turned_form(form: Form) -> Form:
    n, c, h, w = form.shape
    return replace(form, shape=(n, c, w, h))


def conv_spec(node: Node, x: Form, out: Form) -> conv_kernels.Conv:
    """The convolution as the templates name it."""
    weights = node.inputs[1]
    assert weights is not None
    kernel = static_shape(weights)[2:]
    context = Context(node, [])
    w = windows(context, x.shape[2:], kernel, shape_of(node.output)[2:])
    channels, outputs = numbers((x.shape[1], out.shape[1]))
    return conv_kernels.Conv(
        expr(x.shape[0]),
        channels,
        expr(x.shape[2]),
        expr(x.shape[3]),
        outputs,
        (kernel[0], kernel[1]),
        (w.strides[0], w.strides[1]),
        (w.begins[0], w.begins[1], w.ends[0], w.ends[1]),
        (w.dilations[0], w.dilations[1]),
        int(node.attr("group", 1)),
        x.block,
        out.block,
    )


def _matmul(group: Group, layouts: Layouts, machine: Machine) -> Kernel | None:
    """Weights of two axes are packed; other right sides are read as they lie."""
    node = group.nodes[0]
    blocked = blocked_of(node)
    if blocked is not None:
        return _blocked(group, machine, blocked, Tail(group, layouts, None))
    made = _source(node)
    if made is not None and made.weights.ndim == 2 and shape_of(made.x)[1:][-1:] == made.weights.shape[:1]:
        shape = exprs(shape_of(made.x))
        spec = matmul_kernels.MatMul(shape[:-2], shape[-2], made.weights.shape[0], made.weights.shape[1])
        return _packed(group, layouts, machine, spec, made, made.weights, Tail(group, layouts, None))
    a, b = node.inputs[0], node.inputs[1]
    if a is None or b is None or dtype_of(a) not in FLOATS or dtype_of(b) != dtype_of(a) or a.data is not None:
        return None
    shape, right, batch = shape_of(a), shape_of(b), shape_of(node.output)[:-2]
    if len(shape) < 3 or shape[:-2] != batch or len(right) != len(shape) or right[-2] != shape[-1]:
        return None  # two single matrices, neither of them weights: rare, and not worth a template
    if any(have not in (1, want) for have, want in zip(right[:-2], batch, strict=True)):
        return None
    rows, depth, columns = exprs((*shape[-2:], right[-1]))
    spec = matmul_kernels.MatMul(exprs(batch), rows, depth, columns, packed=False, b_batch=exprs(right[:-2]))
    spec = replace(spec, dtype=dtype_of(a), b_dtype=dtype_of(a) if dtype_of(a) != "float32" else "")
    return _product(group, machine, spec, a, b, Tail(group, layouts, None))


def _gemm(group: Group, layouts: Layouts, machine: Machine) -> Kernel | None:
    """A transposed operand is another order of axes; alpha goes into weights."""
    node = group.nodes[0]
    blocked = blocked_of(node)
    if blocked is not None:
        added = node.input(2)
        spread = partial(_spread, shape=_shape(added), out=shape_of(node.output))
        return _blocked(group, machine, blocked, Tail(group, layouts, added, spread))
    a, b, made = node.inputs[0], node.inputs[1], _source(node)
    alpha, beta = float(node.attr("alpha", 1.0)), float(node.attr("beta", 1.0))
    if a is None or b is None or made is None or a.data is not None or beta != 1:
        return None
    if made.dtype == "float16" and alpha != 1:  # weights would be rounded twice
        return None
    swapped, turned = bool(node.attr("transA", 0)), bool(node.attr("transB", 0))
    if shape_of(a)[0 if swapped else 1] != made.weights.shape[1 if turned else 0]:
        return None
    addend = zip(reversed(_shape(node.input(2))), reversed(shape_of(node.output)), strict=False)
    if any(have not in (1, want) for have, want in addend):
        return None
    rows = expr(shape_of(a)[1 if swapped else 0])
    out, axes = shape_of(node.output), (1, 0) if swapped else ()
    added = node.input(2) if made.integers is None else None
    tail = Tail(group, layouts, added, partial(_spread, shape=_shape(added), out=out))
    weights = made.weights.T if turned else made.weights
    if made.integers is None and alpha != 1:
        weights = weights * np.float32(alpha)
    spec = matmul_kernels.MatMul((), rows, weights.shape[0], weights.shape[1], a_axes=axes)
    return _packed(group, layouts, machine, spec, made, weights, tail)


def _packed(
    group: Group,
    layouts: Layouts,
    machine: Machine,
    spec: matmul_kernels.MatMul,
    made: Source,
    weights: Array,
    tail: Tail,
) -> Kernel:
    """A product by weights [K, N]."""
    spec = replace(spec, dtype=made.dtype, narrow=made.narrow)
    if made.integers is not None:
        seen = matmul_kernels.seen_zero_point(spec, machine, made.zero_point)
        tail.dequantize(made.integers, weights.astype(np.int64).sum(axis=0), seen, len(tail.form.shape) - 1)
    return _product(group, machine, spec, made.x, weights, tail)


def _shape(value: Value | None) -> Extents:
    return () if value is None else shape_of(value)


def _spread(element: Element, shape: Extents, out: Extents) -> Element:
    return broadcast(element, shape, out)


def _product(
    group: Group, machine: Machine, spec: matmul_kernels.MatMul, a: Value, right: Value | Array, tail: Tail
) -> Kernel:
    tile = matmul_kernels.tile_of(spec, machine)
    if isinstance(right, Value):
        second = Operand(right, Form(shape_of(right), dtype_of(right)))
    else:
        packed = matmul_kernels.pack(np.ascontiguousarray(right), spec, tile)
        second = Operand(packed, Form(packed.shape, str(packed.dtype)))
    epilogue, name = tail.epilogue(), group_name(group)
    return Kernel(
        name,
        f"{spec} {tile} {epilogue.key}",
        lambda: matmul_kernels.build(spec, machine, tile, epilogue, name=name),
        [Operand(a, Form(shape_of(a), spec.dtype)), second, *tail.operands.all],
        [(tail.out, tail.form)],
        equal=tail.operands.equal,
    )


def _blocked(group: Group, machine: Machine, made: Blocked, tail: Tail) -> Kernel:
    """Weights are packed in their bits, and become floats in registers."""
    shape, stored = exprs(shape_of(made.x)), made.stored
    spec = matmul_kernels.MatMul(shape[:-2], shape[-2], *made.weights.shape)
    tile = matmul_kernels.tile_of(spec, machine)
    packed = blocked_weights.pack(made.weights, made.scales, made.zeros, spec, tile, stored)
    epilogue, name = tail.epilogue(), group_name(group)
    return Kernel(
        name,
        f"{spec} {stored} {tile} {epilogue.key}",
        lambda: blocked_weights.build(spec, stored, machine, tile, epilogue, name=name),
        [
            Operand(made.x, Form(shape_of(made.x), spec.dtype)),
            *(Operand(array, Form(array.shape, str(array.dtype))) for array in packed),
            *tail.operands.all,
        ],
        [(tail.out, tail.form)],
        equal=tail.operands.equal,
    )


Template = Callable[[Group, Layouts, Machine], "Kernel | None"]
TEMPLATES: dict[str, Template] = {"Conv": _conv, "ConvTranspose": _transposed, "MatMul": _matmul, "Gemm": _gemm}
