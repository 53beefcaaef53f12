"""The schedule of kernels made from tensor expressions."""

from __future__ import annotations

from typing import Any

from .. import cuda
from ..kernels import schedule as processors
from ..kernels.machine import Machine
from .offsets import with_offsets


def schedule(function: Any, machine: Machine) -> Any:
    """On GPUs a kernel of blocks and threads, else loops of vectors for the thread pool."""
    if machine.is_gpu:
        return with_offsets(cuda.schedule(function, machine.processor))
    found = machine.known(function) if machine.known is not None else None
    return processors.schedule(function, machine) if found is None else found
