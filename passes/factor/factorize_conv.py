"""factorize-conv: kernels become chains of smaller convolutions, chosen by what outputs lose on samples.

Tucker-2: 1x1 to p channels, the kernel from p to q, 1x1 to all outputs; either 1x1 is left out where it saves nothing.
In the compact form of a 1x1 (``shared/factor/compact.py``) some of its channels stay as they are. Spatial: a kh x 1 and
a 1 x kw kernel. CP: 1x1, one kernel for each channel, 1x1.

**Why**    fewer parameters and multiplications, for kernels that read or write correlated channels.
**Needs**  constant kernels of Conv and ConvTranspose, at least ``min-parameters`` large, also grouped ones (each group
           by itself, with equal ranks). Samples, from which second moments of patches are taken (of channels alone for
           ConvTranspose and very wide patches); without them the kernel's own numbers count. Each option is a unit of
           the error budget, the one with fewest parameters first; the first that is taken wins.
**Leaves** depthwise convolutions, kernels that something else uses too, 1x1 kernels of one group (which
           ``factorize-matmul`` takes), biases that are not constant, convolutions that follow each other with nothing
           between them.
**Numbers** approximates: what least squares leaves of the model's outputs by their gradients, or of the layer's outputs
           where no gradient is known; exactly that of the samples for patches.
**Source** ``shared/factor/tucker.py``, ``shared/factor/outputs.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from ...ir.constants import SplatConstant
from ...ir.cost import flops
from ...ir.errors import PipelineError
from ...ir.graph import Model, Value
from ..core import Numbers, Pass
from ..memo import Memo
from ..rewrite.rewriter import Rewriter, origin_of
from ..rewrite.rule import NoMatch
from ..shared.factor.bases import KernelBases, KernelData, kernel_data
from ..shared.factor.compact import Compact, allowed_growth
from ..shared.factor.inputs import DAMPING
from ..shared.factor.kernels import (
    Chain,
    Kernel,
    compact_chain,
    emit_chain,
    emit_compact_chain,
    emit_cp,
    emit_spatial,
    kernel_of,
)
from ..shared.factor.observed import Observations, observe_inputs
from ..shared.factor.options import COMPACT, FORMS, PAIR
from ..shared.factor.outputs import OutputMetric, OutputMetrics, observe_outputs
from ..shared.factor.products import OPSET, readers, require_no_factor
from ..shared.factor.refit import fitted
from ..shared.factor.tucker import (
    Metric,
    Weighted,
    cp,
    cp_parameters,
    improved,
    tucker_bases,
    tucker_parameters,
)

Array = np.ndarray[Any, Any]
METHODS = ("tucker", "spatial", "cp")
_OPS = ("Conv", "ConvTranspose")
_SHARES = (1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125)
"""Of the input channels, for ranks of Tucker-2: a regression each."""
_OUTPUTS = 32
"""Ranks of outputs: all come out of that regression."""
_KEPT = (*(k / 40 for k in range(39, 20, -1)), *(k / 20 for k in range(10, 1, -1)))
"""Shares of the parameters that are offered to be kept: models may have but one kernel that counts."""
_CP_ELEMENTS = 1 << 16
"""Largest kernel whose CP terms are looked for: each sweep reads it several times."""
_CP_SHARES = (0.5, 0.3, 0.15)


@dataclass(frozen=True)
class _Option:
    """One way to write a kernel."""

    method: str
    """``tucker``, ``compact`` (Tucker-2 with compact 1x1), ``spatial``, ``cp``."""
    ranks: tuple[int, ...]
    parameters: int
    error: float

    @property
    def label(self) -> str:
        return {"tucker": "t", "compact": "c", "spatial": "s", "cp": "p"}[self.method] + "x".join(map(str, self.ranks))


@dataclass(frozen=True)
class _Place:
    """A kernel with all convolutions that read it."""

    weight: Value
    kernels: list[Kernel]

    @property
    def first(self) -> Kernel:
        return self.kernels[0]


@dataclass(frozen=True)
class _Made:
    """What is written for one kernel."""

    factors: list[Array]
    """``[A, core, B]`` of all groups, ``[core]`` in the compact form, ``[column, row]``, or those of CP."""
    shift: Array
    """What the bias makes up for."""
    forms: list[Compact]
    """Of the 1x1 convolutions in the compact form."""

    @property
    def nbytes(self) -> int:
        forms = sum(f.a.nbytes + f.t.nbytes for f in self.forms)
        return self.shift.nbytes + sum(f.nbytes for f in self.factors) + forms


@dataclass
class FactorizeConv(Pass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.APPROXIMATES
    proposes: ClassVar[bool] = True

    methods: tuple[str, ...] = METHODS
    """``tucker``, ``spatial``, ``cp``."""
    forms: tuple[str, ...] = FORMS
    """Of the 1x1 convolutions of Tucker-2: ``compact`` and ``pair``."""
    kept: tuple[float, ...] = _KEPT
    """Shares of a kernel's parameters: for each the best that keeps no more is offered."""
    min_parameters: int = 1 << 10
    """Smaller kernels stay."""
    damping: float = DAMPING
    """Of the mean variance of the inputs, added to each."""
    by_model: bool = True
    """Errors count by what they do to the model's outputs, where samples say so; else to the layer's own."""

    def run(self, model: Model, r: Rewriter) -> None:
        wrong = [m for m in self.methods if m not in METHODS] + [f for f in self.forms if f not in FORMS]
        wrong += [str(share) for share in self.kept if not 0 < share < 1]
        if wrong:
            help = f"methods: {', '.join(METHODS)}; forms: {', '.join(FORMS)}; kept: shares between 0 and 1"
            raise PipelineError(f"{wrong[0]} is not valid", where="factorize-conv", help=help)
        places = self._places(model, r)
        if not places or r.ctx.choices.idle:
            return
        nodes = [k.node for place in places for k in place.kernels]
        seen = observe_inputs(model, nodes, r.ctx)
        metrics = observe_outputs(model, nodes, r.ctx) if self.by_model else OutputMetrics()
        for i, place in enumerate(places):
            if r.ctx.progress is not None:
                r.ctx.progress("factorizing kernels", i, len(places))
            try:
                self._factorize(model, place, seen, metrics, r)
            except NoMatch as declined:
                r.ctx.note(f"%{place.weight.name} stays whole: {declined.reason}")

    # -- what may be factorized

    def _places(self, model: Model, r: Rewriter) -> list[_Place]:
        if model.opsets.get("", 0) < OPSET:
            r.ctx.note(f"opset {model.opsets.get('', 0)} is too old, raise-opset{{to=13}} helps")
            return []
        found: list[_Place] = []
        for weight in dict.fromkeys(weight for _, weight in readers(model, _OPS)):
            data = weight.data
            if data is None or len(data.shape) < 3:
                continue
            if not r.ctx.trace and (data.count < self.min_parameters or _is_matrix(weight)):
                continue  # too many to be told of
            try:
                found.append(self._place(weight))
            except NoMatch as declined:
                r.ctx.note(f"%{weight.name} stays whole: {declined.reason}")
        return found

    def _place(self, weight: Value) -> _Place:
        """Raises ``NoMatch``."""
        data = weight.data
        assert data is not None
        if data.count < self.min_parameters:
            raise NoMatch(f"it has {data.count} parameters, fewer than {self.min_parameters}")
        if isinstance(data, SplatConstant):
            raise NoMatch("it is a splat, which takes no room")
        found: list[Kernel] = []
        for user, i in weight.uses:
            if user.op not in _OPS or user.domain or i != 1:
                raise NoMatch(f"it is operand {i} of {user.op} too, which needs it whole")
            require_no_factor(user)
            found.append(kernel_of(user))
        if len({(k.turned, k.groups) for k in found}) > 1:
            raise NoMatch("its readers cut it into different groups")
        return _Place(weight, found)

    # -- what is offered

    def _factorize(self, model: Model, place: _Place, seen: Observations, metrics: OutputMetrics, r: Rewriter) -> None:
        """Takes the first option that is allowed, if any; who allows says why. Raises ``NoMatch`` before any change."""
        nodes, kernel = [k.node for k in place.kernels], place.first
        data = place.weight.data
        assert data is not None
        layer = (data.digest(), kernel.turned, kernel.groups, self.damping, seen.key(nodes), metrics.key(nodes))
        key = ("factorize-conv", *layer)
        bases = KernelBases(
            kernel, r.ctx.memo, key, lambda: kernel_data(kernel, seen.of(nodes), metrics.of(nodes), self.damping)
        )
        options = r.ctx.memo.get(
            (*key, self.methods, self.forms, self.kept, len(place.kernels)),
            lambda: self._options(place, bases),
            lambda found: 200 * len(found),
        )
        if not options:
            raise NoMatch("no rank has fewer parameters")
        option = next((option for option in options if self._take(place, option, r)), None)
        if option is None:
            return
        if r.ctx.before is not None and r.ctx.before.observe is not None:
            try:
                _emit(place, option, self._refitted(model, place, option, metrics.of(nodes), r), r)
                return
            except NoMatch as declined:
                r.ctx.note(f"%{place.weight.name} is not fitted again: {declined.reason}")
        factors = r.ctx.memo.get(
            (*key, option.label), lambda: self._made(kernel, option, bases), lambda made: made.nbytes
        )
        _emit(place, option, factors, r)

    def _refitted(
        self, model: Model, place: _Place, option: _Option, metric: OutputMetric | None, r: Rewriter
    ) -> _Made:
        """For what layers in front give by now. Raises ``NoMatch``."""
        kernel, nodes = place.first, [k.node for k in place.kernels]
        if kernel.turned:
            raise NoMatch("it is transposed: its outputs are sums over overlapping windows")
        weights = kernel.weights()
        fit = fitted(model, nodes, weights.reshape(kernel.groups, -1, kernel.outputs), r.ctx, keeps_mean=True)
        fresh = replace(kernel, given=fit.matrix.reshape(weights.shape))
        bases = KernelBases(fresh, Memo(), (), lambda: kernel_data(fresh, fit.inputs, metric, self.damping))
        made = self._made(fresh, option, bases)
        made = replace(made, shift=made.shift + fit.shift)
        kernel.rounded(made.shift)
        return made

    def _options(self, place: _Place, bases: KernelBases) -> list[_Option]:
        """For each share of the parameters the best of each method, the fewest parameters first."""
        kernel, known = place.first, bases.known
        found: list[_Option] = []
        if "tucker" in self.methods:
            found += self._tucker(kernel, bases)
        if "spatial" in self.methods and all(_splits(k) for k in place.kernels):
            found += _spatial(kernel, bases.weighted, known, self.kept)
        if "cp" in self.methods and _takes_cp(kernel):
            found += _cp(kernel, bases.weighted[0], known)
        kept: dict[str, _Option] = {}
        for method in dict.fromkeys(o.method for o in found):
            for share in self.kept:
                fits = [o for o in found if o.method == method and o.parameters <= share * kernel.parameters]
                if fits:
                    best = min(fits, key=lambda o: (o.error, o.parameters))
                    kept[best.label] = best
        return sorted(kept.values(), key=lambda o: (o.parameters, o.label))

    def _tucker(self, kernel: Kernel, bases: KernelBases) -> Iterator[_Option]:
        c, s, o, g = kernel.channels, kernel.positions, kernel.outputs, kernel.groups
        ins = sorted({max(1, round(share * c)) for share in _SHARES}, reverse=True)
        outs = sorted({max(1, round(share * o / _OUTPUTS)) for share in range(1, _OUTPUTS + 1)}, reverse=True)
        known = bases.known
        metrics = [known.metric(i) for i in range(g)]
        for p in ins:
            groups = bases.at(p)
            total = sum(b.total for b in groups)
            judged = [b.losses(metric) for b, metric in zip(groups, metrics, strict=True)]
            for q in outs:
                if (p, q) == (c, o) or q > p * s:
                    continue
                lost = sum(float(losses[q]) for losses in judged)
                for form in self.forms if g == 1 else (PAIR,):
                    count = g * tucker_parameters(c, s, o, p, q, compact=form == COMPACT)
                    method = "compact" if form == COMPACT else "tucker"
                    yield _Option(method, (p, q), count, known.error(lost, total))

    # -- what is done

    def _take(self, place: _Place, option: _Option, r: Rewriter) -> bool:
        node, data = place.first.node, place.weight.data
        assert data is not None
        saved = data.count - option.parameters
        work = sum(f for k in place.kernels if isinstance(f := flops(k.node), int))
        return r.take(
            f"factorize-conv/{option.label}",
            node if len(place.kernels) == 1 and node.name else place.weight,
            error=option.error,
            saved_bytes=data.nbytes * saved // data.count,
            saved_flops=max(work * saved // data.count, 1),  # unknown, not none
        )

    def _made(self, kernel: Kernel, option: _Option, bases: KernelBases) -> _Made:
        """Raises ``NoMatch`` where numbers leave the range of the weight's type."""
        factors, forms, known = _factors(kernel, option, bases), list[Compact](), bases.known
        shift = _shift(kernel, _approximated(kernel, option, factors), known)
        if option.method in ("tucker", "compact"):
            chain = _chain(kernel, option, factors)
            if option.method == "compact":
                largest = allowed_growth(kernel.weight.dtype)
                chain, forms = compact_chain(kernel, chain, known.metrics[0].of_channels(), largest)
                factors = [chain.core]
        for array in (*factors, shift, *(a for form in forms for a in (form.a, form.t))):
            kernel.rounded(array)
        return _Made(factors, shift, forms)


def _emit(place: _Place, option: _Option, made: _Made, r: Rewriter) -> None:
    for kernel in place.kernels:
        if not r.allow(kernel.node):
            return
        bias = kernel.bias_vector() + made.shift
        r.begin(kernel.node, origin_of([kernel.node]))
        r.replace(kernel.node, _written(r, kernel, option, made, bias if kernel.bias or bias.any() else None))


def _written(r: Rewriter, kernel: Kernel, option: _Option, made: _Made, bias: Array | None) -> Value:
    factors = made.factors
    match option.method:
        case "cp":
            return emit_cp(r, kernel, (factors[0], factors[1], factors[2]), bias)
        case "spatial":
            return emit_spatial(r, kernel, factors[0], factors[1], bias)
        case "tucker":
            return emit_chain(r, kernel, _chain(kernel, option, factors), bias)
        case _:
            return emit_compact_chain(r, kernel, factors[0], made.forms, bias)


def _shift(kernel: Kernel, approximated: Array, known: KernelData) -> Array:
    """What the bias makes up for: [groups * outputs]."""
    if known.means is None:
        return np.zeros(kernel.groups * kernel.outputs)
    means = np.stack(known.means).reshape(kernel.groups, kernel.channels, kernel.positions)
    found: Array = np.einsum("gcs,gcso->go", means, kernel.weights() - approximated).reshape(-1)
    return found


def _is_matrix(weight: Value) -> bool:
    """Whether it is a 1x1 kernel of one group, which another pass takes."""
    shape = weight.shape or ()
    return all(extent == 1 for extent in shape[2:]) and all(user.attr("group", 1) == 1 for user, _ in weight.uses)


def _splits(kernel: Kernel) -> bool:
    """Whether its kernel is a matrix that can run as a column and a row."""
    plain = kernel.node.attr("auto_pad", "NOTSET") in ("NOTSET", "", "VALID")
    return not kernel.turned and plain and len(kernel.spatial) == 2 and min(kernel.spatial) > 1


def _spatial(kernel: Kernel, weighted: list[Weighted], known: KernelData, kept: tuple[float, ...]) -> Iterator[_Option]:
    c, o, g, (kh, kw) = kernel.channels, kernel.outputs, kernel.groups, kernel.spatial
    most = min(c * kh, kw * o)
    ranks = sorted({int(share * kernel.parameters / (g * (c * kh + kw * o))) for share in kept} & {*range(1, most)})
    groups = [tucker_bases(_columns(kernel, w), ranks) for w in weighted]
    total = sum(bases[0].total for bases in groups if bases)
    for i, rank in enumerate(ranks):
        lost = sum(float(bases[i].losses(known.metric(j))[o]) for j, bases in enumerate(groups))
        yield _Option("spatial", (rank,), g * rank * (c * kh + kw * o), known.error(lost, total))


def _columns(kernel: Kernel, weighted: Weighted) -> Weighted:
    """The kernel of a group with (channel, row) for channels and columns for positions."""
    kh, kw = kernel.spatial
    c, metric = kernel.channels, weighted.metric
    second = metric.second
    if second is not None and not metric.by_patches:
        second = np.kron(second, np.eye(kh))
    return Weighted(weighted.weight.reshape(c * kh, kw, kernel.outputs), Metric(second, c * kh, kw))


def _takes_cp(kernel: Kernel) -> bool:
    small = kernel.positions > 1 and kernel.parameters <= _CP_ELEMENTS
    return small and kernel.groups == 1 and not kernel.turned


def _cp(kernel: Kernel, weighted: Weighted, known: KernelData) -> Iterator[_Option]:
    c, s, o = kernel.channels, kernel.positions, kernel.outputs
    total = float((weighted.flat * weighted.moved).sum())
    for rank in dict.fromkeys(max(1, int(share * kernel.parameters / (c + s + o))) for share in _CP_SHARES):
        count = cp_parameters(c, s, o, rank)
        if count < kernel.parameters:
            residual, metric = cp(weighted.weight, weighted.metric, rank).residual, known.metric(0)
            lost = float(np.trace(residual) if metric is None else (metric * residual).sum())
            yield _Option("cp", (rank,), count, known.error(lost, total))


def _factors(kernel: Kernel, option: _Option, of: KernelBases) -> list[Array]:
    """``[A, core, B]`` of all groups, ``[column, row]`` or the three factors of CP."""
    known, weighted = of.known, of.weighted
    if option.method == "cp":
        found = cp(weighted[0].weight, weighted[0].metric, option.ranks[0])
        return [found.a, found.d, known.restored(found.b[None])[0]]
    if option.method == "spatial":
        bases = [tucker_bases(_columns(kernel, w), option.ranks)[0] for w in weighted]
        return [np.stack([b.a for b in bases]), known.restored(np.stack([b.mapped for b in bases]))]
    starts = of.at(option.ranks[0])
    if option.ranks[1] == kernel.outputs:  # all outputs: no basis of theirs, which would only rotate them
        core, whole = np.stack([s.mapped for s in starts]), np.eye(kernel.outputs)
        return [np.stack([s.a for s in starts]), known.restored(core), np.stack([whole] * kernel.groups)]
    found = [improved(w, s.tucker(option.ranks[1])) for w, s in zip(weighted, starts, strict=True)]
    a, core, b = (np.stack([getattr(t, part) for t in found]) for part in ("a", "core", "b"))
    return [a, core, known.restored(b)]


def _chain(kernel: Kernel, option: _Option, factors: list[Array]) -> Chain:
    p, q = option.ranks
    return Chain(factors[0] if p < kernel.channels else None, factors[1], factors[2] if q < kernel.outputs else None)


def _approximated(kernel: Kernel, option: _Option, factors: list[Array]) -> Array:
    """What stands for the weights [groups, channels, positions, outputs]."""
    if option.method == "cp":
        return np.einsum("cr,rs,ro->cso", *factors, optimize=True)[None]
    if option.method == "spatial":
        c, (kh, kw) = kernel.channels, kernel.spatial
        made = np.einsum("gmr,grjo->gmjo", *factors, optimize=True)
        return made.reshape(kernel.groups, c, kh * kw, kernel.outputs)
    return np.einsum("gcp,gpsq,gqo->gcso", *factors, optimize=True)
