"""How quantized weights are written: which operators unpack them, and where that costs nothing.

``matmul-nbits``  the runtime's own kernel on packed codes (``com.microsoft::MatMulNBits``), and with it
                  ``GatherBlockQuantized`` for lookups in the same bytes
``blocked-dq``    DequantizeLinear-21 with a scale for each block; ONNX Runtime makes it MatMulNBits by itself
``channel-dq``    DequantizeLinear with one scale for each output: what compilers of other vendors read
``cast``          ``Mul(Cast(codes), scale)``: constants, which ONNX Runtime computes once when it loads the model
``rows``          lookups: rows of codes and their scales are looked up, then multiplied
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....ir.constants import ArrayConstant
from ....ir.dtypes import DType
from ....ir.graph import Graph, Node, Value
from ...rewrite.rewriter import Rewriter
from ...rewrite.rule import NoMatch
from ...target import Target
from ..emit import CONTRIB
from ..weight_uses import Role, Use
from .blocks import Blocked, BlockScheme
from .packing import SIGNED, UNSIGNED, linear_operands, nbits_operands
from .rules import QuantRules, rules_for

Array = np.ndarray[Any, Any]
FORMS = ("auto", "matmul-nbits", "blocked-dq", "channel-dq", "cast")
_CHANNEL_OPSET, _BLOCKED_OPSET, _TWO_BITS_OPSET, _CAST_OPSET = 13, 21, 25, 6


@dataclass(frozen=True)
class Plan:
    """How one weight is stored."""

    form: str
    scheme: BlockScheme
    accuracy: int = 0
    """``accuracy_level`` of MatMulNBits: 4 lets it round the data to 8 bits by blocks, too."""


@dataclass(frozen=True)
class Wishes:
    """What a user asked for."""

    form: str
    block: int
    symmetric: bool
    accuracy: int | None


def plan_for(value: Value, uses: Sequence[Use], bits: int, wishes: Wishes, target: Target | None, opset: int) -> Plan:
    """How to store a weight of such uses in ``bits``. Raises ``NoMatch`` where no form can."""
    roles = {use.role for use in uses}
    form = wishes.form
    contrib = target is not None and target.contrib
    if form == "matmul-nbits" and not contrib:
        raise NoMatch("MatMulNBits is an operator of ONNX Runtime, the target takes standard ones")
    if roles == {Role.LOOKUP}:
        return _lookup_plan(value, bits, wishes, contrib=contrib)
    if form == "auto":
        form = _best_form(roles, bits, contrib=contrib, runtime=target.runtime if target else "ort", opset=opset)
    if form == "matmul-nbits":
        return _kernel_plan(value, uses, bits, wishes, target)
    if bits < 8 and Role.LOOKUP in roles:
        raise NoMatch(f"is looked up in too, which only 8 bits allow as {form}")
    _require_opset(form, bits, opset)
    rules = rules_for(target) if target is not None else None
    if form == "blocked-dq" and roles == {Role.PRODUCT}:
        return Plan(form, _blocked_scheme(bits, wishes, rules))
    if form != "cast" and rules is not None and SIGNED[bits] not in rules.weight_only:
        raise NoMatch(f"cannot be stored in {bits} bits: {rules.name} takes no {SIGNED[bits]!r} beside float data")
    return Plan("cast" if form == "cast" else "channel-dq", BlockScheme(bits, 0, symmetric=True, positive=True))


def _blocked_scheme(bits: int, wishes: Wishes, rules: QuantRules | None) -> BlockScheme:
    """Symmetric where the runtime takes signed codes alone."""
    symmetric = wishes.symmetric
    if rules is not None:
        if wishes.block not in rules.weight_only_blocks:
            raise NoMatch(f"in blocks of {wishes.block}: {rules.name} takes {_names(rules.weight_only_blocks)}")
        symmetric = symmetric or UNSIGNED[bits] not in rules.weight_only
        if (SIGNED if symmetric else UNSIGNED)[bits] not in rules.weight_only:
            raise NoMatch(f"cannot be stored in {bits} bits: {rules.name} takes {_names(rules.weight_only)}")
    return BlockScheme(bits, wishes.block, symmetric, positive=True)


def _names(items: Iterable[object]) -> str:
    return ", ".join(sorted(map(str, items))) or "none"


def _best_form(roles: set[Role], bits: int, *, contrib: bool, runtime: str, opset: int) -> str:
    if Role.KERNEL in roles:
        return "cast" if runtime == "ort" else "channel-dq"
    if contrib and runtime == "ort":
        return "matmul-nbits"
    if opset >= _BLOCKED_OPSET and Role.LOOKUP not in roles:
        return "blocked-dq"
    return "cast" if runtime == "ort" else "channel-dq"


def _require_opset(form: str, bits: int, opset: int) -> None:
    narrow = {2: _TWO_BITS_OPSET, 4: _BLOCKED_OPSET, 8: 0}[bits]
    own = {"blocked-dq": _BLOCKED_OPSET, "channel-dq": _CHANNEL_OPSET, "cast": _CAST_OPSET}[form]
    if opset < max(narrow, own):
        raise NoMatch(f"as {form} with {bits} bits needs opset {max(narrow, own)}, the model imports {opset}")


def _lookup_plan(value: Value, bits: int, wishes: Wishes, *, contrib: bool) -> Plan:
    if bits == 8:
        return Plan("rows", BlockScheme(8, 0, symmetric=True, positive=True))
    if not contrib:
        raise NoMatch(f"is looked up in: {bits} bits need GatherBlockQuantized, an operator of ONNX Runtime")
    _require_whole_blocks(value, bits, wishes.block)
    return Plan("gather-blocks", BlockScheme(bits, wishes.block, wishes.symmetric))


def _require_whole_blocks(value: Value, bits: int, block: int) -> None:
    assert value.data is not None
    width = value.data.shape[-1]
    if width % block:
        raise NoMatch(f"is looked up in: rows of {width} are no whole blocks of {block}")


def _kernel_plan(value: Value, uses: Sequence[Use], bits: int, wishes: Wishes, target: Target | None) -> Plan:
    if any(use.role is Role.KERNEL for use in uses):
        raise NoMatch("is no second factor of a product, MatMulNBits has no other")
    for use in uses:
        x = use.data
        if x is not None and x.type is None:
            raise NoMatch("is multiplied with data of unknown type, which inline-functions finds in functions")
        if x is not None and (x.rank is None or x.rank < 2 or x.dtype is not DType.F32):
            raise NoMatch(f"is multiplied with {x.type}, MatMulNBits takes f32 of rank 2 or more")
        if use.role is Role.LOOKUP:
            _require_whole_blocks(value, bits, wishes.block)
    level = wishes.accuracy
    if level is None:
        level = 4 if target is not None and target.arch in ("x86_64", "aarch64") else 0
    return Plan("matmul-nbits", BlockScheme(bits, wishes.block, wishes.symmetric), level)


def stored_bytes(plan: Plan, n: int, k: int) -> int:
    """Bytes of codes, scales and zero points."""
    scheme = plan.scheme
    blocks = scheme.count(k)
    zeros = 0 if scheme.symmetric else -(-blocks * scheme.bits // 8)
    return n * (-(-k * scheme.bits // 8) + 4 * blocks + zeros)


# -- emitting


class Emitter:
    """Writes one quantized weight for all of its uses. ``first`` is the first node of the weight's graph that needs
    it; ``scales`` divide the data of its products first, where the weight was multiplied by them."""

    def __init__(
        self, r: Rewriter, value: Value, first: Node, plan: Plan, found: Blocked, scales: Array | None
    ) -> None:
        self.r, self.value, self.first, self.plan, self.found, self.scales = r, value, first, plan, found, scales
        assert value.data is not None
        self.shape = value.data.shape
        self.kept: dict[str, Value] = {}
        self.flat = False
        """Codes lie in one row for each output, as lookups take them."""

    def store(self, uses: Sequence[Use]) -> None:
        """Replaces every use; the weight is gone afterwards."""
        self.flat = any(use.role is Role.LOOKUP for use in uses)
        if self.plan.form in ("matmul-nbits", "gather-blocks", "rows"):
            for use in uses:
                origin = (use.node.origin or (use.node.name,)) if use.node.name else ()
                self.r.begin(use.node, tuple(origin))
                self.r.replace(*(self._looked_up(use) if use.role is Role.LOOKUP else self._product(use)))
            return
        self.r.begin(self.first, (self.value.name,))
        self.r.replace_value(self.value, self._unpacked(uses[0].axis))
        self.r.remove_constant(self.value)
        for use in [u for u in uses if u.role is Role.LOOKUP]:
            self.r.begin(use.node)
            self.r.replace(use.node, self._rows(use.node))

    def _const(self, name: str, array: Array, dtype: DType | None = None) -> Value:
        """One constant for all uses, owned by the graph that owned the weight."""
        if name not in self.kept:
            graph: Graph | None = self.value.graph
            made = self.r.const(ArrayConstant(array, dtype), name=f"{self.value.name}/{name}")
            self.kept[name] = made
            if graph is not None:
                self.r.move_constant(made, graph)
        return self.kept[name]

    # -- the runtime's kernels

    def _operands(self) -> list[Value | None]:
        """Codes ([N, bytes] where ``flat``, else [N, blocks, bytes]), scales and zero points."""
        weight, scale, zero = nbits_operands(self.found, self.plan.scheme.block)
        codes = self._const("codes", weight.reshape(len(weight), -1) if self.flat else weight)
        return [codes, self._const("scale", scale), None if zero is None else self._const("zero", zero)]

    def _product(self, use: Use) -> tuple[Node, Value]:
        """The node that is replaced and what replaces it."""
        r, node = self.r, use.node
        codes, scale, zero = self._operands()
        if self.flat:
            codes = r.Reshape(codes, np.array([len(self.found.codes), self.found.scheme.count(self.k), -1]))
        x = self._scaled(node.inputs[0])
        if node.op == "Gemm" and node.attr("transA", 0):
            x = r.Transpose(x, perm=(1, 0))
        last, bias, addend = _bias_of(node, len(self.found.codes))
        y = r.op(
            f"{CONTRIB}::MatMulNBits",
            x,
            *_trimmed([codes, scale, zero, None, bias]),
            K=self.k,
            N=len(self.found.codes),
            bits=self.plan.scheme.bits,
            block_size=self.plan.scheme.block,
            accuracy_level=self.plan.accuracy or None,
        )
        alpha = float(node.attr("alpha", 1.0)) if node.op == "Gemm" else 1.0
        if alpha != 1:
            y = r.Mul(y, alpha)
        if addend is not None:
            beta = float(node.attr("beta", 1.0))
            y = r.Add(y, addend if beta == 1 else r.Mul(addend, beta))
        return last, y

    @property
    def k(self) -> int:
        return int(self.found.codes.shape[1])

    def _scaled(self, x: Value | None) -> Value | None:
        return x if self.scales is None else self.r.Mul(x, self._const("inputs", 1 / self.scales))

    def _looked_up(self, use: Use) -> tuple[Node, Value]:
        if self.plan.form == "rows":
            return use.node, self._rows(use.node)
        codes, scale, zero = self._operands()
        scheme = self.plan.scheme
        y = self.r.op(
            f"{CONTRIB}::GatherBlockQuantized",
            codes,
            use.node.inputs[1],
            *_trimmed([scale, zero]),
            bits=scheme.bits,
            block_size=scheme.block,
            gather_axis=0,
            quantize_axis=1,
        )
        return use.node, y

    # -- standard operators

    def _linear(self, axis: int) -> tuple[Value, Array, Array | None]:
        """Codes in the weight's own shape, scales [N, blocks], zero points."""
        elements, scale, zero, dtype = linear_operands(self.found)
        rest = [d for i, d in enumerate(self.shape) if i != axis]
        placed = np.moveaxis(elements.reshape(len(elements), *rest), 0, axis)
        return self._const("codes", np.ascontiguousarray(placed), dtype), scale, zero

    def _rows(self, node: Node) -> Value:
        r = self.r
        codes, scale, _ = self._linear(0)
        ids = node.inputs[1]
        rows = r.Cast(r.Gather(codes, ids), to=DType.F32.code)
        return r.Mul(rows, r.Gather(self._const("scale", scale), ids))

    def _unpacked(self, axis: int) -> Value:
        r, form = self.r, self.plan.form
        codes, scale, zero = self._linear(axis)
        if form == "cast":
            whole = scale.reshape([-1 if i == axis else 1 for i in range(len(self.shape))])
            return r.Mul(r.Cast(codes, to=DType.F32.code), self._const("column" if axis else "scale", whole))
        if self.plan.scheme.block == 0:
            return r.DequantizeLinear(codes, self._const("factor", scale.reshape(-1)), axis=axis)
        turned = axis == 1
        operands: list[Value] = [self._const("scale", np.ascontiguousarray(scale.T) if turned else scale)]
        if zero is not None:
            operands.append(self._const("zero", np.ascontiguousarray(zero.T) if turned else zero, codes.dtype))
        return r.DequantizeLinear(codes, *operands, axis=1 - axis, block_size=self.plan.scheme.block)


def _trimmed(operands: list[Value | None]) -> list[Value | None]:
    while operands and operands[-1] is None:
        operands.pop()
    return operands


def _bias_of(node: Node, n: int) -> tuple[Node, Value | None, Value | None]:
    """The last node that is replaced, a bias [n] for the kernel, and what else is added."""
    if node.op == "Gemm":
        c = node.input(2)
        fits = c is not None and c.shape == (n,) and node.attr("alpha", 1.0) == node.attr("beta", 1.0) == 1.0
        return node, c if fits else None, None if fits else c
    users = list(node.output.uses)
    if len(users) == 1 and not users[0][0].domain and users[0][0].op == "Add":
        add, i = users[0]
        other = add.input(1 - i)
        if other is not None and other.data is not None and other.shape == (n,) and add.graph is node.graph:
            return add, other, None
    return node, None, None
