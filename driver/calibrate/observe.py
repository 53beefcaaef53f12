"""Runs models on calibration samples and gathers statistics of their values: what ``Context.observe`` is.

Memory is bounded whatever the number of samples: one sample at a time, wanted values in stretches of the graph that
stay under the limit, statistics of constant size. Each model runs once over the samples, however many values are
wanted.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...backends.core import Array, Sample
from ...backends.ort.arena import sharing_arena
from ...backends.ort.session import SessionSettings
from ...ir.errors import BackendError
from ...ir.graph import Model, Value
from ...ir.types import TensorType
from ...passes.shared.quant.accumulate import Accumulator, kept_bytes, passing_bytes
from ...passes.shared.quant.statistics import Kind, Observed, Statistics, Want, value_names
from ..sizes import constant_bytes
from .content import model_digest
from .derived import Derivations
from .file import CalibrationFile, Stage
from .runner import Plan, Runner, opened_nodes
from .segments import Environment
from .sizes import value_bytes, value_shapes

Progress = Callable[[str, int, int], None]
Observe = Callable[[Model, Sequence[Want]], Statistics]
MAX_MEMORY_BYTES = 1 << 30
"""What values and statistics may take together, besides the model and its own temporaries."""
STRETCH_BYTES = 128 << 20
"""What the wanted values of one stretch take at most: more memory makes nothing faster."""


LARGE_BYTES = 1 << 30
"""Constants beyond which sessions take weights as they lie, without copies that kernels would read a little faster."""
_AS_THEY_LIE = ("session.disable_prepacking", "1")


@dataclass
class _Known:
    """What was observed of one model."""

    samples: int
    values: dict[str, tuple[Want, Observed]] = field(default_factory=dict[str, "tuple[Want, Observed]"])
    declined: dict[str, str] = field(default_factory=dict[str, str])


class Observer:
    """``Context.observe`` on samples. It remembers what it saw: asking again for the same model runs nothing."""

    def __init__(
        self,
        samples: Iterable[Sample],
        *,
        max_memory_bytes: int = MAX_MEMORY_BYTES,
        threads: int = 1,
        progress: Progress | None = None,
    ) -> None:
        """``samples`` is gone through once for each model, and must start anew every time."""
        self.samples, self.max_memory_bytes, self.progress = samples, max_memory_bytes, progress
        self.settings = SessionSettings("all", threads=threads)
        self._known: dict[str, _Known] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __call__(self, model: Model, wants: Sequence[Want]) -> Statistics:
        """Raises ``BackendError`` where the model does not run."""
        digest = model_digest(model)
        known = self._known.setdefault(digest, _Known(0))
        wants = merged(wants)
        missing = [w for w in wants if w.value not in known.declined and not _covers(known.values.get(w.value), w)]
        if missing:
            wider = [_widened(w, known.values[w.value][0]) if w.value in known.values else w for w in missing]
            found = self.run(model, wider)
            known.samples = found.samples
            known.declined.update(found.declined)
            known.values.update((w.value, (w, found.values[w.value])) for w in wider if w.value in found.values)
        names = [w.value for w in wants]
        values = {name: known.values[name][1] for name in names if name in known.values}
        declined = {name: known.declined[name] for name in names if name in known.declined}
        return Statistics(digest, known.samples, values, declined)

    def remember(self, content: CalibrationFile, samples: str) -> None:
        """Takes over what a file holds of the samples with this digest."""
        for digest, stage in content.stages.items():
            if stage.complete and stage.digest == samples:
                found, wants = stage.statistics, {w.value: w for w in stage.wants}
                values = {name: (wants[name], o) for name, o in found.values.items() if name in wants}
                self._known[digest] = _Known(found.samples, values, dict(found.declined))

    def known(self, samples: str) -> dict[str, Stage]:
        """What was observed, for a file; ``samples`` is their digest."""
        stages: dict[str, Stage] = {}
        for digest, known in self._known.items():
            wants, values = [w for w, _ in known.values.values()], {n: o for n, (_, o) in known.values.items()}
            stages[digest] = Stage(Statistics(digest, known.samples, values, dict(known.declined)), wants, samples)
        return stages

    def run(self, model: Model, wants: Sequence[Want]) -> Statistics:
        """Observes, without looking at what is known."""
        observation = Observation(model, wants, self.settings, self.max_memory_bytes, self._matrix)
        for sample in self._each():
            observation.add(sample)
        return observation.finish()

    def _each(self) -> Iterator[Sample]:
        total = len(self.samples) if isinstance(self.samples, Sequence) else 0  # pyright: ignore[reportUnknownArgumentType]
        for i, sample in enumerate(self.samples):
            if self.progress is not None:
                self.progress("observing values", i, total)
            yield sample

    def _matrix(self, width: int) -> Array:
        """Zeros for sums of products; in a file, which the system may write out when memory is short, where large."""
        if 8 * width * width <= self.max_memory_bytes // 64:
            return np.zeros((width, width))
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="planish-")
        with tempfile.NamedTemporaryFile(dir=self._folder.name, delete=False) as file:
            path = Path(file.name)
        return np.memmap(path, np.float64, "w+", shape=(width, width))


class Observation:
    """One model on one sample after another."""

    def __init__(
        self,
        model: Model,
        wants: Sequence[Want],
        settings: SessionSettings,
        max_memory_bytes: int,
        matrix: Callable[[int], Array] | None = None,
        start: Statistics | None = None,
    ) -> None:
        """``start``: what was seen before, to go on from."""
        self.model, self.max_memory_bytes = model, max_memory_bytes
        large = constant_bytes(model) > LARGE_BYTES
        self.settings = replace(settings, config=(*settings.config, _AS_THEY_LIE)) if large else settings
        self.names = value_names(model)
        self.count = 0 if start is None else start.samples
        self.declined: dict[str, str] = {}
        self.accumulators: dict[Value, Accumulator] = {}
        by_name = {name: value for value, name in self.names.items()}
        for want in wants:
            value = by_name.get(want.value)
            reason = _unobservable(value)
            if reason or value is None:
                self.declined[want.value] = reason
            else:
                known = None if start is None else start.values.get(want.value)
                self.accumulators[value] = Accumulator(want, known, matrix=matrix)
        opened, unreachable = opened_nodes(model, self.accumulators)
        for value, reason in unreachable.items():
            self.declined[self.names[value]] = reason
            del self.accumulators[value]
        self._opened = frozenset(opened)
        self._derivations = Derivations(model.graph, self.accumulators)
        self._runner: Runner | None = None
        self._extents: dict[str, tuple[int, ...]] = {}

    def add(self, sample: Sample) -> None:
        """Raises ``BackendError`` where the model does not run on it."""
        environment: Environment = {}
        for value in self.model.graph.inputs:
            if value.name in sample:
                environment[value] = sample[value.name]
            elif value in self.model.graph.defaults:
                environment[value] = self.model.graph.defaults[value].numpy()
        runner = self._runner_for(sample, environment)
        try:
            runner.run(environment, self._show)
        except BackendError as error:
            raise BackendError(
                f"sample {self.count}: {error.message}", where="calibrate", origin=error.origin, help=error.help
            ) from error
        self.count += 1

    def finish(self) -> Statistics:
        """What was seen so far."""
        values = {self.names[v]: a.finish() for v, a in self.accumulators.items()}
        return Statistics("", self.count, values, dict(self.declined))

    def _show(self, value: Value, found: Any) -> None:
        if value not in self.accumulators:
            return
        try:
            self._derivations.show(value, np.asarray(found))
        except TypeError as error:
            for gone in self._derivations.without(value):
                self.declined[self.names[gone]] = str(error)

    def _runner_for(self, sample: Sample, environment: Environment) -> Runner:
        """Stretches are cut anew for a sample with a larger extent than any before."""
        larger = {name: array.shape for name, array in sample.items() if _exceeds(array.shape, self._extents.get(name))}
        if self._runner is not None and not larger:
            return self._runner
        self._extents.update((name, _largest(shape, self._extents.get(name))) for name, shape in larger.items())
        watched = self._derivations.watched
        shapes = value_shapes(self.model, sample, watched, environment, self.settings)
        bytes_ = {v: value_bytes(v, s) for v, s in shapes.items()}
        roots = self._derivations.roots
        wants = [(a.want, shapes.get(roots.get(v, v), ())) for v, a in self.accumulators.items()]
        kept = sum(kept_bytes(*w) for w in wants) + max((passing_bytes(*w) for w in wants), default=0)
        budget = min(max(self.max_memory_bytes - kept, self.max_memory_bytes // 4) // 2, STRETCH_BYTES)
        whole = sum(bytes_.values()) <= budget
        if whole and self._runner is not None and self._runner.plan.settings is self.settings:
            return self._runner
        settings = self.settings if whole else sharing_arena(self.settings)
        plan = Plan(watched, self._opened, settings, budget)
        self._runner = Runner(self.model.graph, plan, (), lambda v: bytes_.get(v, 0))
        return self._runner


def merged(wants: Iterable[Want]) -> list[Want]:
    """One for each value. Raises ``ValueError`` where two want channels along different axes of one value."""
    found: dict[str, Want] = {}
    for want in wants:
        found[want.value] = _joined(want, found[want.value]) if want.value in found else want
    return list(found.values())


def _widened(want: Want, known: Want) -> Want:
    """What is wanted, with what is known already; channels along another axis than before take their place."""
    return Want(want.value, want.kinds | known.kinds, want.axis if Kind.CHANNELS in want.kinds else known.axis)


def _joined(a: Want, b: Want) -> Want:
    if Kind.CHANNELS in a.kinds & b.kinds and a.axis != b.axis:
        raise ValueError(f"channels of {a.value!r} are wanted along axis {a.axis} and along axis {b.axis}")
    return Want(a.value, a.kinds | b.kinds, a.axis if Kind.CHANNELS in a.kinds else b.axis)


def _covers(known: tuple[Want, Observed] | None, want: Want) -> bool:
    if known is None or want.kinds & ~known[0].kinds & ~Kind.RANGE:
        return False
    return Kind.CHANNELS not in want.kinds or known[0].axis == want.axis


def _unobservable(value: Value | None) -> str:
    if value is None:
        return "the model has no value of that name"
    if value.type is not None and not isinstance(value.type, TensorType):
        return f"it is {value.type}, not a tensor"
    if value.dtype is not None and value.dtype.kind not in ("float", "int", "uint", "bool"):
        return f"its elements are {value.dtype}, not real numbers"
    return ""


def _exceeds(shape: Sequence[int], largest: Sequence[int] | None) -> bool:
    return largest is None or len(shape) != len(largest) or any(a > b for a, b in zip(shape, largest, strict=True))


def _largest(shape: tuple[int, ...], known: tuple[int, ...] | None) -> tuple[int, ...]:
    if known is None or len(known) != len(shape):
        return shape
    return tuple(max(a, b) for a, b in zip(shape, known, strict=True))


def observer(samples: Iterable[Mapping[str, Any]], **options: Any) -> Observer:
    """An observer on a list of samples: ``Context(observe=observer(samples))``."""
    return Observer([{k: np.asarray(v) for k, v in s.items()} for s in samples], **options)
