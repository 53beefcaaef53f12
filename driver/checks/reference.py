"""The original model as the measure of all things: its outputs, and what rounding noise does to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...backends.core import Outputs, Sample
from ...backends.ort.isolated import IsolatedSession
from ...backends.ort.session import EXACT, Session
from ...ir.errors import BackendError, PlanishError
from ...ir.graph import Model
from ...ir.onnx_writer import model_to_bytes
from ...ir.ops import is_known, is_pure
from ..sizes import Runnable, constant_bytes, is_external
from .compare import DIFFERENT, EQUAL, SMALL, UNSTABLE, Noise, OutputCheck, check_output, leaves
from .contract import Contract
from .noise import noisy_model, noisy_sample, resolutions
from .ties import Ties
from .trial import Trial, needs_trial, too_large, too_small
from .unusual import excused

DRAWS = 3
"""Noisy copies that are run, besides the original under the runtime's optimizer."""
ISOLATED_BYTES = 64 << 20
"""Models with more constants are not sent to another process."""
POOL = 4
"""Samples over which the noise of small outputs is pooled."""


class Reference:
    """The original on the runtime, with the samples. Noise is measured only where it is asked for."""

    def __init__(
        self, model: Model, source: Runnable | None = None, *, optimizer_noise: bool = True, trusted: bool = False
    ) -> None:
        """``source`` is what runs: the file itself where there is one, so that reading it is checked as well.
        ``optimizer_noise``: the original under the runtime's optimizer is one of the draws of noise. (On odd models
        that optimizer is slow, and has crashed the process.) ``trusted``: the model is of our own making, or part of
        one that has run, and needs no first run in a process of its own.

        Raises ``BackendError`` when the runtime refuses the model at every level.
        """
        self.model = model
        self.samples: list[Sample] = []
        self.kinds: list[str] = []
        """Which trouble each sample aims at, where samples were made up (see ``trouble.py``)."""
        self.contract: Contract | None = None
        """What is promised of the models that are compared, where that is known: it decides what counts on samples
        with NaN and infinities (see ``unusual.py``)."""
        self.names = [port.name for port in model.graph.ports]
        self.resolutions = dict(zip(self.names, resolutions(model), strict=True))
        """For each output the least scale it is judged by."""
        self._source: Runnable = source if source is not None else model
        self.level, self._session = _first_session(self._source)
        self._outputs: dict[int, Outputs] = {}
        self._changes: dict[int, dict[str, Noise]] = {}
        self._noisy: list[tuple[Session | IsolatedSession, int | None]] | None = None
        self._optimizer_noise = optimizer_noise
        self._ties: Ties | None = None
        self._trial = Trial(model, self._source) if not trusted and needs_trial(model) else None
        self._trusted = trusted
        self._sizes: set[tuple[tuple[str, tuple[int, ...]], ...]] = set()
        """Shapes of inputs with which no result is too large and a first run has come through."""

    def accepts(self, sample: Sample) -> None:
        """Runs one sample for its errors. Raises ``BackendError``, and ``UsageError`` beyond the limits.

        Sizes at which only this runtime finds something to compute are refused.
        """
        reason = too_small(self.model, sample)
        if reason is not None:
            raise BackendError(reason, where="trial", help="larger inputs")
        self.run(sample)

    def run(self, sample: Sample) -> Outputs:
        """The original's outputs for any sample. Raises ``BackendError``, and ``UsageError`` beyond the limits."""
        shapes = tuple((name, array.shape) for name, array in sorted(sample.items()))
        if not self._trusted and shapes not in self._sizes:
            reason = too_large(self.model, sample)
            if reason is not None:
                raise BackendError(reason, where="trial", help="smaller inputs, or --limit value_bytes=N")
            if self._trial is not None:
                self._trial.run(sample)
            self._sizes.add(shapes)
        return self._session.run(sample)

    def end_trials(self) -> None:
        """Nothing of another size is expected soon."""
        if self._trial is not None:
            self._trial.close()

    def noisy_runs(self) -> list[Callable[[Sample], Outputs]]:
        """Runs of the original with rounding noise, one function for each draw."""

        def run(session: Session | IsolatedSession, seed: int | None) -> Callable[[Sample], Outputs]:
            return lambda sample: session.run(sample if seed is None else noisy_sample(sample, seed))

        return [run(session, seed) for session, seed in self._noisy_sessions()]

    def outputs(self, i: int) -> Outputs:
        """The original's outputs for sample number ``i``. Raises ``BackendError``."""
        if i not in self._outputs:
            self._outputs[i] = self.run(self.samples[i])
        return self._outputs[i]

    def compare(self, i: int, found: Outputs, *, tolerance: float = 0.0) -> list[OutputCheck]:
        """One result per output (sequences: per element). Noise is measured only where the floor does not suffice."""
        expected = leaves(self.names, self.outputs(i))
        actual = leaves(self.names, found)
        if [label for label, _ in expected] != [label for label, _ in actual]:
            return [_different_leaves(expected, actual)]

        def check(label: str, a: Any, b: Any, noise: Noise | None = None) -> OutputCheck:
            resolution = self.resolutions.get(label, 0.0)
            return check_output(label, a, b, sample=i, noise=noise, tolerance=tolerance, resolution=resolution)

        pairs = [(label, a, b) for (label, a), (_, b) in zip(expected, actual, strict=True)]
        checks = [check(*pair) for pair in pairs]
        if all(c.status != DIFFERENT for c in checks):
            return checks
        noise = self.noise(i)
        checks = [check(*p, noise.get(p[0])) if c.status != EQUAL else c for c, p in zip(checks, pairs, strict=True)]
        checks = [self._tied(i, c, p, check) for c, p in zip(checks, pairs, strict=True)]
        kind = self.kinds[i] if i < len(self.kinds) else ""
        return [
            excused(c, kind, p[1:], lambda a, b, p=p: check(p[0], a, b, noise.get(p[0])), self.contract)
            for c, p in zip(checks, pairs, strict=True)
        ]

    def _tied(
        self, i: int, found: OutputCheck, pair: tuple[str, Any, Any], check: Callable[[str, Any, Any], OutputCheck]
    ) -> OutputCheck:
        """The result where positions of equal values are understood, for what differs otherwise."""
        if found.status not in (DIFFERENT, UNSTABLE):
            return found
        if self._ties is None:
            self._ties = Ties(self.model, Reference)
        label, *arrays = pair
        # Without noise: what does not tie is different, though noise may have moved other elements.
        return self._ties.check(i, self.samples, label, (arrays[0], arrays[1]), check) or found

    def noise(self, i: int) -> dict[str, Noise]:
        """What rounding noise does to each output of sample ``i``; small outputs are pooled with other samples."""
        found = dict(self._change(i))
        small = [label for label, noise in found.items() if noise.amount.size < SMALL]
        if small:
            pool = [self._change(j) for j in range(min(POOL, len(self.samples))) if j != i]
            for label in small:
                largest = max((float(p[label].amount.max(initial=0.0)) for p in pool if label in p), default=0.0)
                found[label] = replace(found[label], elsewhere=largest)
        return found

    def _change(self, i: int) -> dict[str, Noise]:
        if i not in self._changes:
            base = leaves(self.names, self.outputs(i))
            runs: list[list[tuple[str, Any]]] = []
            for session, seed in self._noisy_sessions():
                sample = self.samples[i]
                try:
                    outputs = session.run(sample if seed is None else noisy_sample(sample, 1000 * seed + i))
                except BackendError:
                    continue
                runs.append(leaves(self.names, outputs))
            self._changes[i] = {label: _noise_of(label, array, runs) for label, array in base if array is not None}
        return self._changes[i]

    def is_random(self) -> str | None:
        """Why two runs of the original differ; ``None`` where they do not."""
        suspects = [n for n in self.model.all_nodes() if is_known(n) and not is_pure(n)]
        if not suspects:
            return None
        again = Session(self._source, EXACT.with_level(self.level))
        for i, sample in enumerate(self.samples):  # any of them may be the one that asks for training
            checks = zip(leaves(self.names, self.outputs(i)), leaves(self.names, again.run(sample)), strict=False)
            if any(check_output(label, a, b).status != EQUAL for (label, a), (_, b) in checks):
                node = f"{suspects[0].op} {suspects[0].name!r}"
                return f"the model draws random numbers ({node}): two runs of the original differ"
        return None

    def _optimized_by_the_runtime(self) -> Session | IsolatedSession:
        return runtime_session(self.model, self._source)

    @cached_property
    def runtime_fault(self) -> str:
        """How the original itself fails under the runtime's optimizer; empty where it does not (a large one that
        would crash is not tried)."""
        try:
            session = self._optimized_by_the_runtime()
            if self.samples:
                session.run(self.samples[0])
        except BackendError as error:
            return error.message
        return ""

    def _noisy_sessions(self) -> list[tuple[Session | IsolatedSession, int | None]]:
        if self._noisy is None:
            self._noisy = []
            builders: list[tuple[Any, int | None]] = []
            if self._optimizer_noise:
                builders.append((self._optimized_by_the_runtime, None))
            builders += [
                (lambda seed=seed: Session(noisy_model(self.model, seed)), seed) for seed in range(1, DRAWS + 1)
            ]
            for build, seed in builders:
                try:
                    self._noisy.append((build(), seed))
                except PlanishError:
                    # Noise in the inputs alone is better than none.
                    if seed is not None:
                        self._noisy.append((self._session, seed))
        return self._noisy


def runtime_session(model: Model, source: Runnable) -> Session | IsolatedSession:
    """A model under the runtime's optimizer, which has crashed on odd ones: in another process where it is small.

    ``source`` is what runs. Raises ``BackendError``, a ``RuntimeCrash`` where that process came to its end.
    """
    settings = EXACT.with_level("all")
    if constant_bytes(model) > ISOLATED_BYTES or is_external(model):
        return Session(source, settings)
    raw = source.read_bytes() if isinstance(source, Path) else source
    return IsolatedSession(raw if isinstance(raw, bytes) else model_to_bytes(raw), settings)


def _first_session(source: Runnable) -> tuple[str, Session]:
    """Without the runtime's optimizations; some models only load with them."""
    try:
        return EXACT.optimization_level, Session(source, EXACT)
    except BackendError as first:
        try:
            return "all", Session(source, EXACT.with_level("all"))
        except BackendError:
            raise first from None


def _noise_of(label: str, base: Any, runs: list[list[tuple[str, Any]]]) -> Noise:
    amount = np.zeros(base.shape)
    flips, reshaped = 0, False
    for run in runs:
        found = dict(run).get(label)
        if found is None or found.shape != base.shape:
            reshaped = True
            continue
        if base.dtype.kind in "fV":
            x, y = base.astype(np.float64), found.astype(np.float64)
            usable = np.isfinite(x) & np.isfinite(y)
            with np.errstate(invalid="ignore"):
                amount = np.maximum(amount, np.where(usable, np.abs(x - y), 0.0))
            flips = max(flips, int((~usable & ~((x == y) | (np.isnan(x) & np.isnan(y)))).sum()))
        else:
            flips = max(flips, int(np.asarray(base != found, bool).sum()))
    return Noise(amount, flips, reshaped)


def _different_leaves(expected: list[tuple[str, Any]], actual: list[tuple[str, Any]]) -> OutputCheck:
    a, b = [label for label, _ in expected], [label for label, _ in actual]
    odd = next((label for label in [*a, *b] if (label in a) != (label in b)), "?")
    return OutputCheck(
        odd, DIFFERENT, used=np.inf, reason=f"{len(b)} values were returned, expected {len(a)}: {odd} is odd"
    )
