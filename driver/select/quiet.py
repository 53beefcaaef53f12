"""Keeps what a library prints by itself out of standard output, where a program may read a report (``--json``)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Generator


@contextlib.contextmanager
def printing_to_stderr() -> Generator[None]:
    """What C code prints goes to standard error meanwhile. HiGHS tells of some steps whatever it is asked for."""
    try:
        out = os.dup(1)
    except OSError:  # there is none
        yield
        return
    sys.stdout.flush()
    _flush()
    with contextlib.suppress(OSError):
        os.dup2(2, 1)
    try:
        yield
    finally:
        _flush()
        os.dup2(out, 1)
        os.close(out)


def _flush() -> None:
    """Of C's own buffers; those of Windows cannot be reached like that."""
    with contextlib.suppress(OSError, TypeError, AttributeError):
        ctypes.CDLL(None).fflush(None)


__all__ = ["printing_to_stderr"]
