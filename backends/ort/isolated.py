"""ONNX Runtime in a process of its own: where it crashes, the caller gets an error and goes on.

On valid but odd models the runtime's optimizer has ended the process (access violations, ``std::terminate``). Whoever
suspects the runtime itself, or runs what a fuzzer made, runs it here. The process stays for many runs.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import pickle
import signal
import struct
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import TIMEOUT_MAX, Timer
from typing import IO, TYPE_CHECKING, Any

from ...ir.errors import BackendError, PlanishError
from .session import EXACT, Session, SessionSettings

if TYPE_CHECKING:
    from ..core import Outputs, Sample

SHARED_SECONDS = 120.0
"""The longest call of a shared session: the runtime's optimizer has been seen to go on for ever."""
KEPT = 4
"""Sessions that the other process keeps."""
_LENGTH = struct.Struct("<Q")


FAULTS = frozenset({"SIGSEGV", "SIGFPE", "SIGILL", "SIGBUS"})
"""Signals that mean a mistake in the runtime, where a limit that is reached ends it in other ways."""


class RuntimeCrash(BackendError):
    """The runtime ended its process, or had to be ended."""

    signal: str = ""
    """The signal's name, where one ended the process that nobody here sent."""


class Isolated:
    """A process that loads and runs models. Use as a context manager, or call :meth:`close`."""

    def __init__(self, *, memory_bytes: int = 0, seconds: float = 0.0) -> None:
        """``memory_bytes`` is what one process may take on top of the runtime itself, ``seconds`` how long one call
        may last; 0 sets no limit."""
        self.memory_bytes, self.seconds = memory_bytes, seconds
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, model: bytes, samples: list[Sample], settings: SessionSettings = EXACT) -> list[Outputs]:
        """The outputs for each sample.

        Raises ``BackendError`` where the runtime refuses or fails, and ``RuntimeCrash`` where it ends the process or
        takes too long.
        """
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        request = (model, [dict(sample) for sample in samples], settings.to_dict())
        late = Timer(self.seconds or TIMEOUT_MAX, process.kill)
        late.daemon = True
        late.start()
        try:
            _send(process.stdin, request)
            kind, answer = _receive(process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            raise self._crashed(late.finished.is_set()) from None
        finally:
            late.cancel()
        if kind == "outputs":
            return answer
        raise BackendError(answer["message"], where="ort", origin=answer["origin"], help=answer["help"])

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            code = f"from {__name__} import serve; serve({int(self.memory_bytes)})"
            paths = os.pathsep.join(p or os.getcwd() for p in sys.path)
            environment = {**os.environ, "PYTHONPATH": paths}
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
        return self._process

    def _crashed(self, late: bool) -> RuntimeCrash:
        process, self._process = self._process, None
        code = -1
        if process is not None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            code = process.returncode if process.returncode is not None else -1
            process.kill()
        name = signal.Signals(-code).name if code < 0 and -code in signal.valid_signals() else f"exit code {code}"
        if late:
            return RuntimeCrash(
                f"the model ran longer than {self.seconds:g} seconds",
                where="ort",
                help="a loop in it, or the runtime's optimizer, may never end",
            )
        crash = RuntimeCrash(
            f"the runtime crashed ({name})",
            where="ort",
            help="this is a bug of onnxruntime; other settings may avoid it",
        )
        crash.signal = name
        return crash

    def close(self) -> None:
        """Ends the process."""
        process, self._process = self._process, None
        if process is None:
            return
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Isolated:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class IsolatedSession:
    """A session in a process that all of them share: what may crash while it loads or runs does not end this one."""

    def __init__(self, model: bytes, settings: SessionSettings = EXACT) -> None:
        """Raises ``BackendError`` where the runtime refuses the model or crashes."""
        self._model, self._settings = model, settings
        _shared(os.getpid()).run(model, [], settings)

    def run(self, inputs: Sample) -> Outputs:
        """As ``Session.run``."""
        return _shared(os.getpid()).run(self._model, [inputs], self._settings)[0]


@cache
def _shared(owner: int) -> Isolated:
    """The process of the process ``owner``: one that was forked must not talk into its parent's pipes."""
    process = Isolated(seconds=SHARED_SECONDS)
    atexit.register(process.close)
    return process


def serve(memory_bytes: int = 0) -> None:
    """The other side: answers requests from standard input until it is closed."""
    if memory_bytes:
        _limit_memory(memory_bytes)
    source = sys.stdin.buffer
    target = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever the runtime prints must not get between the answers
    kept: dict[tuple[str, bytes], Session] = {}
    while True:
        try:
            model, samples, settings = _receive(source)
        except EOFError:
            return
        _send(target, _answer(model, samples, settings, kept))


def _limit_memory(size: int) -> None:
    """Bounds what this process may take on top of what it has."""
    with suppress(ImportError, OSError, ValueError):  # systems without such limits
        import resource

        import onnxruntime  # pyright: ignore[reportUnusedImport] # noqa: F401

        have = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (have + size, have + size))


def _answer(
    model: bytes, samples: list[Sample], settings: dict[str, Any], kept: dict[tuple[str, bytes], Session]
) -> tuple[str, Any]:
    """Outputs, or an error. The last sessions are kept, since a model comes again with each sample."""
    key = repr(settings), hashlib.blake2b(model).digest()
    try:
        session = kept.get(key)
        if session is None:
            session = Session(model, SessionSettings.from_dict(settings))
            while len(kept) >= KEPT:
                del kept[next(iter(kept))]
            kept[key] = session
        return "outputs", [session.run(sample) for sample in samples]
    except PlanishError as error:
        return "error", {"message": error.message, "origin": error.origin, "help": error.help}


def _send(stream: IO[bytes], item: object) -> None:
    data = pickle.dumps(item, pickle.HIGHEST_PROTOCOL)
    stream.write(_LENGTH.pack(len(data)))
    stream.write(data)
    stream.flush()


def _receive(stream: IO[bytes]) -> Any:
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (size,) = _LENGTH.unpack(head)
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return pickle.loads(data)
