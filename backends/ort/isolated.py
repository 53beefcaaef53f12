"""ONNX Runtime in a process of its own: where it crashes, the caller gets an error and goes on.

On valid but odd models the runtime's optimizer has ended the process (access violations, ``std::terminate``). Whoever
suspects the runtime itself, or runs what a fuzzer made, runs it here. The process stays for many runs.
"""

from __future__ import annotations

import os
import pickle
import signal
import struct
import subprocess
import sys
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

from ...ir.errors import BackendError, PlanishError
from .session import EXACT, Session, SessionSettings

if TYPE_CHECKING:
    from ..core import Outputs, Sample

_LENGTH = struct.Struct("<Q")


class Isolated:
    """A process that loads and runs models. Use as a context manager, or call :meth:`close`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, model: bytes, samples: list[Sample], settings: SessionSettings = EXACT) -> list[Outputs]:
        """The outputs for each sample. Raises ``BackendError`` where the runtime refuses, fails, or crashes."""
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        request = (model, [dict(sample) for sample in samples], settings.to_dict())
        try:
            _send(process.stdin, request)
            kind, answer = _receive(process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            raise self._crashed() from None
        if kind == "outputs":
            return answer
        raise BackendError(answer["message"], where="ort", origin=answer["origin"], help=answer["help"])

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            code = f"from {__name__} import serve; serve()"
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

    def _crashed(self) -> BackendError:
        process, self._process = self._process, None
        code = -1
        if process is not None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            code = process.returncode if process.returncode is not None else -1
            process.kill()
        name = signal.Signals(-code).name if code < 0 and -code in signal.valid_signals() else f"exit code {code}"
        return BackendError(
            f"the runtime crashed ({name})",
            where="ort",
            help="this is a bug of onnxruntime; other settings may avoid it",
        )

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


def serve() -> None:
    """The other side: answers requests from standard input until it is closed."""
    source = sys.stdin.buffer
    target = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever the runtime prints must not get between the answers
    while True:
        try:
            request: Any = _receive(source)
        except EOFError:
            return
        _send(target, _answer(*request))


def _answer(model: bytes, samples: list[Sample], settings: dict[str, Any]) -> tuple[str, Any]:
    try:
        session = Session(model, SessionSettings.from_dict(settings))
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
