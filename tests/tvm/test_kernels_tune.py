"""Choosing schedules: by measuring, from the database, within a time, on boards behind RPC."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from planish.ir.errors import BackendError
from planish.passes.target import get_target, native

tvm = pytest.importorskip("tvm")

from planish.backends.tvm.kernels import conv as convs  # noqa: E402
from planish.backends.tvm.kernels.conv import Conv  # noqa: E402
from planish.backends.tvm.kernels.machine import Machine  # noqa: E402
from planish.backends.tvm.kernels.matmul import MatMul  # noqa: E402
from planish.backends.tvm.tune.choose import Chooser, key_of, local_runner, with_usual_extents  # noqa: E402
from planish.backends.tvm.tune.database import Database, Entry, load_database  # noqa: E402
from planish.backends.tvm.tune.measure import Local, Remote  # noqa: E402

MACHINE = Machine(get_target(native()))
CONV = Conv(1, 16, 10, 10, 32, (1, 1), in_block=8, out_block=8)


class Pretended:
    """A runner for which the last candidate is the fastest."""

    def __init__(self) -> None:
        self.asked = 0

    def times_us(self, kernels: Sequence[Any], machine: Machine) -> list[float]:
        self.asked += 1
        return [10.0 - i for i in range(len(kernels))]


def test_the_fastest_candidate_is_taken_and_remembered(tmp_path: Path) -> None:
    runner, path = Pretended(), tmp_path / "kernels.json"
    chosen = Chooser(MACHINE, load_database(path), runner).tile(CONV)
    assert chosen == convs.tiles(CONV, MACHINE)[2]
    again = Chooser(MACHINE, load_database(path), runner)
    assert again.tile(CONV) == chosen
    assert runner.asked == 1
    entry = load_database(path).entries[key_of(CONV, MACHINE)]
    assert (entry.time_us, entry.first_us) == (8.0, 10.0)


def test_nothing_is_measured_without_time_or_runner() -> None:
    runner = Pretended()
    assert Chooser(MACHINE, Database(), runner, seconds=0).tile(CONV) == convs.tiles(CONV, MACHINE)[0]
    assert Chooser(MACHINE).tile(CONV) == convs.tiles(CONV, MACHINE)[0]
    assert runner.asked == 0


def test_entries_are_of_one_machine_and_one_kernel() -> None:
    other = Machine(get_target("rpi4"))
    assert key_of(CONV, MACHINE) != key_of(CONV, other)
    rows = tvm.tirx.Var("S", "int32")
    assert key_of(MatMul((1,), rows, 8, 8), MACHINE) == f"{native()} matmul batch=(1) rows=? depth=8 columns=8"
    assert with_usual_extents(MatMul((rows,), rows, 8, 8)) == MatMul((1,), 64, 8, 8)
    window = with_usual_extents(Conv(rows, 1, 1, rows, 258, (1, 256), strides=(1, 64)))
    assert (window.batch, window.height, window.width, window.out_width) == (1, 1, 256, 1)


def test_files_that_are_no_database_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    entry = '{"tile": {"rows": %s, "vectors": 1, "lanes": 8}, "time_us": 1, "first_us": 1}'
    tile = f'{{"version": 1, "entries": {{"a": {entry}}}}}'
    for text in ('{"version": 1, "entries": {"a": {}}}', '{"version": 1, "entries": []}', tile % '"x"', tile % 10**9):
        path.write_text(text)
        with pytest.raises(BackendError, match="no database of schedules"):
            load_database(path)
    path.write_text(tile % 4)
    assert load_database(path).entries
    path.write_text('{"version": 0, "entries": {"a": {}}}')
    assert load_database(path).entries == {}


def test_measuring_here() -> None:
    runner = local_runner(MACHINE)
    assert isinstance(runner, Local)
    chooser = Chooser(MACHINE, Database(), runner)
    candidates = convs.tiles(CONV, MACHINE)
    assert chooser.tile(CONV) in candidates
    (entry,) = chooser.database.entries.values()
    assert isinstance(entry, Entry)
    assert 0 < entry.time_us <= entry.first_us
    assert chooser.spent > 0
    assert local_runner(Machine(get_target("rpi4" if MACHINE.processor.arch == "x86_64" else "x86-64-v3"))) is None


def test_measuring_through_an_rpc_session() -> None:
    from tvm import rpc

    # Everything but the socket; test_kernels_board.py has servers.
    runner = Remote(rpc.LocalSession(), lambda built, path: built.export_library(str(path)))
    chooser = Chooser(MACHINE, Database(), runner)
    assert chooser.tile(CONV) in convs.tiles(CONV, MACHINE)
    (entry,) = chooser.database.entries.values()
    assert 0 < entry.time_us < 1e5
