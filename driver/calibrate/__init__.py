"""Calibration: what values of a model are like on real samples, in bounded memory."""

from __future__ import annotations

from .observe import MAX_MEMORY_BYTES, Observe, Observer, observer
from .stream import SampleStream, calibration_samples

__all__ = ["MAX_MEMORY_BYTES", "Observe", "Observer", "SampleStream", "calibration_samples", "observer"]
