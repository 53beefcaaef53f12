"""Pattern rules and the engine that applies them. See ``rule.py`` for how to write one."""

from .pattern import ANY, KEEP, Const, Scalar
from .rewriter import Rewriter
from .rule import MODIFIED, Match, NodeRule, NoMatch, Rule

__all__ = ["ANY", "KEEP", "MODIFIED", "Const", "Match", "NoMatch", "NodeRule", "Rewriter", "Rule", "Scalar"]
