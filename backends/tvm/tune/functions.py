"""MetaSchedule's search for functions that have no template: chains, movements, reductions, odd convolutions.

TVM's own tuner builds and runs in worker processes, each of which parses all tensor intrinsics first (50 seconds); here
its sampling and evolution run in this process and candidates are timed like every other kernel of planish, here or on a
board. What is kept is the trace of the best: the decisions that make its schedule from the function.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import tvm
from tvm import s_tir

from ....passes.target import get_target, native
from ..kernels import schedule as processors
from ..kernels.emit import tir
from ..kernels.machine import Machine
from ..kernels.math import with_math
from ..kernels.stages import EXTREMES, named_apart, program_of
from ..lower.offsets import with_offsets
from .database import Searched
from .measure import Runner, operands_of

BATCH = 8
"""Candidates between two looks at the clock."""
POPULATION = 64
MARGIN = 0.05
"""How much faster than planish's own schedule one that was found has to be."""
CLOSE = 1e-4
"""Of the largest element: what sums in another order may differ by, and far below what a wrong schedule does."""


def function_key(function: Any, machine: Machine) -> str:
    """A function as the rules made it, on a machine."""
    shapes = " ".join(f"{p.dtype}[{','.join(map(str, p.shape))}]" for p in function.params)
    digest = hashlib.sha256(tvm.ir.save_json(function).encode()).hexdigest()[:16]
    return f"{machine.processor.name} {digest} {shapes}"


def unsearchable(function: Any) -> str | None:
    """Why there is no search for a function; ``None`` where there is one."""
    if not all(isinstance(n, int | tir.IntImm) for p in function.params for n in p.shape):
        return "its extents are open"
    for stage in program_of(function).stages:
        if stage.reduced and (stage.combined is None or stage.combined[0] in EXTREMES):
            return "NaN would not go through its reduction as in ONNX Runtime"
    return None


def applied(function: Any, trace: list[Any], machine: Machine) -> Any:
    """The function with the schedule of a trace."""
    made: Any = s_tir.Schedule(_module(function))
    s_tir.schedule.Trace.apply_json_to_schedule(trace, made)
    return _finished(made, machine)


@dataclass
class Search:
    """A search for the schedule of one function."""

    function: Any
    machine: Machine
    runner: Runner
    keep: Callable[[Searched], None]
    """Called after each batch: a search that is interrupted goes on from there."""

    def run(self, known: Searched | None, trials: int, seconds: float) -> Searched:
        """Goes on from ``known`` until ``trials`` candidates were timed or ``seconds`` are over."""
        end = time.monotonic() + seconds
        own = processors.schedule(self.function, self.machine).with_attr("global_symbol", "main")
        found = known or Searched([], (first := self._time(own)), first, 0)
        with _meta_schedule() as ms:
            context, database, workload = self._context(ms, found.trials)
            if found.trace:
                self._commit(ms, database, workload, self._schedule(found.trace), found.time_us)
            left = max(0, trials - found.trials)
            spaces = context.generate_design_space()
            context.pre_tuning(left, BATCH, spaces, database, ms.cost_model.RandomModel(seed=found.trials))
            while left > 0 and time.monotonic() < end:
                candidates: list[Any] = list(context.generate_measure_candidates() or [])
                if not candidates:  # the space is exhausted
                    found = replace(found, trials=trials)
                    self.keep(found)
                    break
                results: list[Any] = []
                for candidate in candidates:
                    spent = self._time(_finished(candidate.sch, self.machine))
                    results.append(ms.runner.RunnerResult([spent / 1e6], None))
                    self._commit(ms, database, workload, candidate.sch, spent)
                    if spent < found.time_us:
                        found = replace(found, trace=_plain(candidate.sch.trace.as_json()), time_us=spent)
                context.notify_runner_results(candidates, results)
                left -= len(candidates)
                found = replace(found, trials=found.trials + len(candidates))
                self.keep(found)
            context.post_tuning()
        return self._settled(found, own)

    def _settled(self, found: Searched, own: Any) -> Searched:
        """The best beside planish's own, in turns; no trace where it is no faster, or computes something else."""
        if not found.trace:
            return found
        best = applied(self.function, found.trace, self.machine)
        own_us, best_us = self.runner.times_us([own, best], self.machine)
        kept = best_us < (1 - MARGIN) * own_us and _agree(self.function, found.trace)
        settled = Searched(found.trace if kept else [], best_us if kept else own_us, own_us, found.trials)
        self.keep(settled)
        return settled

    def _context(self, ms: Any, seed: int) -> tuple[Any, Any, Any]:
        # A target without a processor's name has no rules for intrinsics, which plain functions do not need.
        target = tvm.target.Target({"kind": "llvm", "num-cores": self.machine.processor.cores})
        strategy = ms.search_strategy.EvolutionarySearch(
            population_size=POPULATION, init_min_unmeasured=POPULATION // 4, genetic_num_iters=2
        )
        context = ms.TuneContext(
            _module(self.function),
            target=target,
            space_generator="post-order-apply",
            search_strategy=strategy,
            num_threads=1,
            rand_state=seed + 1,
        )
        database = ms.database.MemoryDatabase()
        return context, database, database.commit_workload(context.mod)

    def _commit(self, ms: Any, database: Any, workload: Any, schedule: Any, time_us: float) -> None:
        record = ms.database.TuningRecord(schedule.trace, workload, [time_us / 1e6])
        database.commit_tuning_record(record)

    def _schedule(self, trace: list[Any]) -> Any:
        made: Any = s_tir.Schedule(_module(self.function))
        s_tir.schedule.Trace.apply_json_to_schedule(trace, made)
        return made

    def _time(self, scheduled: Any) -> float:
        return self.runner.times_us([scheduled], self.machine)[0]


def _module(function: Any) -> Any:
    """A copy of all of it: schedules change in place what they take to be theirs."""
    copy: Any = tvm.ir.load_json(tvm.ir.save_json(named_apart(function)))
    return tvm.IRModule({"main": copy.with_attr("global_symbol", "main")})


def _finished(schedule: Any, machine: Machine) -> Any:
    return with_math(with_offsets(schedule.mod["main"]), machine)


def _agree(function: Any, trace: list[Any]) -> bool:
    """Whether a schedule computes here what planish's own does; schedules are of no processor."""
    machine = Machine(get_target(native()))
    found: list[list[Any]] = []
    own = processors.schedule(function, machine).with_attr("global_symbol", "main")
    for kernel in (own, applied(function, trace, machine)):
        operands: list[Any] = [tvm.runtime.tensor(a) for a in operands_of(kernel)]
        tvm.compile(kernel, target=machine.target())["main"](*operands)
        found.append([o.numpy().astype(np.float64) for o in operands])
    pairs = zip(*found, strict=True)
    return all(np.abs(a - b).max(initial=0) <= CLOSE * max(1.0, np.abs(a).max(initial=0)) for a, b in pairs)


def _plain(value: Any) -> Any:
    """TVM's containers and numbers as JSON has them."""
    if isinstance(value, str):
        return str(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, tir.IntImm):
        return int(value)
    if isinstance(value, tir.FloatImm):
        return float(value.value)
    if hasattr(value, "items"):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value]


@contextmanager
def _meta_schedule() -> Generator[Any]:
    """TVM's package, without the tensor intrinsics that making a context would import."""
    name = "tvm.s_tir.tensor_intrin"
    missing = name not in sys.modules
    if missing:
        sys.modules[name] = ModuleType(name)
    try:
        from tvm.s_tir import meta_schedule

        yield meta_schedule
    finally:
        if missing:
            del sys.modules[name]
