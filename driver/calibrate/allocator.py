"""Memory that was freed, returned to the system."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import cast


@cache
def _trim() -> Callable[[int], int] | None:
    """The allocator's own function, where it has one."""
    try:
        return cast("Callable[[int], int]", ctypes.CDLL(None).malloc_trim)
    except (OSError, AttributeError):
        return None


def give_back_memory() -> None:
    """glibc keeps holes of many sizes, several times what is in use; other allocators are left alone."""
    trim = _trim()
    if trim is not None:
        trim(0)
