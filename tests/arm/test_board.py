"""A board on this machine: TVM's RPC server in emulated Python on a Cortex-A76, which times kernels built for it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

pytest.importorskip("tvm")

from planish.backends.tvm.tune.database import load_database
from planish.driver.kernels import tune_kernels

from .emulation import SCRIPT, Emulation
from .test_models import small_network

# What `python -m tvm.exec.rpc_server` does, but for the worker that it starts as a program of its own: here a program
# runs only through the emulator.
SERVER = """
from tvm.rpc.server import PopenRPCServerState
PopenRPCServerState("127.0.0.1", 9700, 9800).thread.join()
"""
PATIENCE = 120


@contextlib.contextmanager
def server(processor: str, folder: Path) -> Generator[int]:
    """The port of a server on an emulated processor; it ends with its children."""
    script, log = folder / "server.py", folder / "log"
    script.write_text(SERVER)
    command = [sys.executable, "-P", str(SCRIPT), "python", processor, str(script)]
    with open(log, "w") as out:
        running = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and running.poll() is None:
            if found := re.search(r"bind to 127\.0\.0\.1:(\d+)", log.read_text()):
                yield int(found[1])
                return
            time.sleep(0.5)
        raise AssertionError(log.read_text())
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.wait(PATIENCE)


@pytest.mark.slow
def test_kernels_are_timed_on_the_board(python_emulation: Emulation, tmp_path: Path) -> None:
    assert python_emulation.runner
    model, _ = small_network()
    path = tmp_path / "schedules.json"
    with server("cortex-a76", tmp_path) as port:
        found = tune_kernels(model, "rpi5", path, board=f"127.0.0.1:{port}", seconds=8)
    entries = load_database(path).entries
    assert found.products == len(entries) > 0
    assert all(key.startswith("cortex-a76 ") and entry.time_us > 0 for key, entry in entries.items())
