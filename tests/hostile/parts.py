"""What hostile models are made of, and what a case is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

F32, I64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
node = helper.make_node
SURVIVES = "survives"
"""Expected where the file is odd but a model: it loads, goes through the pipeline, and is written again."""


@dataclass(frozen=True)
class Case:
    """One hostile file."""

    name: str
    wrong: str
    """What is wrong with it."""
    build: Callable[[Path], Path]
    """Writes the file (and what belongs to it) into a folder."""
    says: str
    """Pattern of the message that names the culprit, or ``SURVIVES``."""
    later: Callable[[Path], None] | None = None
    """What happens to the folder between reading and writing."""
    after: str = ""
    """What the command line says to a model that survives in the library (the runtime refuses it); ``SURVIVES`` where
    the runtime takes what the library refuses, so that there is nothing to say."""
    command: str = "optimize"


def info(name: str, dtype: int = F32, shape: Sequence[Any] | None = (2,)) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def array(name: str, data: Any, dtype: Any = None) -> TensorProto:
    return numpy_helper.from_array(np.asarray(data, dtype), name)


def model(
    nodes: Sequence[onnx.NodeProto],
    *,
    inputs: Sequence[onnx.ValueInfoProto] | None = None,
    outputs: Sequence[onnx.ValueInfoProto] | None = None,
    tensors: Sequence[TensorProto] = (),
    opset: int = 21,
    ir_version: int = 10,
) -> onnx.ModelProto:
    """A model around nodes that make ``y`` from ``x``."""
    graph = helper.make_graph(
        list(nodes),
        "main",
        list(inputs) if inputs is not None else [info("x")],
        list(outputs) if outputs is not None else [info("y", shape=None)],
        list(tensors),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def sound() -> onnx.ModelProto:
    """y[2] = x[2] + w[2], the node is called ``sum``."""
    return model([node("Add", ["x", "w"], ["y"], name="sum")], tensors=[array("w", [1, 1], np.float32)])


def written(proto: onnx.ModelProto | Callable[[], onnx.ModelProto]) -> Callable[[Path], Path]:
    """Writes a model."""

    def build(folder: Path) -> Path:
        path = folder / "model.onnx"
        made = proto if isinstance(proto, onnx.ModelProto) else proto()
        path.write_bytes(made.SerializeToString())
        return path

    return build


def raw(data: bytes | Callable[[], bytes], name: str = "model.onnx") -> Callable[[Path], Path]:
    """Writes bytes."""

    def build(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(data if isinstance(data, bytes) else data())
        return path

    return build


def spoiled(change: Callable[[onnx.ModelProto], Any]) -> Callable[[Path], Path]:
    """Writes the sound model after a change to it."""

    def make() -> onnx.ModelProto:
        made = sound()
        change(made)
        return made

    return written(make)
