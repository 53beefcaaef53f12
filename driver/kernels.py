"""``tune_kernels``: times schedules of a model's kernels for TVM, here or on a board, and keeps the best."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ir.errors import UsageError
from ..ir.safe_files import output_path
from ..passes.target import Target, get_target
from .deploy import for_passes, legalized
from .document import SCHEMA, Document, Text
from .optimize import optimize

if TYPE_CHECKING:
    from ..backends.tvm.tune.database import Database
    from ..backends.tvm.tune.measure import Runner
    from .checks.validate import AnyModel


@dataclass
class TunedKernels:
    """What was measured."""

    path: Path
    """The file with the schedules."""
    target: str
    products: int
    """Convolutions and products in it; of other models too where it existed."""
    functions: int
    """Functions for which a faster schedule was searched."""
    faster: int
    """Those of both whose best is not what is taken without measuring."""
    seconds: float
    complete: bool
    """Whether the time was enough for all."""

    def to_dict(self) -> dict[str, Any]:
        return {"schema": SCHEMA} | {**vars(self), "path": str(self.path)}

    def document(self) -> Document:
        searched = f" and {self.functions} functions without a template" if self.functions else ""
        end = "" if self.complete else "; the time was over before all were measured: the same command goes on"
        return [
            Text(
                f"{self.path}: {self.products} convolutions and products{searched} on {self.target}, {self.faster} of "
                f"them faster than unmeasured; {self.seconds:.0f} s of measuring{end}"
            )
        ]


def tune_kernels(
    model: AnyModel,
    target: str | Target,
    database: Path,
    *,
    dims: Mapping[str, int] | None = None,
    seconds: float = 120.0,
    trials: int = 0,
    board: str | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> TunedKernels:
    """Times candidates for the model's kernels that ``database`` does not know yet, and keeps the best there.

    ``trials``: schedules of TVM's MetaSchedule for each function without a template. ``board``: ``host:port`` of a
    board's server or ``host:port/key`` of a tracker; without it this machine measures, which has to be such a target.
    Each outcome is written at once: Ctrl-C loses nothing, and the same call goes on. Raises ``UsageError`` where this
    machine is no such target or ``database`` cannot be a file, ``BackendError`` where a board does not answer.
    """
    from ..backends.tvm.kernels.machine import Machine
    from ..backends.tvm.tune.choose import Chooser
    from ..backends.tvm.tune.database import load_database

    chosen = get_target(target) if isinstance(target, str) else target
    machine = Machine(chosen)
    database = output_path(database)
    runner = _runner(machine, board, seconds)
    kept = load_database(database)
    chooser = Chooser(machine, kept, runner, seconds, progress, trials)
    result = optimize(model, for_passes(chosen), dims=dims, measure=False, validate="structure")
    _lower(result.model, chosen, Machine(chosen, chooser.tile, chooser.function))
    return TunedKernels(
        database,
        chosen.name,
        len(kept.entries),
        len(kept.functions),
        _faster(kept),
        round(chooser.spent, 1),
        chooser.spent < seconds,
    )


def _runner(machine: Any, board: str | None, seconds: float) -> Runner:
    from ..backends.tvm.tune.board import Board
    from ..backends.tvm.tune.choose import local_runner

    if board is not None:
        return Board.parse(board).runner(machine.processor, seconds)
    here = local_runner(machine)
    if here is None:
        raise UsageError(
            f"this machine cannot time kernels for {machine.processor.name}",
            where="tune-kernels",
            help="--board HOST:PORT names one that can, see docs/arm.md",
        )
    return here


def _lower(model: Any, target: Target, machine: Any) -> None:
    """Asks for a schedule of every kernel, as a build does; nothing is compiled but candidates."""
    from ..backends.tvm.lower.program import Module
    from ..backends.tvm.partition import computed
    from ..backends.tvm.ready import readied

    module = Module(machine)
    for i, graph in enumerate(computed(readied(legalized(model, target), machine)[1])):
        module.lower(graph, f"main{i}")


def _faster(database: Database) -> int:
    return sum(e.time_us < e.first_us for e in database.entries.values()) + sum(
        bool(f.trace) for f in database.functions.values()
    )
