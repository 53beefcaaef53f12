"""Comparing run times that a noisy machine cannot blur.

The candidates run in turns (A B C, B C A, ...), so that a slow second hits all of them; every turn gives
one ratio per candidate against the first, and the median of the ratios is the answer. Its confidence
interval is the one of order statistics: for n turns the true median lies between the k-th smallest and
the k-th largest ratio with a probability that the binomial distribution gives, whatever the noise looks
like. Single-threaded work is timed on the thread's own CPU clock, which other processes do not move.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

CONFIDENCE = 0.99
BLOCK_SECONDS = 0.002
"""Short runs are repeated within a turn until it takes this long: the clock and the caller cost microseconds."""
MIN_TURNS = 15
MAX_TURNS = 400
GOOD_WIDTH = 0.01
"""An interval this narrow (relative) is good enough to stop."""

Run = Callable[[int], object]
"""Runs once, on sample ``turn``: candidates get the same sample in the same turn."""


@dataclass(frozen=True)
class Measurement:
    """Time of one run of one candidate."""

    time_us: float
    """Median over the turns, microseconds."""
    low_us: float
    """Lower quartile."""
    high_us: float
    """Upper quartile."""
    turns: int


@dataclass(frozen=True)
class Comparison:
    """How long a candidate takes relative to the first one."""

    ratio: float
    """Median of the ratios; below 1 is faster."""
    low: float
    high: float
    """Bounds of the confidence interval of the median."""
    confidence: float
    turns: int
    times: tuple[Measurement, ...] = field(default_factory=tuple[Measurement, ...])
    """The reference's, then the candidate's."""

    @property
    def width(self) -> float:
        return (self.high - self.low) / self.ratio if self.ratio else math.inf


def measure(run: Run, *, seconds: float = 1.0, cpu_clock: bool = True) -> Measurement:
    """Times one candidate for about ``seconds``."""
    return _summary(_turns([run], seconds, cpu_clock)[0])


def compare(
    runs: Sequence[Run], *, seconds: float = 2.0, cpu_clock: bool = True, least_turns: int = MIN_TURNS
) -> list[Comparison]:
    """Times ``runs`` in turns for at most about ``seconds`` and compares each with the first.

    Returns one comparison for each candidate after the first. ``cpu_clock`` asks for the calling thread's
    CPU time, right for single-threaded work; otherwise wall time. The thread is kept on one processor.
    At least ``least_turns`` are taken, unless that takes three times as long.
    """
    times = _turns(runs, seconds, cpu_clock, least_turns)
    return [_comparison(times[0], other) for other in times[1:]]


def _turns(runs: Sequence[Run], seconds: float, cpu_clock: bool, least: int = MIN_TURNS) -> list[list[float]]:
    clock = time.thread_time_ns if cpu_clock else time.perf_counter_ns
    with _one_processor(cpu_clock):
        repeats = _warm_up(runs)
        times: list[list[float]] = [[] for _ in runs]
        order = list(range(len(runs)))
        start = time.perf_counter()
        for turn in range(MAX_TURNS):
            for i in order:
                begin = clock()
                for _ in range(repeats):
                    runs[i](turn)
                times[i].append((clock() - begin) / repeats / 1e3)
            # Rotated rather than reversed: whoever ran twice in a row would find its weights in the cache.
            order.append(order.pop(0))
            if turn + 1 >= least and (time.perf_counter() - start > seconds or _settled(times)):
                break
            if time.perf_counter() - start > 3 * seconds and turn >= 4:
                break
    return times


def _warm_up(runs: Sequence[Run]) -> int:
    """Runs everything until it is warm; returns how often a turn repeats a run."""
    fastest = math.inf
    for run in runs:
        run(0)
        for _ in range(2):
            begin = time.perf_counter()
            run(0)
            took = time.perf_counter() - begin
            fastest = min(fastest, took)
            if took > 10 * BLOCK_SECONDS:
                break
    return max(1, min(1000, math.ceil(BLOCK_SECONDS / max(fastest, 1e-7))))


def _settled(times: list[list[float]]) -> bool:
    if len(times[0]) % 8:
        return False
    if len(times) == 1:
        return len(times[0]) >= 40
    return all(_comparison(times[0], other).width < GOOD_WIDTH for other in times[1:])


def _comparison(reference: list[float], candidate: list[float]) -> Comparison:
    ratios = sorted(c / max(r, 1e-9) for r, c in zip(reference, candidate, strict=True))
    k, confidence = median_rank(len(ratios))
    return Comparison(
        _median(ratios), ratios[k], ratios[-1 - k], confidence, len(ratios), (_summary(reference), _summary(candidate))
    )


def median_rank(n: int) -> tuple[int, float]:
    """The largest ``k`` so that the median of ``n`` draws lies between the sorted draws ``k`` and ``-1-k`` with a
    probability of at least ``CONFIDENCE``, and that probability. Where no ``k`` reaches it, ``k`` is 0."""
    best = (0, 1 - 2 * math.ldexp(1.0, -n))
    below, term = 0.0, math.ldexp(1.0, -n)
    for k in range((n - 1) // 2):
        below += term
        term = term * (n - k) / (k + 1)
        if 1 - 2 * below < CONFIDENCE:
            break
        best = (k, 1 - 2 * below)
    return best


def _summary(times: list[float]) -> Measurement:
    ordered = sorted(times)
    n = len(ordered)
    return Measurement(_median(ordered), ordered[n // 4], ordered[(3 * n) // 4], n)


def _median(ordered: list[float]) -> float:
    n = len(ordered)
    return ordered[n // 2] if n % 2 else (ordered[n // 2 - 1] + ordered[n // 2]) / 2


@contextlib.contextmanager
def _one_processor(wanted: bool) -> Generator[None]:
    """Keeps the calling thread on the processor it is on, where the system can."""
    affinity = getattr(os, "sched_getaffinity", None)
    if not wanted or affinity is None:
        yield
        return
    before: set[int] = affinity(0)
    # The highest number: interrupts and other people's work tend to gather on the lowest.
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, before)
