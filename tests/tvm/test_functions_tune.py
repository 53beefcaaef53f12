"""MetaSchedule for functions without a template: found, kept, gone on with, and taken by builds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")

from planish.backends.tvm.api import te
from planish.backends.tvm.backend import TvmBackend
from planish.backends.tvm.kernels.machine import Machine
from planish.backends.tvm.tune.choose import Chooser, informed, local_runner
from planish.backends.tvm.tune.database import Database, Searched, load_database
from planish.backends.tvm.tune.functions import function_key, unsearchable
from planish.driver.checks.reference import Reference
from planish.driver.kernels import tune_kernels
from planish.ir import Builder, DType
from planish.ir.errors import UsageError
from planish.ir.graph import Model
from planish.passes.target import get_target, native

TARGET = get_target(native())


def convolution(outputs: int = 8) -> tuple[Model, dict[str, np.ndarray]]:
    """Three axes of space, which no template takes."""
    draw = np.random.default_rng(5)
    b = Builder()
    x = b.input("x", DType.F32, (1, 4, 8, 10, 16))
    b.output(b.Relu(b.Conv(x, b.const(draw.standard_normal((outputs, 4, 3, 3, 3), np.float32)))), "y")
    return b.model(), {"x": draw.standard_normal((1, 4, 8, 10, 16), np.float32)}


def largest(axis: Any) -> Any:
    x = te.placeholder((4, 64), name="p0")
    k = te.reduce_axis((0, 64), "k")
    return te.create_prim_func([x, te.compute((4,), lambda i: axis(x[i, k], axis=k), name="out0")])


def test_what_is_searched() -> None:
    assert unsearchable(largest(te.sum)) is None
    assert unsearchable(largest(te.max)) == "NaN would not go through its reduction as in ONNX Runtime"
    assert function_key(largest(te.sum), Machine(TARGET)) == function_key(largest(te.sum), Machine(TARGET))
    assert function_key(largest(te.sum), Machine(TARGET)) != function_key(largest(te.max), Machine(TARGET))


def test_what_was_found_is_kept_beside_tiles(tmp_path: Path) -> None:
    path = tmp_path / "schedules.json"
    found = Searched([[["GetSBlock", [], ["C", "main"], ["b0"]]], []], 1.5, 2.5, 8)
    load_database(path).record("a", found)
    assert load_database(path) == Database(path, {}, {"a": found})
    other = Database(None, {}, {"a": Searched([], 1.0, 1.0, 1), "b": found})
    assert load_database(path).over(other).functions == {"a": found, "b": found}


def test_nothing_is_searched_without_being_asked() -> None:
    chooser = Chooser(Machine(TARGET), runner=local_runner(Machine(TARGET)))
    assert chooser.function(largest(te.sum)) is None
    assert chooser.database.functions == {}


def test_kernels_of_another_machine_want_a_board(tmp_path: Path) -> None:
    other = "rpi4" if TARGET.arch == "x86_64" else "x86-64-v3"
    with pytest.raises(UsageError, match="this machine cannot time kernels for"):
        tune_kernels(convolution()[0], other, tmp_path / "schedules.json")


@pytest.mark.slow
def test_a_search_is_kept_gone_on_with_and_taken_by_builds(tmp_path: Path) -> None:
    path, (model, feeds) = tmp_path / "schedules.json", convolution()
    tune_kernels(model, TARGET, path, trials=8, seconds=60)
    (first,) = load_database(path).functions.values()
    assert first.trials == 8
    tune_kernels(model, TARGET, path, trials=16, seconds=60)
    (found,) = load_database(path).functions.values()
    assert (found.trials, bool(found.trace)) == (16, True)
    assert found.time_us < 0.95 * found.own_us
    assert tune_kernels(model, TARGET, path, trials=16, seconds=60).seconds < 1  # nothing is left to do

    reference = Reference(model, optimizer_noise=False)
    reference.samples.append(feeds)
    libraries: list[bytes] = []
    for name, schedules in (("own", None), ("found", path)):
        artifact = TvmBackend().lower(model, TARGET, schedules=schedules)
        assert [str(c) for c in reference.compare(0, artifact.run(feeds)) if not c.equivalent] == []
        artifact.save(tmp_path / name)
        libraries.append((tmp_path / name / "lib.so").read_bytes())
    assert libraries[0] != libraries[1]
    known = informed(TARGET, path).known
    assert known is not None
    assert known(largest(te.sum)) is None
