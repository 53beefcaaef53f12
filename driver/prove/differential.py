"""Runs both sides of a cut where evaluating them exactly did not settle it, on what the model really computes there.

The values that come into the cut are recorded in the model as the pass found it, for the real samples. Where there
are none (inside bodies, in tests of rules) they are made up; then a difference says nothing, since the model may never
compute such values, and only agreement counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...backends.core import Array, Outputs, Sample
from ...backends.ort.session import Session
from ...ir.clone import clone_model
from ...ir.dtypes import DType
from ...ir.errors import BackendError, PlanishError
from ...ir.graph import Model, Port, Value
from ..bisect.judge import DIFFERENT as OTHER_NUMBERS
from ..bisect.judge import Judge, reference_for
from .cut import MAX_LEVELS, Cut, cut, wider
from .draws import made_up
from .frames import first_frame, region_frame
from .ledger import DIFFERENT, TESTED, UNCHECKED, Verdict
from .snapshot import Change

SAMPLES = 2
"""Real samples, and made-up ones, on which a cut is run."""
MAX_RECORDED_BYTES = 256 << 20
"""Of the values that come into one cut, for one sample."""


class Recorder:
    """What the model computed before the pass at work began, for the first real samples."""

    def __init__(self, model: Model, samples: Sequence[Sample]) -> None:
        self.samples = [dict(s) for s in samples[:SAMPLES]]
        self.copy = clone_model(model) if self.samples else None
        self.inputs = {v: v.name for v in model.graph.inputs if v not in model.graph.defaults}
        self.places: dict[Value, Value] = {}
        if self.copy is not None:
            for node, twin in zip(model.graph, self.copy.graph, strict=True):
                self.places.update(zip(node.outputs, twin.outputs, strict=True))

    def knows(self, value: Value) -> bool:
        return value in self.inputs or value in self.places

    def record(self, leaves: list[Value]) -> list[Sample]:
        """The leaves' values as inputs ``i0``, ``i1``, ... of a cut; nothing where the runtime refuses."""
        if self.copy is None or not all(map(self.knows, leaves)):
            return []
        inner = [self.places[v] for v in leaves if v in self.places]
        try:
            runs = [self._run(inner, sample) for sample in self.samples]
        except PlanishError:
            return []
        found: list[Sample] = []
        for sample, run in zip(self.samples, runs, strict=True):
            values = dict(zip(inner, run, strict=True))
            arrays = [values[self.places[v]] if v in self.places else sample.get(self.inputs[v]) for v in leaves]
            if all(isinstance(a, np.ndarray) for a in arrays):
                found.append({f"i{i}": np.asarray(a) for i, a in enumerate(arrays)})
        return found

    def _run(self, inner: list[Value], sample: Sample) -> Outputs:
        if not inner:
            return []
        assert self.copy is not None
        graph = self.copy.graph
        outputs, ports = list(graph.ret.inputs), graph.ports
        graph.ret.set_inputs(inner)
        graph.ports = [Port(f"inner{i}") for i in range(len(inner))]
        try:
            return Session(self.copy).run(sample)
        finally:
            graph.ret.set_inputs(outputs)
            graph.ports = ports


def tested(change: Change, recorder: Recorder | None, why: str) -> Verdict:
    """The verdict on a rewrite that the exact check left open because of ``why``."""
    real = _on_real_values(change, recorder) if recorder is not None else None
    if real is not None:
        made, samples = real
        message = _fault(made, samples)
        if message is not None and message.startswith(OTHER_NUMBERS):
            return Verdict(DIFFERENT, message)
        if message is None:
            return Verdict(TESTED, f"on {len(samples)} samples ({why})")
    made = _widest(change)
    samples = [] if made is None else _made_up(made)
    if made is None or not samples:
        return Verdict(UNCHECKED, why)
    message = _fault(made, samples)
    return Verdict(UNCHECKED, why) if message is not None else Verdict(TESTED, f"on made-up operands ({why})")


def _on_real_values(change: Change, recorder: Recorder) -> tuple[Cut, list[Sample]] | None:
    """The smallest cut whose operands are all recorded, with what they were."""
    frame = region_frame(change) or first_frame(change)
    for _ in range(4 * MAX_LEVELS):
        made = cut(frame) if frame is not None else None
        if frame is None or made is None:
            return None
        if all(map(recorder.knows, made.leaves)):
            samples = recorder.record(made.leaves)
            if sum(a.nbytes for s in samples for a in s.values()) > MAX_RECORDED_BYTES:
                return None
            return (made, samples) if samples else None
        frame = wider(frame)
    return None


def _widest(change: Change) -> Cut | None:
    """The cut with a few nodes in front of the rewrite."""
    frame = region_frame(change) or first_frame(change)
    for _ in range(MAX_LEVELS):
        more = wider(frame) if frame is not None else None
        if more is None:
            break
        frame = more
    return cut(frame) if frame is not None else None


def _made_up(made: Cut) -> list[Sample]:
    return [dict(s) for s in made_up(made.before, SAMPLES)]


def _fault(made: Cut, samples: list[Sample]) -> str | None:
    """What is wrong with the second side, or ``None``."""
    reference = reference_for(made.before, samples)
    if reference is None:
        return "the runtime refuses the operands"
    fault = Judge(reference).fault(made.after)
    return None if fault is None else str(fault)


# -- special values


def bits_differ(made: Cut) -> str | None:
    """How the two sides of a rewrite that promises every bit differ, on ordinary and on special numbers."""
    samples = _made_up(made)
    if not samples:
        return None
    try:
        before, after = Session(made.before), Session(made.after)
    except BackendError:
        return None
    for kind, items in (("ordinary numbers", samples), ("NaN, infinities or signed zeros", _special(samples))):
        for sample in items:
            try:
                pairs = list(zip(before.run(sample), after.run(sample), strict=True))
            except BackendError:
                continue
            if not all(_same_bits(a, b) for a, b in pairs):
                return kind
    return None


def _special(samples: list[Sample]) -> list[Sample]:
    """The samples with special numbers in places."""
    random = np.random.default_rng(len(samples))
    return [{name: _with_special(np.asarray(a), random) for name, a in sample.items()} for sample in samples]


def _with_special(a: Array, random: np.random.Generator) -> Array:
    if a.dtype not in (DType.F32.numpy, DType.F64.numpy, DType.F16.numpy):
        return a
    tiny = float(np.finfo(a.dtype).smallest_subnormal)
    some = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, tiny, -tiny]).astype(a.dtype)
    found: Array = a.reshape(-1).copy()
    places = np.arange(0, found.size, 3)
    found[places] = random.choice(some, len(places))
    return found.reshape(a.shape)


def _same_bits(a: Any, b: Any) -> bool:
    """Whether two outputs are equal to the bit; what is no tensor is not looked at."""
    if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)):
        return True
    return _same_arrays(a, b)  # pyright: ignore[reportUnknownArgumentType]


def _same_arrays(a: Array, b: Array) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    same = (a == b) & (np.signbit(a) == np.signbit(b))
    return bool((same | (np.isnan(a) & np.isnan(b))).all())
