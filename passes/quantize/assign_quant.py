"""assign-quant: annotates values with how they are to be stored as integers; ``insert-qdq`` then writes it out.

    real = scale * (stored - zero_point)

Products (convolutions, matrix products) with constant weights are proposed one by one. Whatever else has an integer
kernel on the target runs on integers where it lies between products that do (``shared/quant/regions.py``). Values
that operators moving data connect get common parameters, over the whole model. Zero is stored exactly, so that
padding stays exact. A Relu or Clip from zero is absorbed by the range of its result.

**Why**    integer kernels are several times faster, and weights take a quarter of the room.
**Needs**  samples, from which ranges are estimated; a target whose runtime has integer kernels.
**Leaves** products with fewer than ``min-macs`` multiplications, for which the conversions cost more than they gain;
           weights that are not constants; a Concat or a movement that would give values of very different ranges one
           scale (boxes in pixels beside scores) and spoil one of them by more than ``max-shared-error``.
           Products that stay float are noted with the reason.
**Numbers** approximates: half a step for each number in range. One unit of the error budget for each product and each
           operator that computes between them.
**Source** QuantizeLinear-21; Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
           Integer-Arithmetic-Only Inference"; Nagel et al. 2021, "A White Paper on Neural Network Quantization".
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ...ir.cost import flops
from ...ir.dtypes import BY_TEXT, DType
from ...ir.graph import Model, Node, Value
from ...ir.types import Quant
from ..core import Context, Numbers, Pass
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NoMatch
from ..shared.quant.ranges import Ranges
from ..shared.quant.regions import Regions, solve
from ..shared.quant.rules import Output, QuantRules, rules_for
from ..shared.quant.scheme import LARGEST_FLOAT8, Scheme
from ..shared.quant.sites import Site, input_axis, sites_of
from ..shared.quant.statistics import Want, value_names
from ..shared.quant.weights import weight_error, weight_quant
from ..target import TARGETS

_LEAST_OPSET = 10
"""Since then there are QuantizeLinear and what runtimes fuse pairs into."""
_FLOAT8_OPSET, _BLOCK_OPSET = 19, 21
_LARGEST_BIAS = 2.0**30
"""An int32 bias stays this far below overflow, so that sums of products still fit beside it."""


@dataclass
class AssignQuant(Pass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.APPROXIMATES
    proposes: ClassVar[bool] = True

    activations: str = ""
    """Type of activations (``u8``, ``i8``, ``u16``, ``i16``; ``f8e4m3fn``, ``f8e5m2``: operands of products only, opset
    19); empty: the target's best."""
    weights: str = ""
    """Type of weights (``i8``, ``u8``, ``i4``, ``u4``, ``i16``, or float8 beside float8); empty: the target's best."""
    emulate: bool = False
    """Takes types that the target has no kernel for as well: its runtime then turns the integers back into floats and
    computes with those. The numbers are what such a kernel would give; it is not faster."""
    method: str = "mse"
    """How ranges are estimated: ``min-max``, ``moving-average``, ``percentile``, ``entropy`` or ``mse``."""
    per_channel: bool = True
    """A scale for each output channel of a weight, where the target takes that."""
    block: int = 0
    """A scale for each run of so many inputs of each output instead; opset 21, with ``emulate``."""
    ops: tuple[str, ...] = ()
    """Operators that may run on integers; empty: all that the target has kernels for."""
    min_macs: int = 1 << 16
    """Products with fewer multiplications stay float."""
    max_shared_error: float = 0.2
    """Error of a value, relative to its root mean square, that sharing a scale may cause."""

    def run(self, model: Model, r: Rewriter) -> None:
        if r.ctx.choices.idle:  # what there is to say is said where something may be taken
            return
        try:
            work = _Work(self, model, r)
        except NoMatch as declined:
            r.ctx.note(f"nothing is quantized: {declined.reason}")
            return
        work.run()


class _Work:
    """One run on one model."""

    def __init__(self, options: AssignQuant, model: Model, r: Rewriter) -> None:
        """Raises :class:`NoMatch` where nothing can be quantized."""
        self.options, self.model, self.r, self.ctx = options, model, r, r.ctx
        target = r.ctx.target or TARGETS["generic"]
        own = rules_for(target)
        self.rules = rules_for(target, BY_TEXT.get(options.activations))
        if model.opsets.get("", 0) < _LEAST_OPSET:
            raise NoMatch(f"opset {model.opsets.get('', 0)} has no integer kernels, raise-opset{{to=13}} brings them")
        self.act, self.weights = _types(options, self.rules, own)
        _require_opset(model, self.act, options)
        self.taken: dict[Node, DType] = {}
        """Type of the weight of each product that is taken."""
        self.sites, declined = sites_of(model, self.rules)
        self.sites = {n: s for n, s in self.sites.items() if not options.ops or n.op in options.ops}
        self._note_declined(declined)
        if not any(_is_weighted(s) for s in self.sites.values()):
            raise NoMatch("no product with constant weights is left to quantize")
        scheme = Scheme(self.act, self.rules.symmetric_activations, smallest_range=self.rules.smallest_range)
        self.ranges = _observed(model, self.sites.values(), scheme, options.method, r.ctx)

    def _note_declined(self, declined: dict[Node, str]) -> None:
        for node, reason in declined.items():
            if reason != "it is quantized already":
                self.ctx.note(f"{node.op} {node.name or node.output.name!r} stays float: {reason}")

    def run(self) -> None:
        products = [s for s in self.sites.values() if _is_weighted(s) and self._takes_product(s)]
        others = [s for s in self.sites.values() if not s.is_product and self._is_known(s)]
        regions = self._settled(products, others)
        self._annotate(regions)

    # -- decisions

    def _takes_product(self, site: Site) -> bool:
        """With the first type of weights that is allowed."""
        node = site.node
        for dtype in self.weights:
            try:
                error = self._product_error(site, dtype)
            except NoMatch as declined:
                self.ctx.note(f"{node.op} {node.name or node.output.name!r} stays float: {declined.reason}")
                return False
            if self._take(site, dtype, error):
                self.taken[node] = dtype
                return True
        return False

    def _take(self, site: Site, dtype: DType, error: float) -> bool:
        assert site.weight is not None
        assert site.weight.data is not None
        work = flops(site.node)
        eighths = 6 if dtype is self.weights[0] else 5  # kernels that do not saturate widen their operands
        return self.r.take(
            f"assign-quant/{self.act.text}{dtype.text}",
            site.node,
            error=error,
            saved_bytes=site.weight.data.nbytes - dtype.nbytes(site.weight.data.count),
            saved_flops=work * eighths // 8 if isinstance(work, int) else 1,  # unknown, not none
        )

    def _is_known(self, site: Site) -> bool:
        try:
            for value in (*site.data, *site.results):
                self.ranges.error(value)
        except NoMatch as declined:
            if self.ctx.trace:
                self.ctx.note(f"{site.node.op} {site.node.name!r} stays float: {declined.reason}")
            return False
        return True

    def _product_error(self, site: Site, dtype: DType) -> float:
        """Predicted error of the result. Raises :class:`NoMatch` where it must or should stay float."""
        work = flops(site.node)
        if isinstance(work, int) and work < 2 * self.options.min_macs:
            raise NoMatch(f"it does {work // 2} multiplications, fewer than {self.options.min_macs}")
        errors = [self._input_error(v) for v in site.activations]
        if site.rule.output is Output.REQUIRED:
            errors += [self.ranges.error(v) for v in site.results]
        assert site.weight is not None
        memo = self.ctx.memo
        quant = weight_quant(site.weight, self._axis(site), self._weight_scheme(dtype), memo, block=self.options.block)
        errors.append(weight_error(site.weight, quant, memo))
        return math.sqrt(sum(e * e for e in errors))

    def _input_error(self, value: Value) -> float:
        """Of the part that suffers most where the value joins several."""
        error, joined = self.ranges.error(value), value.producer
        if joined is not None and joined.op == "Concat" and not joined.domain:
            quant = self.ranges.quant(value)
            parts = [v for v in joined.inputs if v is not None and (v.data is not None or v in self.ranges)]
            error = max(error, *(self.ranges.error_with(v, quant) for v in parts)) if parts else error
        return error

    def _weight_scheme(self, dtype: DType) -> Scheme:
        return Scheme(dtype, self.rules.symmetric_weights, _saturates(self.rules, self.act, dtype))

    def _settled(self, products: list[Site], others: list[Site]) -> Regions:
        """What lies between the products, less what the budget or the shared scales would spoil."""
        left: set[Node] = set()
        while True:
            regions = solve(products, [s for s in others if s.node not in left])
            between = [s for s in regions.sites.values() if not s.is_product]
            quants = {v: q for group in regions.groups() for v, q in self.ranges.quants(group).items()}
            spoilt = {s.node: reason for s in between if (reason := self._spoilt(s, quants))}
            if not spoilt:
                spoilt = {s.node: "" for s in between if not self._takes_other(s, quants)}
            if not spoilt:
                return regions
            for node, reason in spoilt.items():
                if reason:
                    self.ctx.note(f"{node.op} {node.name or node.output.name!r} stays float: {reason}")
            left.update(spoilt)

    def _takes_other(self, site: Site, quants: dict[Value, Quant]) -> bool:
        if site.rule.equal:  # moves integers as they are
            return True
        error = max(self.ranges.error(v) for v in site.results)
        if site.rule.variadic:
            error = max(error, *(self.ranges.error_with(v, quants[site.result]) for v in site.data))
        return self.r.take(f"assign-quant/{self.act.text}", site.node, error=error)

    def _spoilt(self, site: Site, quants: dict[Value, Quant]) -> str:
        """Which value an operator that joins values of several ranges would spoil; empty where none."""
        if not (site.rule.equal or site.rule.variadic):
            return ""
        for value in (*site.activations, *site.results) if site.rule.equal else site.activations:
            error = self.ranges.error_with(value, quants[value if site.rule.equal else site.result])
            if error > self.options.max_shared_error and error > 2 * self.ranges.error(value):
                return f"its scale would move %{value.name} by {error:.2g} of its root mean square"
        return ""

    # -- annotations

    def _annotate(self, regions: Regions) -> None:
        sites = [s for s in regions.sites.values() if self.r.allow(s.node)]
        if len(sites) < len(regions.sites):  # out of fuel: what is left of them must fit together too
            regions = solve([s for s in sites if s.is_product], [s for s in sites if not s.is_product])
        for group in regions.groups():
            for value, quant in self.ranges.quants(group).items():
                self.r.annotate(value, quant)
        for site in regions.sites.values():
            if site.weight is not None:
                self._annotate_weight(site)

    def _annotate_weight(self, site: Site) -> None:
        weight = site.weight
        assert weight is not None
        assert weight.tensor is not None
        quant = self._weight_with_bias(site, weight)
        moved = weight is not site.node.inputs[site.weight_index]
        if moved or weight.tensor.quant not in (None, quant):  # or shared with a product that wants other parameters
            self.r.begin(site.node)
            assert weight.data is not None
            own = self.r.const(weight.data, name=weight.name)
            self.r.set_input(site.node, site.weight_index, own)
            weight = own
        self.r.annotate(weight, quant)

    def _weight_with_bias(self, site: Site, weight: Value) -> Quant:
        """Parameters of the weight under which the int32 bias does not overflow."""
        x = site.activations[0].tensor
        least = None
        whole = not self.options.block
        if whole and site.bias is not None and self.rules.bias is DType.I32 and x is not None and x.quant is not None:
            least = abs(site.bias.numpy().reshape(-1)).astype(float) / (x.quant.scale[0] * _LARGEST_BIAS)
        scheme = self._weight_scheme(self.taken.get(site.node, self.weights[0]))  # scales of other operators: the first
        return weight_quant(weight, self._axis(site), scheme, self.ctx.memo, least, self.options.block)

    def _axis(self, site: Site) -> int | None:
        if self.options.block and site.weight is not None and site.weight.rank:
            return input_axis(site.node, site.weight.rank)
        return site.channel_axis if self.options.per_channel else None


def _is_weighted(site: Site) -> bool:
    return site.is_product and site.weight is not None


def _saturates(rules: QuantRules, act: DType, weight: DType) -> bool:
    return rules.reduced_weights and act is DType.U8 and weight is DType.I8


def _require_opset(model: Model, act: DType, options: AssignQuant) -> None:
    """Raises :class:`NoMatch`."""
    needed = max(_FLOAT8_OPSET * (act in LARGEST_FLOAT8), _BLOCK_OPSET * bool(options.block))
    if model.opsets.get("", 0) < needed:
        what = "blocks" if needed == _BLOCK_OPSET else "float8"
        raise NoMatch(f"opset {model.opsets.get('', 0)} has no {what}, raise-opset{{to={needed}}} brings them")
    if options.block and not options.emulate:
        raise NoMatch("no runtime has integer kernels for weights by blocks; emulate=true takes them nevertheless")


def _types(options: AssignQuant, rules: QuantRules, own: QuantRules) -> tuple[DType, tuple[DType, ...]]:
    """Types of activations and weights; of weights all that are offered, where it depends on the processor which is
    faster. ``own``: the target's rules, where ``rules`` are those of a type of activations. Raises :class:`NoMatch`
    where the target has no kernel for them."""
    if not rules.activations or not rules.weights:
        raise NoMatch("; ".join([f"{rules.name} has no integer kernels", *rules.notes]))
    act, weight = rules.activations[0], rules.weights[0]
    if options.activations:
        act = _type(options.activations)
    if options.weights:
        weight = _type(options.weights)
    if (act in LARGEST_FLOAT8) != (weight in LARGEST_FLOAT8):
        raise NoMatch(f"{act.text} activations and {weight.text} weights: float8 is multiplied with float8 only")
    if not own.takes(act, weight) and not options.emulate:
        known = ", ".join(sorted(f"{a.text} x {w.text}" for a, w in own.pairs))
        raise NoMatch(
            f"{own.name} has no kernel for {act.text} activations and {weight.text} weights, only {known}; "
            "emulate=true takes them nevertheless"
        )
    if not options.weights and _saturates(rules, act, weight):
        return act, (weight, *(w for w in rules.weights if w is not weight and rules.takes(act, w)))
    return act, (weight,)


def _type(text: str) -> DType:
    found = BY_TEXT.get(text)
    if found is None or not ((found.is_integer and found.bits <= 16) or found in LARGEST_FLOAT8):
        raise NoMatch(f"{text!r} is no type to quantize to; known are u8, i8, u16, i16, u4, i4, f8e4m3fn, f8e5m2")
    return found


def _observed(model: Model, sites: Iterable[Site], scheme: Scheme, method: str, ctx: Context) -> Ranges:
    """Ranges of all that the sites compute with. Raises :class:`NoMatch` without samples."""
    if ctx.observe is None:
        raise NoMatch("ranges of activations are estimated from samples; give some with --samples")
    names = value_names(model)
    values = dict.fromkeys(v for s in sites for v in (*s.activations, *s.results))
    for joined in [v.producer for v in values if v.producer is not None and v.producer.op == "Concat"]:
        values.update((v, None) for v in joined.inputs if v is not None and v.data is None)
    statistics = ctx.observe(model, [Want(names[v]) for v in values])
    return Ranges(statistics, names, scheme, method, ctx.memo)
