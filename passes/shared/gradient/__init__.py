"""Gradients of a model as operators of the model: see ``reverse.py``."""

from .reverse import Gradients, with_gradients

__all__ = ["Gradients", "with_gradients"]
