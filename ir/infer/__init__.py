"""Shape and type inference, one node at a time. See ``rules.py`` for how to add an operator."""

from .engine import infer_graph, infer_model, infer_node
from .incremental import update_from
from .joining import join, refine

__all__ = ["infer_graph", "infer_model", "infer_node", "join", "refine", "update_from"]
