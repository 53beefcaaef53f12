"""Values, and the kinds of attribute that Python types cannot tell apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

from .errors import PassError
from .types import TensorType, Type

if TYPE_CHECKING:
    from .constants import Array, Constant
    from .dims import Dim, Shape
    from .dtypes import DType
    from .graph import Graph, Node

Use: TypeAlias = tuple["Node", int]

RETURN = "return"


class AttrRef:
    """Inside a function body: the value of the attribute that the caller gives under ``name``."""

    __slots__ = ("kind", "name")

    def __init__(self, name: str, kind: int) -> None:
        self.name = name
        self.kind = kind
        """``AttributeProto.AttributeType`` code."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AttrRef) and (other.name, other.kind) == (self.name, self.kind)

    def __hash__(self) -> int:
        return hash((self.name, self.kind))


class EmptyAttr(tuple[Any, ...]):
    """An empty list attribute that remembers its kind, which its elements cannot tell."""

    kind: int

    def __new__(cls, kind: int) -> EmptyAttr:
        made = super().__new__(cls)
        made.kind = kind
        return made


class Value:
    """One tensor (or sequence, map, optional): a node's output, a graph's input, or a constant.

    Exactly one holds: ``producer`` is a node; ``data`` is a constant; or it is an input of ``graph``.
    """

    __slots__ = ("data", "extra", "graph", "index", "known", "name", "producer", "type", "uses")

    def __init__(self, name: str = "", type: Type | None = None) -> None:
        self.name = name
        self.type = type
        """What inference proved, or for inputs what the interface declares; ``None`` is unknown."""
        self.producer: Node | None = None
        self.index = 0
        """Position among the producer's outputs or the graph's inputs."""
        self.data: Constant | None = None
        self.graph: Graph | None = None
        """Owner of an input or a constant; for a node's output see ``producer.graph``."""
        self.uses: dict[Use, None] = {}
        self.known: tuple[Dim, ...] | None = None
        """Elements of a small integer tensor where shape inference could express them (a scalar: one)."""
        self.extra: dict[str, Any] | None = None
        """What the file says and planish does not interpret: doc string, metadata, denotation."""

    # -- type shortcuts

    @property
    def tensor(self) -> TensorType | None:
        """The type where it is a tensor's, else ``None``."""
        return self.type if isinstance(self.type, TensorType) else None

    @property
    def shape(self) -> Shape | None:
        return self.type.shape if isinstance(self.type, TensorType) else None

    @property
    def rank(self) -> int | None:
        shape = self.shape
        return None if shape is None else len(shape)

    @property
    def dtype(self) -> DType | None:
        return self.type.dtype if isinstance(self.type, TensorType) else None

    # -- uses

    @property
    def users(self) -> Iterator[Node]:
        """Users in order of first use, a node once per operand; the return node stands for a graph output."""
        return (node for node, _ in list(self.uses))

    @property
    def sole_user(self) -> Node | None:
        """The only user where there is exactly one use, else ``None``."""
        if len(self.uses) != 1:
            return None
        return next(iter(self.uses))[0]

    @property
    def is_output(self) -> bool:
        """Whether some graph returns it."""
        return any(node.is_return for node, _ in self.uses)

    @property
    def owner(self) -> Graph | None:
        """The graph in which it is defined."""
        return self.producer.graph if self.producer is not None else self.graph

    def replace_uses(self, new: Value) -> None:
        """Makes every user take ``new`` instead."""
        if new is self:
            return
        uses, self.uses = self.uses, {}
        for node, i in uses:
            node.inputs[i] = new
            new.uses[(node, i)] = None

    def numpy(self) -> Array:
        """The elements of a constant. Raises ``PassError`` for anything else."""
        if self.data is None:
            raise PassError(f"%{self.name} is not a constant", help="guard with `value.data is not None`")
        return self.data.numpy()

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type if self.type is not None else '?'}"
