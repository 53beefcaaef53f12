"""Times of small models, an operator or two, on this machine: what passes choose kernels by (``Context.race``)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from ..backends.measure import Run, compare
from ..backends.ort.session import Session, SessionSettings
from ..ir.errors import BackendError
from ..ir.graph import Model
from ..ir.onnx_writer import model_to_bytes
from ..passes.target import Target, get_target, native
from .result import Options
from .select import Known, Learned
from .unit_times import TimesFile

_SECONDS = 0.15
"""For one race."""
_BACKEND = "kernels"


class KernelTimes:
    """Races models against each other; what is known from before, here or in the user's cache, is not run again."""

    def __init__(self, target: Target, settings: SessionSettings, *, cache: bool) -> None:
        self.settings = replace(settings, threads=1)
        self._file = TimesFile(target, self.settings, _BACKEND) if cache else None
        self._kinds: dict[str, Learned] | None = None

    def __call__(self, models: Sequence[Model]) -> list[float] | None:
        """Nanoseconds of the first, and what the others take at the most by 99 % confidence; see ``Context.race``."""
        files = [model_to_bytes(model) for model in models]
        keys = [_digest(files[0] + file) for file in files]
        known = self._known()
        if not all(key in known for key in keys):
            found = self._measured(models, files)
            if found is None:
                return None
            day = datetime.now(UTC).date().isoformat()
            known.update({key: Learned(ns, 0.0, day) for key, ns in zip(keys, found, strict=True)})
            if self._file is not None:
                self._file.write(Known(known))
        return [known[key].ns for key in keys]

    def _known(self) -> dict[str, Learned]:
        if self._kinds is None:
            self._kinds = dict(self._file.read().kinds) if self._file is not None else {}
        return self._kinds

    def _measured(self, models: Sequence[Model], files: Sequence[bytes]) -> list[float] | None:
        try:
            runs = [self._runner(model, file) for model, file in zip(models, files, strict=True)]
            others = compare(runs, seconds=_SECONDS)
        except BackendError:
            return None
        first = others[0].times[0].time_us * 1e3
        return [first, *(first * c.high for c in others)]

    def _runner(self, model: Model, file: bytes) -> Run:
        session = Session(file, self.settings)
        rng = np.random.default_rng(0)
        sample = {
            v.name: rng.standard_normal([d for d in v.shape or () if isinstance(d, int)], np.float32)
            for v in model.graph.inputs
        }
        return lambda _: session.run(sample)


def kernel_times(options: Options, unmeasurable: str) -> KernelTimes | None:
    """For a job that may measure, on the machine that it optimizes for."""
    if not options.measure or unmeasurable or options.threads not in (None, 0, 1) or not _stands_for(options.target):
        return None
    return KernelTimes(options.target, options.settings, cache=options.cache)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _stands_for(target: Target) -> bool:
    """Whether kernels that run here are those that run on the target: the same vectors."""
    here = get_target(native())
    return target.runtime == here.runtime and (target.arch, target.vector_bits) == (here.arch, here.vector_bits)
