"""Calibration: what values of a model are like on real samples, in bounded memory."""

from __future__ import annotations

from .calibrate import Calibration, calibrate
from .file import CalibrationFile, read_calibration, write_calibration
from .observe import MAX_MEMORY_BYTES, Observe, Observer, observer
from .reuse import Kept
from .stream import SampleStream, calibration_samples

__all__ = [
    "MAX_MEMORY_BYTES",
    "Calibration",
    "CalibrationFile",
    "Kept",
    "Observe",
    "Observer",
    "SampleStream",
    "calibrate",
    "calibration_samples",
    "observer",
    "read_calibration",
    "write_calibration",
]
