"""The only object that changes a graph: it owns names, uses, provenance, types and the count of changes.

A rule gets it as ``r``: ``r.Conv(x, w, strides=(2, 2))`` emits a node in front of the match, infers its
type and checks it against the schema of the model's opset; ``r.const(array)`` adds a constant. Passes in
plain code use the same object: ``r.at(node)`` says where to emit, ``r.replace(node, values)``,
``r.erase(node)``, ``r.set_input``, ``r.set_attr`` change the graph.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ...ir.constants import ArrayConstant, Constant
from ...ir.dtypes import DType
from ...ir.errors import ModelError, PassError, PlanishError
from ...ir.graph import RETURN, Graph, Node, Value
from ...ir.infer import infer_node
from ...ir.ops import is_removable
from ...ir.repetition import compacted
from ...ir.types import Layout, Quant, TensorType, Type
from ...ir.verify import check_node
from ..choices import Unit
from ..context import Application, Context

SETTLE_VISITS = 100_000
"""Bound on the work of making types more precise after one edit; types stay sound, only less precise, beyond it."""


class Rewriter:
    """Edits one model on behalf of one pass."""

    def __init__(self, ctx: Context, owner: str = "") -> None:
        self.ctx = ctx
        self.owner = owner
        """Label of the pass or rule at work, for provenance and error messages."""
        self.changes = 0
        """Edits so far; a pass that leaves it alone left the model alone."""
        self.nodes: int | None = None
        """How many nodes the model has, where the manager counted them."""
        self.hits: dict[str, int] = {}
        """Applications by rule (the engine counts them)."""
        self.created: list[Node] = []
        """Nodes emitted since :meth:`begin`."""
        self.touched: list[Node] = []
        """Nodes whose surroundings changed: the greedy engine's next work."""
        self.retyped: dict[Node, None] = {}
        """Nodes whose operands or attributes changed, so that their results' types may be known better."""
        self._ref: Node | None = None
        self._constants: list[Value] = []
        self._given_origin: tuple[str, ...] = ()

    # -- where and on whose behalf

    def begin(self, ref: Node, origin: tuple[str, ...] = ()) -> None:
        """Emits from now on in front of ``ref``; ``origin`` names the original nodes that are being replaced."""
        self._ref = ref
        self._given_origin = origin
        self.created.clear()
        self._constants.clear()

    def at(self, ref: Node) -> Rewriter:
        """:meth:`begin` as an expression."""
        self.begin(ref)
        return self

    def rollback(self) -> None:
        """Takes back everything emitted since :meth:`begin` (nothing uses it yet)."""
        if not (self.created or self._constants):
            return
        for node in reversed(self.created):
            node.erase()
        for value in self._constants:
            if not value.uses and value.graph is not None:
                value.graph.remove_constant(value)
        self.created.clear()
        self._constants.clear()

    @property
    def _origin(self) -> tuple[str, ...]:
        if not self._given_origin and self._ref is not None:
            self._given_origin = origin_of([self._ref])
        return self._given_origin

    @property
    def graph(self) -> Graph:
        """The graph into which nodes are emitted."""
        if self._ref is None or self._ref.graph is None:
            raise PassError(f"[{self.owner}] nothing is being rewritten", help="call r.begin(node) first")
        return self._ref.graph

    def opset(self, domain: str = "") -> int:
        """The version of ``domain`` that the model imports; 0 where it imports none."""
        return self.graph.opsets.get(domain, 0)

    # -- emitting

    def op(
        self,
        op: str,
        *inputs: Value | Constant | np.ndarray[Any, Any] | np.generic | float | None,
        _outputs: int = 1,
        **attrs: Any,
    ) -> Any:
        """Emits ``op`` (``domain::name``) and returns its result, or the list of results where several are asked for.

        Arrays become constants; Python numbers become scalars of the first tensor operand's element type.
        Attributes that are ``None`` are left out. Raises ``PassError`` when the operator does not exist in
        the model's opset or does not take these operands and attributes.
        """
        domain, _, name = op.rpartition("::")
        ref = self._ref
        if ref is None or ref.graph is None:
            raise PassError(f"[{self.owner}] nothing is being rewritten", help="call r.begin(node) first")
        graph = ref.graph
        if domain and domain not in graph.opsets:
            graph.opsets[domain] = 1
        like = next((v.dtype for v in inputs if isinstance(v, Value) and v.dtype is not None), None)
        operands = [v if v is None or isinstance(v, Value) else self._constant_of(v, like) for v in inputs]
        origin = self._origin
        stem = origin[-1] if origin else ""
        hint = f"{stem}/{name}" if stem else name.lower()
        node = Node(
            name,
            operands,
            {k: v for k, v in attrs.items() if v is not None},
            domain=domain,
            outputs=[hint if i == 0 else f"{hint}:{i}" for i in range(_outputs)],
            name=hint,
        )
        node.origin = origin
        graph.insert_before(ref, node)
        self.created.append(node)
        try:
            infer_node(node)
            problem = check_node(node)
        except PlanishError as error:
            problem = error.message
        if problem:
            raise PassError(
                f"emitted an invalid {op}: {problem}",
                where=self.owner,
                at=repr(node),
                help=f"the pass is at fault: opset {graph.opsets.get(domain)} of {domain or 'ai.onnx'!r} is imported",
            )
        return node.output if _outputs == 1 else node.outputs

    def __getattr__(self, op: str) -> Callable[..., Any]:
        if not op[:1].isupper():
            raise AttributeError(op)
        return lambda *inputs, **attrs: self.op(op, *inputs, **attrs)

    def const(
        self,
        data: Constant | np.ndarray[Any, Any] | np.generic | float | list[Any],
        dtype: DType | None = None,
        name: str = "",
    ) -> Value:
        """A constant, owned by the outermost graph so that every body sees it; one value everywhere takes no room."""
        if not isinstance(data, Constant):
            array = np.asarray(data)
            data = ArrayConstant(array if dtype is None else array.astype(dtype.numpy))
        if isinstance(data, ArrayConstant):
            data = compacted(data)
        if not name:
            origin = self._origin
            name = f"{origin[-1] if origin else 'const'}/const"
        value = self.graph.root.add_constant(data, name)
        self._constants.append(value)
        return value

    def _constant_of(self, v: Constant | np.ndarray[Any, Any] | np.generic | float, like: DType | None) -> Value:
        if isinstance(v, (bool, int, float)) and like is not None:
            return self.const(v, like)
        return self.const(v)

    # -- changing

    def replace(self, node: Node, new: Value | Iterable[Value | None]) -> None:
        """Replaces ``node``'s outputs by ``new`` (one for each used output), then erases it and what it alone needed.

        Raises ``PassError`` when a replacement's type contradicts the replaced value's.
        """
        values = [new] if isinstance(new, Value) else list(new)
        for i, out in enumerate(node.outputs):
            value = values[i] if i < len(values) else None
            if value is None:
                if out.uses:
                    raise PassError(f"no replacement for used result %{out.name}", where=self.owner, at=repr(node))
                continue
            self.replace_value(out, value)
        self.changes += 1
        self.erase(node)

    def replace_value(self, old: Value, new: Value) -> None:
        """Makes every user of ``old`` take ``new``. Name and proven type of ``old`` pass to a fresh ``new``."""
        if old is new:
            return
        merged = _merged(old.type, new.type)
        if isinstance(merged, str):
            raise PassError(
                f"replacement changes the type of %{old.name} from {old.type} to {new.type}: {merged}",
                where=self.owner,
                at=repr(old.producer or old),
                help="the pass is at fault; skip it with --disable and report it",
            )
        new.type = merged
        if new.known is None:
            new.known = old.known
        if merged != old.type or new.known != old.known or (new.data is not None and old.data is None):
            self.retyped.update((user, None) for user, _ in old.uses)
        self.touched.extend(user for user, _ in old.uses if user.op != RETURN)
        old.replace_uses(new)
        if new.producer is not None and new.producer in self.created:
            new.name, new.producer.name = old.name, (old.producer.name if old.producer else old.name)
        self.changes += 1

    def erase(self, node: Node) -> None:
        """Erases ``node``, then every producer and constant that nothing uses any more."""
        stack = [node]
        while stack:
            dead = stack.pop()
            if dead.erased:
                continue
            operands = [v for v in dead.inputs if v is not None]
            captured = [v for n in _inner_nodes(dead) for v in n.inputs if v is not None] if dead.attrs else []
            dead.erase()
            self.changes += 1
            for value in operands + captured:
                producer = value.producer
                if value.data is not None:
                    if not value.uses and value.graph is not None:
                        value.graph.constants.pop(value, None)
                elif producer is not None and not producer.erased and producer.graph is not None:
                    if is_dead(producer):
                        stack.append(producer)
                    else:
                        self.touched.append(producer)
                        self.touched.extend(u for u, _ in list(value.uses)[:4] if u.op != RETURN)

    def set_input(self, node: Node, i: int, value: Value | None) -> None:
        """Replaces an operand; what it alone needed is erased."""
        old = node.inputs[i]
        if old is value:
            return
        node.set_input(i, value)
        self._after_edit(node, [old])

    def set_inputs(self, node: Node, values: Iterable[Value | None]) -> None:
        """Replaces all operands."""
        old = list(node.inputs)
        node.set_inputs(values)
        self._after_edit(node, old)

    def set_attr(self, node: Node, name: str, value: Any) -> None:
        """Sets an attribute, or removes it with ``None``."""
        if value is None:
            node.attrs.pop(name, None)
        else:
            node.set_attr(name, value)
        self._after_edit(node, [])

    def annotate(self, value: Value, quant: Quant | None) -> None:
        """Says how a tensor is to be stored, or with ``None`` no longer says so."""
        t = value.tensor
        if t is None:
            raise PassError(f"%{value.name} is no tensor and cannot be quantized", where=self.owner)
        if t.quant != quant:
            value.type = dataclasses.replace(t, quant=quant)
            self.changes += 1

    def lay_out(self, value: Value, layout: Layout | None) -> None:
        """Says in which order of axes a tensor is to be stored, or with ``None`` no longer says so."""
        t = value.tensor
        if t is None:
            raise PassError(f"%{value.name} is no tensor and has no layout", where=self.owner)
        if t.layout != layout:
            value.type = dataclasses.replace(t, layout=layout)
            self.changes += 1

    def drop_output(self, node: Node, i: int) -> None:
        """Takes an unused result off the node's list."""
        if node.outputs[i].uses:
            raise PassError(f"result %{node.outputs[i].name} is still used", where=self.owner, at=repr(node))
        del node.outputs[i]
        for k, out in enumerate(node.outputs):
            out.index = k
        self.changes += 1
        self.touched.append(node)

    def remove_constant(self, value: Value) -> None:
        """Removes a constant that nothing uses."""
        if value.graph is not None:
            value.graph.remove_constant(value)
        self.changes += 1

    def move_constant(self, value: Value, graph: Graph) -> None:
        """Gives a constant to a graph further out."""
        if value.graph is not None and value.graph is not graph:
            value.graph.constants.pop(value, None)
            value.graph = graph
            graph.constants[value] = None
            self.changes += 1

    def _after_edit(self, node: Node, old: list[Value | None]) -> None:
        self.changes += 1
        self.touched.append(node)
        self.retyped[node] = None
        for value in old:
            if value is None or value.uses:
                continue
            if value.data is not None and value.graph is not None:
                value.graph.constants.pop(value, None)
            elif value.producer is not None and is_dead(value.producer):
                self.erase(value.producer)

    def settle(self) -> list[Node]:
        """Infers types anew where edits may have made them more precise; returns the nodes whose results changed.

        Types only become more precise: what was proven before the edit holds for the value after it too.
        The engine and the manager call this.
        """
        changed: dict[Node, None] = {}
        work, self.retyped = deque(self.retyped), {}
        waiting = set(work)
        budget = SETTLE_VISITS + 8 * len(work)
        while work and budget:
            budget -= 1
            node = work.popleft()
            waiting.discard(node)
            if node.op == RETURN and node.graph is not None and node.graph.parent is not None:
                node = node.graph.parent  # what a body returns is a result of the node that runs it
            if node.erased or node.graph is None or node.op == RETURN or not _infer_more(node):
                continue
            changed[node] = None
            for out in node.outputs:
                for user, _ in out.uses:
                    if user not in waiting:
                        waiting.add(user)
                        work.append(user)
        return list(changed)

    # -- accounting

    def allow(self, node: Node) -> bool:
        """For passes in plain code: whether one more change may be made at ``node``; counts it."""
        if self.ctx.fuel.empty:
            return False
        self._show()
        self.applied(self.owner, node)
        return True

    def allow_value(self, value: Value) -> bool:
        """:meth:`allow` for a change that concerns a constant."""
        if self.ctx.fuel.empty:
            return False
        self._show()
        self._log(self.owner, value.name, ())
        return True

    def take(
        self,
        label: str,
        subject: Node | Value | str,
        *,
        error: float = 1.0,
        saved_bytes: int = 0,
        saved_flops: int = 0,
        others: Iterable[Node | Value] | None = None,
    ) -> bool:
        """For lossy passes: whether the change at ``subject`` may be made; asked before anything is changed.

        ``label`` is the name of the pass or ``pass/Rule``; the figures are predictions, see ``Unit``. With
        ``others`` it excludes what other passes propose there, and at these, which it decides as well. A pass that
        asks sets ``proposes``. Fuel is counted apart, by the engine or :meth:`allow`.
        """
        key = label if isinstance(subject, str) else f"{label}@{subject.name}"
        beside = None if others is None else tuple(other.name for other in others)
        return self.ctx.choices.take(Unit(key, error, saved_bytes, saved_flops, beside), subject)

    def note_change(self, what: str) -> None:
        """Counts a change that concerns neither node nor value, such as the removal of a function."""
        self.changes += 1
        self._log(self.owner, what, ())

    def applied(self, label: str, node: Node) -> None:
        """Counts one application of a rule."""
        if self.ctx.log is None:
            self._log(label, node.name, ())
            return
        # An erased node has lost its results, not their names.
        at = node.name or next((f"%{out.name}" for out in node.outputs if out.name), node.op)
        self._log(label, at, origin_of([node]))

    def _show(self) -> None:
        """Shows what a pass in plain code did before the change that it is about to make."""
        if self.ctx.witness is not None:
            self.ctx.witness(self.owner)

    def _log(self, label: str, at: str, origin: tuple[str, ...]) -> None:
        fuel = self.ctx.fuel
        fuel.spent += 1
        if self.ctx.log is not None:
            self.ctx.log.append(Application(fuel.spent, label, at, origin))


def _infer_more(node: Node) -> bool:
    """Infers the node's results again, keeping what was known; ``True`` where more is known now."""
    before = [(out.type, out.known) for out in node.outputs]
    try:
        infer_node(node)
    except ModelError:  # the model was inconsistent here from the start, or in a branch that never runs
        for out, (type, known) in zip(node.outputs, before, strict=True):
            out.type, out.known = type, known
        return False
    more = False
    for out, (type, known) in zip(node.outputs, before, strict=True):
        merged = _merged(type, out.type)
        out.type = out.type if isinstance(merged, str) else merged
        out.known = known if out.known is None else out.known
        more = more or out.type != type or out.known != known
    return more


def origin_of(nodes: Iterable[Node]) -> tuple[str, ...]:
    """Names of the original nodes that ``nodes`` come from, at most eight."""
    found: dict[str, None] = {}
    for node in nodes:
        for name in node.origin or ((node.name,) if node.name else ()):
            found[name] = None
    return tuple(found)[:8]


def is_dead(node: Node) -> bool:
    """Whether nothing uses any result and the node may go."""
    for out in node.outputs:
        if out.uses:
            return False
    return node.op != RETURN and is_removable(node)


def _inner_nodes(node: Node) -> Iterable[Node]:
    for body in node.subgraphs:
        yield body.ret
        for inner in body.all_nodes():
            yield inner
            for deeper in inner.subgraphs if inner.attrs else ():
                yield deeper.ret


def _merged(old: Type | None, new: Type | None) -> Type | str | None:
    """The common refinement of two sound types of one value, or what contradicts."""
    if old is None or new is None or old == new:
        return new if old is None else old
    if not (isinstance(old, TensorType) and isinstance(new, TensorType)):
        return new if type(old) is type(new) else "different kinds of type"
    if old.dtype is not new.dtype and old.dtype is not None and new.dtype is not None:
        return "different element types"
    dtype = new.dtype or old.dtype
    if old.shape is None or new.shape is None:
        return TensorType(dtype, old.shape if new.shape is None else new.shape, new.layout, new.quant)
    if len(old.shape) != len(new.shape):
        return f"rank {len(old.shape)} became {len(new.shape)}"
    shape: list[Any] = []
    for i, (a, b) in enumerate(zip(old.shape, new.shape, strict=True)):
        if isinstance(a, int) and isinstance(b, int) and a != b:
            return f"dimension {i} was {a} and became {b}"
        shape.append(b if a is None or isinstance(b, int) else a)
    return TensorType(dtype, tuple(shape), new.layout, new.quant)
