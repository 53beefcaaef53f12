"""``tune``: search for the fastest way to optimize and run a model, without writing anything."""

from __future__ import annotations

from typing import Any

from ..passes.target import Target
from .checks.validate import AnyModel
from .inputs.samples import Samples, Source
from .optimize import optimize
from .tuning.record import Tuning


def tune(
    model: AnyModel,
    target: str | Target = "generic",
    samples: Source | Samples | None = None,
    *,
    seconds: float = 60.0,
    **options: Any,
) -> Tuning:
    """Tries pipelines, leaves passes and rules out, varies the session's settings, for about ``seconds``.

    ``options`` are those of :func:`optimize`; ``optimize(..., tune=True)`` does the same and applies what was found.
    ``Tuning.plan`` is the choice, ``Tuning.trials`` every candidate with its ratio and interval. A candidate is
    chosen only if its outputs are equivalent and the measurement says faster with ``Tuning.confidence``; where
    nothing can be measured, ``Tuning.because`` says why. Raises what ``optimize`` raises for wrong arguments.
    """
    options = {"measure_seconds": 0.0, **options}
    found = optimize(model, target, samples=samples, tune=True, tune_seconds=seconds, **options).report.tuning
    assert found is not None
    return found
