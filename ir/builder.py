"""Build graphs in code: ``b = Builder(); x = b.input("x", F32, ("N", 8)); b.output(b.Relu(x), "y"); b.model()``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from .constants import ArrayConstant, Constant, SeededConstant
from .dims import Dim, symbol
from .dtypes import DType
from .graph import Graph, Model, Node, Value
from .infer import infer_node
from .types import TensorType, Type

DEFAULT_OPSET = 21


class Builder:
    """Appends nodes to a graph; any operator is a method: ``b.Conv(x, w, strides=(2, 2))``.

    Operands are values, ``None`` (omitted), or numpy arrays and Python scalars, which become constants
    (a Python scalar takes the element type of the first tensor operand). ``_outputs=2`` asks for several
    results, ``_domain="com.microsoft"`` for another domain, ``_name`` names the node.
    """

    def __init__(self, graph: Graph | None = None, *, opset: int = DEFAULT_OPSET, opsets: dict[str, int] | None = None):
        self.graph = graph or Graph(opsets=opsets or {"": opset})
        self._count = 0

    def input(self, name: str, dtype: DType | Type, shape: Iterable[int | str | Dim] | None = None) -> Value:
        """A graph input; strings in ``shape`` are symbols."""
        if isinstance(dtype, DType):
            dims = None if shape is None else tuple(symbol(d) if isinstance(d, str) else d for d in shape)
            return self.graph.add_input(name, TensorType(dtype, dims))
        return self.graph.add_input(name, dtype)

    def const(self, data: Constant | np.ndarray[Any, Any] | np.generic | float | list[Any], name: str = "") -> Value:
        """A constant."""
        if not isinstance(data, Constant):
            data = ArrayConstant(np.asarray(data))
        return self.graph.add_constant(data, name or self._fresh("const"))

    def weight(
        self, name: str, shape: tuple[int, ...], seed: int, scale: float = 1.0, dtype: DType = DType.F32
    ) -> Value:
        """A seeded constant that takes no memory until it is used (see ``SeededConstant``)."""
        return self.graph.add_constant(SeededConstant(seed, dtype, shape, scale=scale), name)

    def op(
        self,
        op: str,
        *inputs: Any,
        _domain: str = "",
        _outputs: int | Iterable[str] = 1,
        _name: str = "",
        **attrs: Any,
    ) -> Any:
        """Appends a node and returns its output, or the list of outputs where several were asked for."""
        like = next((v.dtype for v in inputs if isinstance(v, Value) and v.dtype is not None), None)
        operands = [self._operand(v, like) for v in inputs]
        names = [self._fresh(op) for _ in range(_outputs)] if isinstance(_outputs, int) else _outputs
        node = Node(op, operands, attrs, domain=_domain, outputs=names, name=_name)
        self.graph.append(node)
        infer_node(node)
        return node.output if len(node.outputs) == 1 else node.outputs

    def __getattr__(self, op: str) -> Callable[..., Any]:
        if not op[:1].isupper():
            raise AttributeError(op)
        return lambda *inputs, **kw: self.op(op, *inputs, **kw)

    def output(self, value: Value, name: str) -> None:
        """Appends a graph output."""
        ports = [p.name for p in self.graph.ports]
        self.graph.set_outputs([*self.graph.outputs, value], [*ports, name])
        if value.producer is not None and value.name.startswith("_"):
            value.name = name

    def model(self, *, ir_version: int = 10) -> Model:
        """The finished model."""
        for port, value in zip(self.graph.ports, self.graph.outputs, strict=True):
            port.declared = value.type
        return Model(self.graph, ir_version=ir_version)

    def _operand(self, v: Any, like: DType | None) -> Value | None:
        if v is None or isinstance(v, Value):
            return v
        if isinstance(v, (bool, int, float)) and like is not None:
            v = np.asarray(v, like.numpy)
        return self.const(v)

    def _fresh(self, stem: str) -> str:
        self._count += 1
        return f"_{stem}_{self._count}"
