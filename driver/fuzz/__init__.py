"""Differential fuzzing of passes: random models, each pass, ONNX Runtime as the judge."""

from .campaign import Campaign, fuzz
from .one_pass import PassCheck, check_pass

__all__ = ["Campaign", "PassCheck", "check_pass", "fuzz"]
