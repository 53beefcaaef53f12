"""Rules: what a contributor writes.

A pattern rule names operators and leaves and returns the replacement:

    class MulByOne(Rule):
        def pattern(self, op, x): return op.Mul(x, 1.0)
        def guard(self, m):
            if m.x.shape is None: raise NoMatch("rank of %x is unknown")
        def rewrite(self, r, m): return m.x

A node rule looks at one node of the operators in ``roots`` by hand; it must decide (raise ``NoMatch``)
before it changes anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from ...ir.graph import Node, Value
from .pattern import Pattern, compile_pattern

if TYPE_CHECKING:
    from .rewriter import Rewriter


class NoMatch(Exception):
    """Raised by a guard or a node rule: the rule does not apply here, and why (lower case, with numbers).

    A function that makes the text saves the time of making it where nobody reads it: shapes take long to print.
    """

    matched = 1
    """How many nodes of what was looked for were found: a node rule may set it, so that the nearest miss is told."""

    def __init__(self, reason: str | Callable[[], str] = "declined") -> None:
        super().__init__(reason)

    @property
    def reason(self) -> str:
        found = self.args[0]
        return found if isinstance(found, str) else found()

    def __str__(self) -> str:
        return self.reason


class _Modified:
    def __repr__(self) -> str:
        return "MODIFIED"


MODIFIED = _Modified()
"""Returned by a rule that changed its node in place and keeps its outputs."""

Replacement: TypeAlias = Value | Iterable["Value | None"] | _Modified


class Match:
    """A successful match: leaves and bound nodes by name (``m.x``, ``m.conv``), ``m.root``, ``m.nodes``."""

    def __init__(self, root: Node, bindings: dict[str, Any], nodes: list[Node]) -> None:
        self.root = root
        self.bindings = bindings
        self.nodes = nodes
        """Matched nodes, the root first."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self.bindings[name]
        except KeyError:
            raise AttributeError(f"the pattern binds no {name!r}; it binds {', '.join(self.bindings)}") from None


class RuleBase:
    """What the engine needs of any rule."""

    owner: str = ""
    """Name of the pass it belongs to (set by the engine)."""
    lossy: bool = False
    """Whether the engine must ask before it applies it (set by the engine, see ``Pass.proposes``)."""
    summary: ClassVar[str] = ""

    @property
    def label(self) -> str:
        return f"{self.owner}/{type(self).__name__}"

    def root_ops(self) -> frozenset[str]:
        """Operator names at which it is tried."""
        raise NotImplementedError

    def promising(self, node: Node) -> bool:
        """A cheap necessary condition, so that most nodes need not be tried. Not asked when reasons are wanted."""
        return True


class Rule(RuleBase):
    """A rule with a pattern."""

    _pattern: Pattern | None = None

    pattern: Callable[..., Any]
    """``pattern(self, op, <leaves>)``: builds the pattern with the tracer ``op``. Subclasses define it as a method."""

    def guard(self, m: Match) -> None:
        """Raises :class:`NoMatch` where the rule must not apply."""

    def rewrite(self, r: Rewriter, m: Match) -> Replacement:
        """Emits the replacement through ``r`` and returns the value(s) that replace the root's outputs."""
        raise NotImplementedError

    @property
    def compiled(self) -> Pattern:
        if self._pattern is None:
            # Without fields of its own the rule has the pattern of its class, which is compiled once.
            own = vars(self).keys() - {"owner", "lossy"}
            self._pattern = compile_pattern(self.pattern) if own else _pattern_of(type(self))
        return self._pattern

    def root_ops(self) -> frozenset[str]:
        return self.compiled.root.names


@cache
def _pattern_of(rule: type[Rule]) -> Pattern:
    return compile_pattern(rule().pattern)


class NodeRule(RuleBase):
    """A rule in plain code for what the pattern language cannot say."""

    roots: ClassVar[tuple[str, ...]] = ()
    """Operator names (``Reshape``, ``com.microsoft::Gelu``); ``*`` for all."""

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        """Returns the replacement of ``node``'s outputs or ``MODIFIED``; raises :class:`NoMatch` before any change."""
        raise NotImplementedError

    def root_ops(self) -> frozenset[str]:
        return frozenset(name.rpartition("::")[2] for name in self.roots)

    def accepts(self, node: Node) -> bool:
        """Whether the node's domain is one of those named in ``roots``."""
        name = f"{node.domain}::{node.op}" if node.domain else node.op
        return name in self.roots or "*" in self.roots
