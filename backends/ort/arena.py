"""One arena for several sessions: each by itself would keep what its own runs took."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from .session import SessionSettings

_AS_ASKED = 1
"""The arena grows by what is asked for, not to the next power of two."""


@cache
def _is_registered() -> bool:
    """Whether the process has a shared arena. It belongs to the runtime, and only sessions that ask for it use it."""
    import onnxruntime

    ort: Any = onnxruntime
    info = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    try:
        ort.create_and_register_allocator(info, ort.OrtArenaCfg({"arena_extend_strategy": _AS_ASKED}))
    except Exception:  # somebody else in this process has registered one: that serves as well
        return False
    return True


def sharing_arena(settings: SessionSettings) -> SessionSettings:
    """The settings for sessions that run in turns and hand what they took to the next."""
    _is_registered()
    config = (*settings.config, ("session.use_env_allocators", "1"))
    return replace(settings, memory_pattern=False, config=config)
