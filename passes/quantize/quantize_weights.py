"""Weights of a few bits: ``W`` becomes ``scale * (codes - zero)`` by blocks, and is unpacked where it is used.

Data stays in floats (MatMulNBits at ``accuracy_level`` 4 rounds it to 8 bits by blocks, which costs 0.5 % and is what
makes it faster than the float product). A weight is stored once, whatever uses it: products, lookups, both of a tied
embedding. Each bit width is a unit of the error budget, the narrowest first; the first that is taken wins.

**Why**    an eighth or a quarter of the bytes; on processors a product of few rows is bound by reading its weight.
**Needs**  constant float32 weights of at least ``min-bytes``: of MatMul, Gemm, Gather, Conv, ConvTranspose, LSTM,
           GRU, RNN, also transposed or in bodies. Samples for the methods that look at data (gptq, awq); without them
           ``auto`` searches scales by the weights alone.
**Leaves** weights that something else uses too, that a graph returns, that hold NaN or infinities; rows that are no
           whole blocks where lookups need them; bit widths that the opset or the target has no form for.
**Numbers** approximates: by half a step of each block's scale, predicted from the data's second moments.
**Source** MatMulNBits, GatherBlockQuantized (com.microsoft-1), DequantizeLinear-21; methods: ``shared/quant/``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...ir.constants import SplatConstant
from ...ir.dtypes import DType
from ...ir.errors import PipelineError
from ...ir.graph import Model, Node, Value
from ..core import Numbers, Pass
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NoMatch
from ..shared.quant.awq import input_scales, search_scales
from ..shared.quant.blocks import Blocked
from ..shared.quant.gptq import regularized
from ..shared.quant.statistics import Kind, Observed, Statistics, Want, value_names
from ..shared.quant.weight_forms import FORMS, Emitter, Plan, Wishes, plan_for, stored_bytes
from ..shared.quant.weight_only import METHODS, Inputs, Matrix, quantize_matrix
from ..shared.weight_uses import Role, Use, matrix_of, uses_of, weights_of

Array = np.ndarray[Any, Any]
_BLOCKS = (16, 32, 64, 128, 256)
_ROUNDED_DATA = 0.006
"""Error of data that the kernel rounds to 8 bits by blocks, measured on MiniLM."""


@dataclass(frozen=True)
class _Weight:
    """A weight that may be quantized."""

    value: Value
    first: Node
    uses: list[Use]
    matrix: Matrix


@dataclass(frozen=True)
class _Quantized:
    """One weight in one form."""

    blocked: Blocked
    error: float
    scales: Array | None = None

    @property
    def nbytes(self) -> int:
        return self.blocked.codes.nbytes + self.blocked.scale.nbytes + self.blocked.zero.nbytes


@dataclass
class QuantizeWeights(Pass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.APPROXIMATES
    proposes: ClassVar[bool] = True

    bits: tuple[int, ...] = (4, 8)
    """2, 4 and 8: what is offered for each weight."""
    block: int = 32
    """Inputs that share a scale; forms with one scale for each output ignore it."""
    method: str = "auto"
    """rtn, search, hqq, gptq, awq; auto is gptq where there are samples, else search."""
    symmetric: bool = False
    """No zero points: an eighth of a bit less at blocks of 32, and more error."""
    form: str = "auto"
    """matmul-nbits, blocked-dq, channel-dq, cast; auto is the target's best."""
    accuracy: int | None = None
    """``accuracy_level`` of MatMulNBits; none: 4 on processors, where level 0 is slower than floats."""
    ops: tuple[str, ...] = ("MatMul", "Gemm", "Gather", "Conv", "ConvTranspose", "LSTM", "GRU", "RNN")
    """Operators whose weights are considered."""
    min_bytes: int = 4096
    """Smaller weights stay."""

    def run(self, model: Model, r: Rewriter) -> None:
        self._require_options()
        weights = list(self._weights(model, r))
        names = value_names(model)
        # Taken now: what weights are multiplied with is replaced as others are quantized.
        data = [[names[use.data] for use in weight.uses if use.data is not None] for weight in weights]
        statistics = self._statistics(model, data, r)
        for i, weight in enumerate(weights):
            if r.ctx.progress is not None:
                r.ctx.progress("quantizing weights", i, len(weights))
            try:
                self._quantize(weight, _Seen(statistics, data[i]), r)
            except NoMatch as declined:
                r.ctx.note(f"%{weight.value.name} {declined.reason}")

    def _require_options(self) -> None:
        """Raises ``PipelineError``."""
        for name, given, allowed in (
            ("bits", self.bits, (2, 4, 8)),
            ("block", (self.block,), _BLOCKS),
            ("method", (self.method,), METHODS),
            ("form", (self.form,), FORMS),
        ):
            wrong = [v for v in given if v not in allowed]
            if wrong:
                raise PipelineError(
                    f"option {name} is {wrong[0]}", where=self.name, help=f"expected: {', '.join(map(str, allowed))}"
                )

    def _weights(self, model: Model, r: Rewriter) -> list[_Weight]:
        """What may be quantized; notes say why the other weights are not."""
        found: list[_Weight] = []
        for graph in list(model.all_graphs()):
            for first, value in weights_of(graph):
                data = value.data
                assert data is not None
                if not _is_float(data.dtype) or len(data.shape) < 2:
                    continue
                try:
                    uses = self._uses(value)
                except NoMatch as declined:
                    if data.nbytes >= self.min_bytes or r.ctx.trace:
                        r.ctx.note(f"%{value.name} {declined.reason}")
                    continue
                found.append(_Weight(value, first, uses, matrix_of(data, uses[0].axis)))
        return found

    def _uses(self, value: Value) -> list[Use]:
        """Raises ``NoMatch``."""
        data = value.data
        if isinstance(data, SplatConstant):
            raise NoMatch("is a splat, which takes no room")
        if data is not None and data.nbytes < self.min_bytes:
            raise NoMatch(f"has {data.nbytes} bytes, fewer than {self.min_bytes}")
        if value.dtype is not DType.F32:
            raise NoMatch(f"is {value.dtype!r}, only float32 weights are quantized")
        uses = uses_of(value)
        for use in uses:
            if use.node.op not in self.ops:
                raise NoMatch(f"is a weight of {use.node.op}, the pass is asked for {', '.join(self.ops)}")
        return uses

    def _statistics(self, model: Model, data: Sequence[Sequence[str]], r: Rewriter) -> Statistics | None:
        """What is known of the data that weights are multiplied with."""
        if self.method in ("rtn", "hqq") or not data:
            return None
        if r.ctx.observe is None:
            if self.method in ("gptq", "awq"):
                r.ctx.note(f"method {self.method} needs samples (--samples FILE): weights are rounded by themselves")
            return None
        kinds = Kind.CHANNELS if self.method == "search" else Kind.CHANNELS | Kind.MOMENTS
        wants = [Want(name, kinds, axis=-1) for name in dict.fromkeys(name for names in data for name in names)]
        return r.ctx.observe(model, wants) if wants else None

    def _quantize(self, weight: _Weight, seen: _Seen, r: Rewriter) -> None:
        """Takes the narrowest width that is allowed, if any. Raises ``NoMatch`` before any change."""
        opset = (weight.first.graph or r.graph).opsets.get("", 0)
        wishes = Wishes(self.form, self.block, self.symmetric, self.accuracy)
        reasons: list[str] = []
        for bits in sorted(self.bits):
            try:
                plan = plan_for(weight.value, weight.uses, bits, wishes, r.ctx.target, opset)
            except NoMatch as declined:
                reasons.append(declined.reason)
                continue
            found = r.ctx.memo.get(
                (self._key(weight, plan), seen.key),
                lambda plan=plan: self._quantized(weight, plan, seen.data()),
                lambda q: q.nbytes,
            )
            if self._take(weight, plan, found, r):
                if r.allow_value(weight.value):
                    Emitter(r, weight.value, weight.first, plan, found.blocked, found.scales).store(weight.uses)
                return
        if reasons:  # what was offered and left is told by who left it
            raise NoMatch("; ".join(dict.fromkeys(reasons)))

    def _key(self, weight: _Weight, plan: Plan) -> object:
        """Says what a result depends on, beside data."""
        assert weight.value.data is not None
        roles = frozenset(use.role for use in weight.uses)
        return (self.name, self.method, weight.value.data.digest(), weight.uses[0].axis, roles, plan.form, plan.scheme)

    def _quantized(self, weight: _Weight, plan: Plan, inputs: _Data) -> _Quantized:
        """Raises ``NoMatch`` where the weight has numbers that cannot be scaled."""
        matrix = weight.matrix
        _require_finite(matrix)
        products = all(use.role is Role.PRODUCT for use in weight.uses)
        if self.method == "awq" and products and plan.form == "matmul-nbits" and inputs.moments is not None:
            scales = self._awq_scales(matrix, plan, inputs)
            moments = inputs.moments / np.outer(scales, scales)
            blocked, error = quantize_matrix(matrix, plan.scheme, self.method, Inputs(moments), scales)
            return _Quantized(blocked, error, scales)
        known = Inputs(inputs.moments, inputs.squares) if inputs.fits(matrix.k) else Inputs()
        blocked, error = quantize_matrix(matrix, plan.scheme, self.method, known)
        return _Quantized(blocked, error)

    def _awq_scales(self, matrix: Matrix, plan: Plan, inputs: _Data) -> Array:
        assert inputs.moments is not None
        if inputs.magnitudes is None:
            return input_scales(np.zeros(matrix.k), 0.0)
        some = matrix.rows(0, min(matrix.n, 1024))
        return search_scales([some], inputs.magnitudes, plan.scheme, inputs.moments)[1]

    def _take(self, weight: _Weight, plan: Plan, found: _Quantized, r: Rewriter) -> bool:
        data = weight.value.data
        assert data is not None
        node = weight.uses[0].node
        subject = node if len(weight.uses) == 1 and node.name else weight.value
        error = float(np.hypot(found.error, _ROUNDED_DATA if plan.accuracy >= 4 else 0.0))
        saved = data.nbytes - stored_bytes(plan, weight.matrix.n, weight.matrix.k)
        return r.take(f"{self.name}/int{plan.scheme.bits}", subject, error=error, saved_bytes=saved)


@dataclass(frozen=True)
class _Data:
    """What was seen of the data of all products with one weight."""

    moments: Array | None = None
    squares: Array | None = None
    magnitudes: Array | None = None

    def fits(self, k: int) -> bool:
        return all(a is None or len(a) == k for a in (self.moments, self.squares))


@dataclass(frozen=True)
class _Seen:
    """Where it says what was seen of the data that one weight is multiplied with."""

    statistics: Statistics | None
    names: Sequence[str]

    @property
    def key(self) -> object:
        """Says which observations a result depends on."""
        s = self.statistics
        return None if s is None else (s.model, s.samples, tuple(self.names))

    def data(self) -> _Data:
        s = self.statistics
        return _Data() if s is None else _inputs_of([s.get(name) for name in self.names])


def _inputs_of(observed: Sequence[Observed | None]) -> _Data:
    """Sums over the products, where each of them was observed."""
    if not observed or any(o is None for o in observed):
        return _Data()
    seen = [o for o in observed if o is not None]
    channels = [o.channels for o in seen if o.channels is not None and o.channels.count]
    squares = magnitudes = None
    if len(channels) == len(seen) and len({len(c.square) for c in channels}) == 1:
        total = sum(c.count for c in channels)
        squares = np.asarray(sum(c.square * (c.count / total) for c in channels))
        magnitudes = np.asarray(sum(c.absmean * (c.count / total) for c in channels))
    sums = [o.moments for o in seen if o.moments is not None and o.rows]
    if len(sums) != len(seen) or len({s.shape for s in sums}) != 1:
        return _Data(None, squares, magnitudes)
    rows = sum(o.rows for o in seen)
    return _Data(regularized(np.asarray(sum(sums)), rows), squares, magnitudes)


def _is_float(dtype: DType) -> bool:
    return dtype in (DType.F32, DType.F64, DType.F16, DType.BF16)


def _require_finite(matrix: Matrix) -> None:
    step = max(1, (1 << 22) // max(1, matrix.k))
    for start in range(0, matrix.n, step):
        if not np.isfinite(matrix.rows(start, min(start + step, matrix.n))).all():
            raise NoMatch("holds NaN or infinities")
