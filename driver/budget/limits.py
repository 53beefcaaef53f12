"""``Budget``: how far an optimized model may be from the original, in output units or in a task's own measure."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, cast

from ...ir.errors import UsageError
from .metrics import METRICS

TaskMetric: TypeAlias = Callable[..., float]


@dataclass(frozen=True)
class Budget:
    """What lossy passes, and the rounding of the others, may cost together.

    With a named metric every output of every sample is judged, and every slice of it along an axis (channels,
    classes, positions) that has at least 16 elements: a small mean error cannot hide a lost channel. Outputs that
    are no floats must stay equal.

    * ``relative`` (the default): largest difference over the largest magnitude of the element's slice;
    * ``absolute``: largest difference, in the output's units;
    * ``rms``: root mean square of the difference over that of the slice;
    * ``cosine``: 1 - cosine of the angle between the slices;
    * ``snr``: here ``max_error`` is the *least* ratio of signal to noise of a slice, in decibels.

    A callable measures the task: ``metric(outputs, samples) -> float``, with a mapping from output name to array for
    each sample, and what ``labels`` holds in place of the samples where it is given; ``max_error`` is the drop
    (the rise, where lower is better) of its result that is allowed. With ``runs`` it is called as ``metric(run)``,
    where ``run(sample)`` returns the outputs in order, for tasks that choose their own inputs.
    """

    max_error: float
    metric: str | TaskMetric = "relative"
    outputs: Mapping[str, float] = field(default_factory=dict[str, float])
    """Limits of single outputs in place of ``max_error``; ``math.inf`` leaves one unjudged. Named metrics only."""
    higher_is_better: bool = True
    labels: Any = None
    runs: bool = False
    max_evaluations: int | None = None
    """How many selections of lossy changes may be measured; ``None``: about four times the logarithm of their number,
    see ``search.py``."""

    def __post_init__(self) -> None:
        """Raises ``UsageError``."""
        task = callable(self.metric)
        if not task and self.metric not in METRICS:
            _fail(f"there is no metric {self.metric!r}", f"one of {', '.join(METRICS)}, or a callable")
        limits = {"max_error": self.max_error, **self.outputs}
        for name, limit in limits.items():
            if math.isnan(limit) or limit < 0 or (self.metric == "snr" and limit == 0):
                least = "above 0" if self.metric == "snr" else "at least 0"
                _fail(f"the limit {limit} of {name} is no error that can be allowed", f"give a number, {least}")
        if self.outputs and task:
            _fail("limits of single outputs go with a named metric", "let the callable weigh the outputs")
        if self.runs and not task:
            _fail(f"runs=True goes with a callable, the metric is {self.metric!r}", "leave runs out")
        if self.max_evaluations is not None and self.max_evaluations < 3:
            _fail(f"max_evaluations is {self.max_evaluations}, the least is 3", "none, all, and one selection")

    @property
    def name(self) -> str:
        """The metric in reports."""
        if isinstance(self.metric, str):
            return self.metric
        metric: Any = self.metric
        while isinstance(metric, partial):
            metric = metric.func
        return str(getattr(metric, "__qualname__", type(metric).__qualname__))

    def limit(self, output: str) -> float:
        """What ``output`` (a label: ``y``, ``y[2]`` in a sequence) may be off by."""
        return self.outputs.get(output, self.outputs.get(output.partition("[")[0], self.max_error))

    def tightened(self, share: float) -> Budget:
        """The budget of which only a share (of amplitudes) may be spent."""

        def part(limit: float) -> float:
            return limit - 20 * math.log10(share) if self.metric == "snr" else limit * power

        power = share**2 if self.metric == "cosine" else share  # which grows with the square of the angle
        return replace(self, max_error=part(self.max_error), outputs={n: part(e) for n, e in self.outputs.items()})

    @property
    def sentence(self) -> str:
        """The budget in words."""
        if not isinstance(self.metric, str):
            change = "drop" if self.higher_is_better else "rise"
            return f"{self.name} may {change} by {self.max_error:g}"
        least = "at least" if self.metric == "snr" else "at most"
        own = "".join(f", {name} {limit:g}" for name, limit in self.outputs.items())
        return f"{self.metric} {least} {self.max_error:g}{own}, on every output and slice"


def load_metric(text: str) -> str | TaskMetric:
    """A named metric, or the callable that ``module:function`` or ``file.py:function`` names. Raises ``UsageError``.

    Modules are looked for in the current folder as well.
    """
    if text in METRICS:
        return text
    place, _, name = text.rpartition(":")
    if not place:
        _fail(f"there is no metric {text!r}", f"one of {', '.join(METRICS)}, or module:function")
    try:
        module = _module_from_file(Path(place)) if place.endswith(".py") else _module(place)
        found: Any = module
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # whatever a user's module raises while it loads
        _fail(f"metric {text!r} cannot be loaded: {type(error).__name__}: {error}", "check the module's name and code")
    if not callable(found):
        _fail(f"metric {text!r} is a {type(found).__name__}, expected a function", "name a function")
    return cast("TaskMetric", found)


def _module(name: str) -> Any:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)


def _module_from_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _fail(message: str, help: str) -> NoReturn:
    raise UsageError(message, where="budget", help=help)
