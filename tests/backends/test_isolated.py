"""Sessions in a process of their own: what crashes there, or takes too long, is an error here."""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import pytest

from planish.backends.ort import isolated
from planish.backends.ort.isolated import Isolated, IsolatedSession, RuntimeCrash
from planish.ir.builder import Builder
from planish.ir.dtypes import DType
from planish.ir.errors import BackendError
from planish.ir.onnx_writer import model_to_bytes
from planish.ir.text.parser import parse_model

X = {"x": np.arange(4, dtype=np.float32)}
ENDLESS = """graph @main(%x: f32[4]) {
  %go: bool[] = const dense<true>
  %y = Loop(_, %go, %x) {body = graph @body(%i: i64[], %c: bool[], %v: f32[4]) {
    %d = Identity(%c)
    %w = Add(%v, %v)
    return %d, %w
  }}
  return %y
}
"""


def negation() -> bytes:
    b = Builder()
    b.output(b.Neg(b.input("x", DType.F32, (4,))), "y")
    return model_to_bytes(b.model())


def test_it_runs_and_refuses_as_a_session_does() -> None:
    session = IsolatedSession(negation())
    assert np.array_equal(session.run(X)[0], -X["x"])
    with pytest.raises(BackendError, match="there is no input z"):
        session.run({**X, "z": X["x"]})
    with pytest.raises(BackendError, match="cannot load"):
        IsolatedSession(b"\x08\x0a")


def test_a_crash_is_an_error_and_the_next_run_goes_on() -> None:
    session = IsolatedSession(negation())
    process = isolated._shared(os.getpid())._process
    assert process is not None
    process.send_signal(signal.SIGSEGV)
    process.wait(10)
    assert np.array_equal(session.run(X)[0], -X["x"])


def test_crashes_are_named() -> None:
    with Isolated(seconds=30) as process:
        process.run(negation(), [X])
        child = process._process
        assert child is not None
        threading.Timer(0.3, child.send_signal, (signal.SIGSEGV,)).start()
        with pytest.raises(RuntimeCrash, match="SIGSEGV"):
            process.run(model_to_bytes(parse_model(ENDLESS)), [X])


def test_a_loop_without_end() -> None:
    with Isolated(seconds=2) as process, pytest.raises(RuntimeCrash, match="longer than 2 seconds"):
        process.run(model_to_bytes(parse_model(ENDLESS)), [X])


def test_memory_is_bounded() -> None:
    b = Builder()
    x = b.input("x", DType.F32, (4,))
    b.output(b.Expand(x, b.const(np.array([1 << 28, 4]))), "y")
    with Isolated(memory_bytes=256 << 20) as process, pytest.raises(BackendError):
        process.run(model_to_bytes(b.model()), [X])
