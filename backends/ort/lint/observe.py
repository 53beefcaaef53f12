"""What a session of ONNX Runtime really makes of a model, node by node: the truth that predictions are held against.

The session saves the model that it executes; nodes keep their names there, or get names made of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ....ir.clone import clone_model
from ....ir.graph import Model
from ....ir.onnx_writer import write_model
from ..session import SessionSettings, backend_error
from .integer_ops import INTEGER_OPS

_NAME = re.compile(r"(?:fused )?n(\d+)_(?:/|$|_token)")
"""Names given here, also as the runtime lengthens them: ``n7_/MatMulAddFusion``, ``fused n7_``, ``n7__token_1``."""
_STORED = frozenset((2, 3, 4, 5, 21, 22, 25, 26))
"""ONNX codes of 16-bit and narrower integers."""
_PAIRS = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class Executed:
    """One node of the saved model."""

    op: str
    integer: bool
    """Whether it computes on, or moves, stored integers."""


@dataclass(frozen=True)
class Observed:
    """What became of the nodes of a model; those that are not there vanished."""

    nodes: dict[int, Executed]
    """By position among all nodes of the model, as ``Finding.place``."""
    pairs: int
    """QuantizeLinear and DequantizeLinear nodes that are executed."""


def observe(model: Model, *, level: str = "extended", config: tuple[tuple[str, str], ...] = ()) -> Observed:
    """Makes a session and reads what it saved. Raises ``BackendError`` where the runtime refuses the model."""
    import onnx

    copy = clone_model(model)
    for i, node in enumerate(copy.all_nodes()):
        node.name = f"n{i}_"
    with TemporaryDirectory() as folder:
        before, after = Path(folder, "before.onnx"), Path(folder, "after.onnx")
        write_model(copy, before)
        _make_session(before, after, SessionSettings(level, threads=1, config=config))
        saved = onnx.load(str(after), load_external_data=False)
    found: dict[int, Executed] = {}
    pairs = 0
    for node, integer in _walk(saved.graph):
        pairs += node.op_type in _PAIRS
        named = _NAME.match(node.name)
        if named is not None and node.op_type not in _PAIRS:
            place = int(named[1])
            found[place] = _merge(found.get(place), Executed(node.op_type, integer))
    return Observed(found, pairs)


def _merge(old: Executed | None, new: Executed) -> Executed:
    """A node that stands in several places: integers only if in all."""
    return new if old is None or old.integer else old


def _make_session(before: Path, after: Path, settings: SessionSettings) -> None:
    import onnxruntime

    options = settings.options()
    options.optimized_model_filepath = str(after)
    try:
        onnxruntime.InferenceSession(str(before), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise backend_error("load", error) from error


def _walk(graph: Any) -> Iterator[tuple[Any, bool]]:
    """Nodes of a saved graph and its bodies, and whether each works on stored integers."""
    todo: list[tuple[Any, frozenset[str]]] = [(graph, frozenset())]
    while todo:
        graph, outer = todo.pop()
        held = set(outer) | _stored_names(graph)
        for node in graph.node:
            integer = _is_integer(node, held)
            yield node, integer
            if _gives_stored(node, integer=integer):
                held.update(node.output)
            todo.extend((g, frozenset(held)) for g in _bodies(node))


def _is_integer(node: Any, held: Iterable[str]) -> bool:
    if node.op_type in INTEGER_OPS:
        return True
    return node.op_type not in _PAIRS and bool(node.input) and node.input[0] in held


def _gives_stored(node: Any, *, integer: bool) -> bool:
    """Whether results are stored integers; kernels that give floats, or 32-bit sums, are not."""
    if node.op_type == "QGemm":
        return len(node.input) > 7
    if node.op_type in INTEGER_OPS:
        return node.op_type.startswith("QLinear") or node.op_type == "NhwcMaxPool"
    return integer or node.op_type == "QuantizeLinear"


def _stored_names(graph: Any) -> set[str]:
    names = {t.name for t in graph.initializer if t.data_type in _STORED}
    return names | {i.name for i in graph.input if i.type.tensor_type.elem_type in _STORED}


def _bodies(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs
