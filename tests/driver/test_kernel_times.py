"""Races of small models: times of this machine, kept for the next time, of no other machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from planish.backends.ort.session import SessionSettings
from planish.driver import kernel_times
from planish.driver.kernel_times import KernelTimes
from planish.driver.result import Options
from planish.ir.builder import Builder
from planish.ir.dtypes import DType
from planish.ir.graph import Model
from planish.passes.target import TARGETS, get_target, native


def products(count: int) -> Model:
    """So many products of matrices, one after the other."""
    b = Builder()
    x = b.input("x", DType.F32, (64, 256))
    for i in range(count):
        x = b.MatMul(x, b.weight(f"w{i}", (256, 256), i, 0.05))
    b.output(x, "y")
    return b.model()


def test_races_are_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    target = get_target(native())
    times = KernelTimes(target, SessionSettings(), cache=True)([products(4), products(1)])
    assert times is not None
    assert 0 < times[1] < times[0]
    monkeypatch.setattr(kernel_times, "compare", None)
    again = KernelTimes(target, SessionSettings(), cache=True)([products(4), products(1)])
    assert again == pytest.approx(times, rel=1e-4)


def test_what_does_not_run_has_no_time() -> None:
    b = Builder()
    b.output(b.Gather(b.input("x", DType.F32, (4, 2)), b.input("i", DType.I64, (3,))), "y")  # indices that are floats
    assert KernelTimes(get_target(native()), SessionSettings(), cache=False)([products(1), b.model()]) is None


def test_only_this_machine_is_asked() -> None:
    here = get_target(native())
    for target in TARGETS.values():
        alike = (target.runtime, target.arch, target.vector_bits) == (here.runtime, here.arch, here.vector_bits)
        assert (kernel_times.kernel_times(Options(target), "") is not None) == alike
    assert kernel_times.kernel_times(Options(here), "no samples") is None
    assert kernel_times.kernel_times(Options(here, measure=False), "") is None
    assert kernel_times.kernel_times(Options(here, threads=4), "") is None
