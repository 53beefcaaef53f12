"""Boards that time kernels: behind a server of TVM's RPC, or behind a tracker that lends one of several."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from functools import partial
from typing import Any

from ....ir.errors import BackendError, UsageError
from ....passes.target import Target
from ..link import export_library, find_linker
from .measure import Remote

ANSWER_SECONDS = 20
"""How long a tracker may take to find a free board."""
GRACE_SECONDS = 120
"""What a session lives beyond the time for measuring: libraries are built and sent, the last one is timed."""


@dataclass(frozen=True)
class Board:
    """Where a board is: ``host:port`` of its own server, ``host:port/key`` of a tracker that knows such boards."""

    host: str
    port: int
    key: str = ""

    @classmethod
    def parse(cls, text: str) -> Board:
        """Raises ``UsageError`` for what is no address."""
        found = re.fullmatch(r"([^\s/:]+):(\d{1,5})(?:/([^\s/]+))?", text)
        if found is None:
            raise UsageError(
                f"{text!r} is no address of a board",
                where="board",
                help="HOST:PORT of its server, or HOST:PORT/KEY of a tracker and the key it knows the board by",
            )
        return cls(found[1], int(found[2]), found[3] or "")

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" + (f"/{self.key}" if self.key else "")

    def runner(self, target: Target, seconds: float) -> Remote:
        """A session of ``seconds`` for libraries of ``target``.

        Raises ``BackendError`` where nobody answers, no board is free, or nothing links for the target.
        """
        find_linker(target)
        try:
            session = self._session(round(seconds) + GRACE_SECONDS)
        except (OSError, RuntimeError) as error:
            words = str(error).strip().splitlines()[-1:]
            raise BackendError(
                f"no board at {self}: {' '.join(words)}",
                where="board",
                help="start `python -m tvm.exec.rpc_server` there, see docs/arm.md",
            ) from error
        return Remote(session, partial(_link, target=target))

    def _session(self, seconds: int) -> Any:
        from tvm import rpc

        if not self.key:
            return rpc.connect(self.host, self.port, session_timeout=seconds)
        # TVM itself would try for a minute where nobody listens.
        socket.create_connection((self.host, self.port), ANSWER_SECONDS).close()
        tracker: Any = rpc.connect_tracker(self.host, self.port)
        queues: dict[str, Any] = tracker.summary()["queue_info"]
        if self.key not in queues:
            raise RuntimeError(f"its tracker knows {', '.join(sorted(queues)) or 'no boards'}")
        # Without a time limit the tracker answers when a board is free, if ever.
        tracker._sock.settimeout(ANSWER_SECONDS)
        try:
            return tracker.request(self.key, session_timeout=seconds, max_retry=1)
        finally:
            tracker.close()


def _link(executable: Any, path: Any, target: Target) -> None:
    export_library(executable, path, target)
