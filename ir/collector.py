"""Pausing Python's cycle collector while a graph is built.

Building allocates many objects and drops none, so each collection on the way walks the whole graph to find
nothing: half the time of reading or copying a large model.
"""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Generator[None]:
    """Runs the block without cycle collections, in all threads; leaves a collector that was off alone."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
