"""Measuring through TVM's RPC: real processes of a server and a tracker on this machine, each with a time limit."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

pytest.importorskip("tvm")

from planish.backends.tvm.kernels.conv import Conv
from planish.backends.tvm.kernels.machine import Machine
from planish.backends.tvm.tune.board import Board
from planish.backends.tvm.tune.choose import Chooser
from planish.ir.errors import BackendError, UsageError
from planish.passes.target import get_target, native

MACHINE = Machine(get_target(native()))
CONV = Conv(1, 16, 10, 10, 32, (1, 1), in_block=8, out_block=8)
PATIENCE = 60


@contextlib.contextmanager
def process(module: str, log: Path, *words: str) -> Generator[int]:
    """A module of TVM's as a process; its port, once it listens. Its children end with it.

    Output goes to a file: a pipe would be held open by workers that outlive their parent.
    """
    command = [sys.executable, "-P", "-m", f"tvm.exec.{module}", "--host", "127.0.0.1", *words]
    with open(log, "w") as out:
        running = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield _port(running, log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.wait(PATIENCE)


def _port(running: subprocess.Popen[bytes], log: Path) -> int:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and running.poll() is None:
        if found := re.search(r"bind to 127\.0\.0\.1:(\d+)", log.read_text()):
            return int(found[1])
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def measured(board: str) -> float:
    """The time of a convolution there."""
    chooser = Chooser(MACHINE, runner=Board.parse(board).runner(MACHINE.processor, 60))
    chooser.tile(CONV)
    (entry,) = chooser.database.entries.values()
    return entry.time_us


@pytest.mark.slow
def test_a_server(tmp_path: Path) -> None:
    with process("rpc_server", tmp_path / "server", "--port", "9500", "--port-end", "9600") as port:
        assert 0 < measured(f"127.0.0.1:{port}") < 1e5
        assert 0 < measured(f"127.0.0.1:{port}") < 1e5  # a second session of the same server


@pytest.mark.slow
def test_a_tracker_lends_boards(tmp_path: Path) -> None:
    with process("rpc_tracker", tmp_path / "tracker", "--port", "9300", "--port-end", "9400") as tracker:
        known = ("--tracker", f"127.0.0.1:{tracker}", "--key", "here", "--port", "9500", "--port-end", "9600")
        with pytest.raises(BackendError, match="its tracker knows no boards"):
            Board.parse(f"127.0.0.1:{tracker}/here").runner(MACHINE.processor, 1)
        with process("rpc_server", tmp_path / "server", *known):
            _registered(tracker)
            assert 0 < measured(f"127.0.0.1:{tracker}/here") < 1e5
            with pytest.raises(BackendError, match="its tracker knows here"):
                Board.parse(f"127.0.0.1:{tracker}/rpi5").runner(MACHINE.processor, 1)


def _registered(tracker: int) -> None:
    """Waits until the tracker has heard of the board."""
    from tvm import rpc

    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if "here" in rpc.connect_tracker("127.0.0.1", tracker).summary()["queue_info"]:
            return
        time.sleep(0.2)
    raise AssertionError("the tracker never heard of the server")


@pytest.mark.parametrize("key", ["", "rpi5"])
def test_nobody_answers(key: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        with pytest.raises(BackendError, match=r"no board at 127\.0\.0\.1:\d+"):
            Board("127.0.0.1", taken.getsockname()[1], key).runner(MACHINE.processor, 1)


@pytest.mark.parametrize("text", ["rpi5", "rpi5:", "host:9190/", "host:port", ""])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError, match="no address of a board"):
        Board.parse(text)
