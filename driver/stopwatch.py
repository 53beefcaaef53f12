"""Times models as TVM runs them on this machine, for selections of lossy units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..backends.measure import Run, compare
from ..backends.ort.session import Session
from ..ir.graph import Model
from .measuring import MEASURING
from .select import Timing

if TYPE_CHECKING:
    from ..backends.core import Outputs, Sample
    from ..backends.tvm.trial import Trials
    from ..passes.target import Target

SECONDS = 1.0
"""For one timing: both models in turns."""


class TvmStopwatch:
    """See ``budget.Stopwatch``. Kernels that selections share are compiled once."""

    def __init__(
        self, target: Target, samples: Callable[[], Sequence[Sample]], legalize: Callable[[Model], Model]
    ) -> None:
        """``samples``: of the models' extents, asked for when the first model is timed; ``legalize``: the copy of a
        model that is lowered."""
        self.target, self.samples, self.legalize = target, samples, legalize
        self._base: tuple[Model, Callable[[Sample], Outputs]] | None = None

    @cached_property
    def name(self) -> str:
        """TVM with its version."""
        import tvm

        return f"tvm {tvm.__version__}"

    @cached_property
    def _trials(self) -> Trials:
        from ..backends.tvm.trial import Trials

        return Trials(self.target, lambda model: Session(model, MEASURING).run)

    @cached_property
    def _items(self) -> Sequence[Sample]:
        return self.samples()

    def timing(self, base: Model, candidate: Model) -> Timing | None:
        """In turns with the base, on the samples. Raises ``BackendError`` where a model cannot be built."""
        from ..backends.tvm.trial import threads

        if not self._items:
            return None
        if self._base is None or self._base[0] is not base:
            self._base = base, self._trials.runner(self.legalize(base))
        ours = self._trials.runner(self.legalize(candidate))
        runs = [self._turns(self._base[1]), self._turns(ours)]
        found = compare(runs, seconds=SECONDS, cpu_clock=threads() == 1)[0]
        return Timing(found.ratio, found.low, found.high, found.times[0].time_us * 1e3)

    def _turns(self, run: Callable[[Sample], Any]) -> Run:
        return lambda turn: run(self._items[turn % len(self._items)])
