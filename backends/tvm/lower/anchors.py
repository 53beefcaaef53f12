"""Kernels whose sums a template computes: what follows them elementwise goes into its write-back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ....ir.graph import Node, Value
from ..api import te, tvm
from ..groups import Group
from ..kernels import conv as conv_kernels
from ..kernels import matmul as matmul_kernels
from ..kernels.machine import Machine
from ..kernels.tile import Epilogue
from ..layout import Layouts
from ..rules.core import Context, dtype_of, static_shape
from ..rules.windows import windows
from .forms import Array, Element, Expr, Form, Index, broadcast
from .kernels import Kernel, Operand, Operands, group_name, run_rules


def anchored_kernel(group: Group, layouts: Layouts, machine: Machine) -> Kernel | None:
    """The group by a template of its first node; ``None`` where there is none for it."""
    node = group.nodes[0]
    if machine.is_gpu:
        return None
    if any(dtype_of(v) != "float32" for v in (*node.inputs, node.output) if v is not None):
        return None
    template = TEMPLATES.get(node.op)
    return template(group, layouts, machine) if template is not None else None


Spread = Callable[[Element], Element]


def _reader(buffer: Any) -> Callable[..., Expr]:
    return lambda *at: buffer[at]


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
        self.operands = Operands(layouts)
        added = self.operands.element(bias) if bias is not None else None
        if added is not None and spread is not None:
            added = spread(added)
        first: Element = (lambda index: self.sum) if added is None else (lambda index: self.sum + added(index))
        rest = group.nodes[1:]
        if rest:
            self.element = run_rules(rest, self.operands, self.form.block, {self.node.output: first})[0].element
        else:
            self.element = first
        self.placeholders = list(self.operands.read)

    def apply(self, total: Expr, index: tuple[Expr, ...], extras: Sequence[Any]) -> Expr:
        """The stored value at a physical index of the result."""
        self.sum = total
        self.operands.read = [_reader(extra) for extra in extras]
        try:
            return self.element(self._logical(index))
        finally:
            self.operands.read, self.sum = self.placeholders, None

    def _logical(self, index: tuple[Expr, ...]) -> Index:
        found = self.form.logical(index)
        return (*found[:2], found[3], found[2]) if self.turned else found

    def epilogue(self) -> Epilogue:
        """In the templates' form."""
        extras = tuple((operand.form.physical, operand.form.dtype) for operand in self.operands.all)
        return Epilogue(self.apply, extras, self.form.dtype, self._key())

    def _key(self) -> str:
        """The tail as a function of its own, over sums that lie in a tensor."""
        sums = te.placeholder(self.form.physical, "float32", name="sums")

        def fill(*index: Expr) -> Expr:
            self.sum = sums(*index)
            return self.element(self.form.logical(index))

        out = te.compute(self.form.physical, fill, name="out")
        return tvm.ir.save_json(te.create_prim_func([sums, *self.operands.tensors, out]))


def _conv(group: Group, layouts: Layouts, machine: Machine) -> Kernel | None:
    node = group.nodes[0]
    x, weights = node.inputs[0], node.inputs[1]
    assert x is not None
    assert weights is not None
    if weights.data is None or len(static_shape(x)) != 4:
        return None
    spec = conv_spec(node, layouts.form(x), layouts.form(group.outputs[0]))
    if conv_kernels.unsupported(spec) is not None:
        return None
    # A column is a row that lies across: tiles are cut from rows.
    turned = spec.width == spec.kernel[1] == 1 and spec.pads[1] == spec.pads[3] == 0 and spec.height > 1
    array = weights.data.numpy()
    source, result = layouts.form(x), layouts.form(group.outputs[0])
    if turned:
        spec, array = _turned(spec), array.swapaxes(2, 3)
        source, result = _turned_form(source), _turned_form(result)
    tail = Tail(group, layouts, node.input(2), lambda bias: lambda index: bias((index[1],)), turned=turned)
    epilogue = tail.epilogue()
    tile = conv_kernels.tiles(spec, machine)[0]
    packed = conv_kernels.pack(np.ascontiguousarray(array), spec, tile)
    operands = [Operand(x, source), Operand(packed, Form(packed.shape, str(packed.dtype)))]
    name = group_name(group)
    return Kernel(
        name,
        f"{spec} {tile} {turned} {epilogue.key}",
        lambda: conv_kernels.build(spec, machine, tile, epilogue, name=name),
        [*operands, *tail.operands.all],
        [(tail.out, result)],
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
    w = windows(context, x.shape[2:], kernel, static_shape(node.output)[2:])
    return conv_kernels.Conv(
        x.shape[0],
        x.shape[1],
        x.shape[2],
        x.shape[3],
        out.shape[1],
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
    a, b = node.inputs[0], node.inputs[1]
    assert a is not None
    assert b is not None
    shape, right = static_shape(a), static_shape(b)
    if len(shape) < 2 or len(right) < 2:
        return None
    if b.data is not None and len(right) == 2:
        spec = matmul_kernels.MatMul(shape[:-2], shape[-2], shape[-1], right[-1])
        return _product(group, layouts, machine, spec, b.data.numpy(), Tail(group, layouts, None))
    batch = static_shape(node.output)[:-2]
    if shape[:-2] != batch or len(right) != len(shape):
        return None
    spec = matmul_kernels.MatMul(batch, shape[-2], shape[-1], right[-1], packed=False, b_batch=right[:-2])
    return _product(group, layouts, machine, spec, b, Tail(group, layouts, None))


def _gemm(group: Group, layouts: Layouts, machine: Machine) -> Kernel | None:
    """A transposed operand is another order of axes; alpha goes into weights."""
    node = group.nodes[0]
    a, b = node.inputs[0], node.inputs[1]
    assert a is not None
    assert b is not None
    alpha, beta = float(node.attr("alpha", 1.0)), float(node.attr("beta", 1.0))
    if beta != 1 or (alpha != 1 and b.data is None):
        return None
    swapped = bool(node.attr("transA", 0))
    rows, depth = static_shape(a)[:: -1 if swapped else 1]
    out = static_shape(node.output)
    tail = Tail(group, layouts, node.input(2), partial(_spread, shape=_shape(node.input(2)), out=out))
    axes = (1, 0) if swapped else ()
    if b.data is None:
        b_axes = (1, 0) if node.attr("transB", 0) else ()
        spec = matmul_kernels.MatMul((), rows, depth, out[1], packed=False, a_axes=axes, b_axes=b_axes)
        return _product(group, layouts, machine, spec, b, tail)
    weights = b.data.numpy() * np.float32(alpha)
    spec = matmul_kernels.MatMul((), rows, depth, out[1], a_axes=axes)
    return _product(group, layouts, machine, spec, weights.T if node.attr("transB", 0) else weights, tail)


def _shape(value: Value | None) -> tuple[int, ...]:
    return () if value is None else static_shape(value)


def _spread(element: Element, shape: tuple[int, ...], out: tuple[int, ...]) -> Element:
    return broadcast(element, shape, out)


def _product(
    group: Group, layouts: Layouts, machine: Machine, spec: matmul_kernels.MatMul, right: Value | Array, tail: Tail
) -> Kernel:
    a = group.nodes[0].inputs[0]
    assert a is not None
    tile = matmul_kernels.tiles(spec, machine)[0]
    if isinstance(right, Value):
        second = Operand(right, Form(spec.b_shape, "float32"))
    else:
        packed = matmul_kernels.pack(np.ascontiguousarray(right), spec, tile)
        second = Operand(packed, Form(packed.shape, str(packed.dtype)))
    epilogue, name = tail.epilogue(), group_name(group)
    return Kernel(
        name,
        f"{spec} {tile} {epilogue.key}",
        lambda: matmul_kernels.build(spec, machine, tile, epilogue, name=name),
        [Operand(a, Form(spec.a_shape, "float32")), second, *tail.operands.all],
        [(tail.out, tail.form)],
    )


Template = Callable[[Group, Layouts, Machine], "Kernel | None"]
TEMPLATES: dict[str, Template] = {"Conv": _conv, "MatMul": _matmul, "Gemm": _gemm}
