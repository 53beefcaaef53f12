"""Whether a candidate runs faster than the original, and by how much a machine's noise could fool us."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import geometric_mean
from typing import TYPE_CHECKING

from ..backends.measure import Comparison, Run, compare
from ..backends.ort.session import Session, SessionSettings
from ..ir.errors import BackendError
from .document import time_text

if TYPE_CHECKING:
    from ..passes.target import Target
    from .inputs.samples import Samples
    from .sizes import Runnable

PLACEMENTS = 2
"""How often the sessions of a comparison are made anew."""
NOISE_FLOOR = 0.02
"""Differences below this fraction are not believed, however narrow the interval."""
MEASURING = SessionSettings("all", threads=1)
"""As users run it, but on one thread, where the clock is the thread's own."""


@dataclass
class Measured:
    """The optimized model's run time over the original's."""

    done: bool = False
    because: str = "not asked for"
    """Why nothing was measured."""
    ratio: float = 1.0
    """Below 1 is faster."""
    low: float = 1.0
    high: float = 1.0
    """Confidence interval of the median ratio."""
    confidence: float = 0.0
    noise: float = NOISE_FLOOR
    """How far the original measured against itself (a second session of it) was off, at least ``NOISE_FLOOR``."""
    turns: int = 0
    original_us: float = 0.0
    optimized_us: float = 0.0
    """Medians, one thread, the runtime's default optimization."""

    @property
    def slower(self) -> bool:
        """Whether it is slower beyond doubt: the whole interval lies above 1 plus the noise."""
        return self.done and self.low > 1 + self.noise

    @property
    def faster(self) -> bool:
        return self.done and self.high < 1 - self.noise

    @property
    def sentence(self) -> str:
        if not self.done:
            return f"no, {self.because}"
        verdict = "faster" if self.faster else "slower" if self.slower else "no difference beyond noise"
        return (
            f"{verdict}: {self.ratio:.3f} of the original's time ({self.low:.3f} to {self.high:.3f} with "
            f"{self.confidence:.0%} confidence, {self.turns} turns), {time_text(self.original_us)} to "
            f"{time_text(self.optimized_us)}; the original against itself is off by up to {self.noise:.1%}"
        )


def host_arch() -> str:
    """This machine's processor as targets call it."""
    machine = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)


def runs_here(target: Target) -> bool:
    """Whether this machine stands for the target."""
    return target.arch in ("any", host_arch())


def measure_pair(
    original: Runnable,
    optimized: Runnable,
    samples: Samples,
    *,
    seconds: float = 3.0,
    settings: SessionSettings = MEASURING,
    optimized_settings: SessionSettings | None = None,
) -> Measured:
    """Runs both in turns over the samples, and a second session of the original as a yardstick for the noise.

    Where the weights of a session happen to lie in memory moves its time by several percent, and no number of
    turns shows it. So it is done ``PLACEMENTS`` times with new sessions, made in another order each time.
    """
    ours = optimized_settings or settings
    if settings.threads == 1:
        ours = replace(ours, threads=1)
    plans = ((original, settings), (optimized, ours), (original, settings))
    parts: list[Measured] = []
    for placement in range(PLACEMENTS):
        order = ((0, 1, 2), (1, 0, 2))[placement % 2]
        part = _measure_once(plans, order, samples, seconds / PLACEMENTS, settings)
        if not part.done:
            return part
        parts.append(part)
    return _joined(parts)


def _joined(parts: list[Measured]) -> Measured:
    """The middle of several measurements, with an interval that spans them all."""
    whole = parts[0]
    return replace(
        whole,
        ratio=geometric_mean(p.ratio for p in parts),
        low=min(p.low for p in parts),
        high=max(p.high for p in parts),
        noise=max(p.noise for p in parts),
        turns=sum(p.turns for p in parts),
        original_us=geometric_mean(p.original_us for p in parts),
        optimized_us=geometric_mean(p.optimized_us for p in parts),
    )


def _measure_once(
    plans: Sequence[tuple[Runnable, SessionSettings]],
    order: Sequence[int],
    samples: Samples,
    seconds: float,
    settings: SessionSettings,
) -> Measured:
    """One measurement of original, candidate and original again, whose sessions are made in ``order``."""
    made: dict[int, Session] = {}
    try:
        for i in order:
            made[i] = Session(*plans[i])
    except BackendError as error:
        return Measured(because=f"a model does not load: {error.message}")
    sessions = [made[i] for i in range(len(plans))]
    items = samples.ordinary.items

    def runner(session: Session) -> Run:
        return lambda turn: session.run(items[turn % len(items)])

    try:
        found, again = compare(
            [runner(session) for session in sessions], seconds=seconds, cpu_clock=settings.threads == 1
        )
    except BackendError as error:
        return Measured(because=f"a model does not run: {error.message}")
    return _measured(found, again)


def _measured(found: Comparison, again: Comparison) -> Measured:
    # The second session is the original: whatever its median is off by, the machine did.
    off = max(abs(again.ratio - 1), min(abs(again.low - 1), abs(again.high - 1)))
    return Measured(
        True,
        "",
        found.ratio,
        found.low,
        found.high,
        found.confidence,
        max(NOISE_FLOOR, off),
        found.turns,
        found.times[0].time_us,
        found.times[1].time_us,
    )
