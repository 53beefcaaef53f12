"""Random models that are valid and comparable, biased towards what passes look for. See ``generate.py``."""

from .generate import Case, random_case

__all__ = ["Case", "random_case"]
