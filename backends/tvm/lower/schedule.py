"""The schedule of kernels made from tensor expressions."""

from __future__ import annotations

from typing import Any

from .. import cuda
from ..kernels.machine import Machine
from .offsets import with_offsets


def schedule(function: Any, machine: Machine) -> Any:
    """On GPUs a kernel of blocks and threads; else as it is: loops in the order of the axes."""
    return with_offsets(cuda.schedule(function, machine.processor) if machine.is_gpu else function)
