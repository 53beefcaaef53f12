"""The textual form of graphs: :func:`print_model` and :func:`parse_model` are each other's inverse."""

from .parser import parse_graph, parse_model
from .printer import names, print_graph, print_model, print_node

__all__ = ["names", "parse_graph", "parse_model", "print_graph", "print_model", "print_node"]
