"""Times of kernels: on this machine, or on a board behind TVM's RPC."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tvm

from ..kernels.machine import Machine

ROUNDS = 8
BLOCK_SECONDS = 0.001
"""Short runs are repeated within a round until it takes this long."""


class Runner(Protocol):
    """Where kernels are timed."""

    def times_us(self, kernels: Sequence[Any], machine: Machine) -> list[float]:
        """The best time of a run of each kernel, microseconds; one thread where the machine's library has one."""
        ...


class Local:
    """This machine: candidates in turns, the best of several rounds of each."""

    def times_us(self, kernels: Sequence[Any], machine: Machine) -> list[float]:
        runs = [self._run(kernel, machine) for kernel in kernels]
        repeats = [_repeats(run) for run in runs]
        best = [math.inf] * len(runs)
        for _ in range(ROUNDS):
            for i, run in enumerate(runs):
                best[i] = min(best[i], _timed(run, repeats[i]))
        return [t * 1e6 for t in best]

    def _run(self, kernel: Any, machine: Machine) -> Callable[[], object]:
        built: Any = tvm.compile(kernel, target=machine.target())
        name = str(kernel.attrs["global_symbol"])
        function = built[name]
        operands: list[Any] = [tvm.runtime.tensor(a) for a in operands_of(kernel)]
        return lambda: function(*operands)


class Remote:
    """A board: ``session`` is one of ``tvm.rpc.connect`` or of a tracker's ``request``. ``link`` makes a library
    that the board can load, ``export_library(path)`` with a cross-compiler."""

    def __init__(self, session: Any, link: Callable[[Any, Path], object]) -> None:
        self.session, self.link = session, link
        self.sent = 0
        """Libraries so far: each has a file of its own on the board, where the ones before are still loaded."""

    def times_us(self, kernels: Sequence[Any], machine: Machine) -> list[float]:
        return [self._time_us(kernel, machine) for kernel in kernels]

    def _time_us(self, kernel: Any, machine: Machine) -> float:
        device = self.session.cpu(0)
        with tempfile.TemporaryDirectory() as folder:
            self.sent += 1
            path = Path(folder) / f"kernel{self.sent}.so"
            self.link(tvm.compile(kernel, target=machine.target()), path)
            self.session.upload(str(path))
        library = self.session.load_module(f"kernel{self.sent}.so")
        operands: list[Any] = [tvm.runtime.tensor(a, device) for a in operands_of(kernel)]
        name = str(kernel.attrs["global_symbol"])
        milliseconds = max(1, round(1000 * BLOCK_SECONDS))
        evaluator = library.time_evaluator(name, device, number=1, repeat=ROUNDS, min_repeat_ms=milliseconds)
        return min(evaluator(*operands).results) * 1e6


def operands_of(kernel: Any) -> list[np.ndarray[Any, Any]]:
    """Random operands, outputs among them, for a kernel of known extents."""
    rng = np.random.default_rng(0)
    return [_random(rng, tuple(int(n) for n in p.shape), str(np.dtype(str(p.dtype)))) for p in kernel.params]


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray[Any, Any]:
    if np.dtype(dtype).kind == "f":
        return rng.uniform(-1, 1, shape).astype(dtype)
    return rng.integers(0, 64, shape).astype(dtype)


def _repeats(run: Callable[[], object]) -> int:
    run()
    return max(1, min(1000, math.ceil(BLOCK_SECONDS / max(_timed(run, 1), 1e-7))))


def _timed(run: Callable[[], object], repeats: int) -> float:
    begin = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - begin) / repeats
