"""Imports the files of rules, which register themselves."""

from __future__ import annotations

from . import contents, control, elementwise

__all__ = ["contents", "control", "elementwise"]
