"""Nodes that no schema allows, or whose numbers make no sense."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from .parts import F32, SURVIVES, Case, array, info, model, node, written


def _one(
    op: str,
    inputs: list[str] | None = None,
    *,
    shape: Any = (1, 4, 8, 8),
    tensors: dict[str, Any] | None = None,
    outputs: int = 1,
    **attrs: Any,
) -> onnx.ModelProto:
    """A model of the one node ``culprit``."""
    outs = ["y", *(f"y{i}" for i in range(1, outputs))]
    weights = [array(name, data) for name, data in (tensors or {}).items()]
    made = node(op, inputs or ["x"], outs, name="culprit", **attrs)
    return model([made], inputs=[info("x", F32, shape)], tensors=weights)


def _case(
    name: str, wrong: str, says: str, op: str, inputs: list[str] | None = None, after: str = "", **more: Any
) -> Case:
    return Case(name, wrong, written(lambda: _one(op, inputs, **more)), says, after=after)


def _i(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


W = np.ones((4, 4, 3, 3), np.float32)
CULPRIT = "culprit"
CASES = [
    _case("operand-missing", "Conv without weights", CULPRIT, "Conv"),
    _case("operands-many", "Relu of three", CULPRIT, "Relu", ["x", "x", "x"]),
    _case("results-many", "Relu with three results", CULPRIT, "Relu", outputs=3),
    _case("operand-type", "MatMul of strings", CULPRIT, "MatMul", ["x", "w"], tensors={"w": np.array(["a"], object)}),
    _case("attribute-kind", "axis as a string", CULPRIT, "Softmax", axis="one"),
    _case("attribute-unknown", "an attribute that the operator lacks", CULPRIT, "Relu", sharpness=3),
    _case("attribute-missing", "Cast to nothing", CULPRIT, "Cast"),
    _case("cast-unknown", "Cast to element type 99", CULPRIT, "Cast", to=99),
    _case("cast-undefined", "Cast to element type 0", SURVIVES, "Cast", to=0, after=CULPRIT),
    _case("perm-repeated", "Transpose with an axis twice", CULPRIT, "Transpose", perm=[0, 0, 1, 2]),
    _case("perm-beyond", "Transpose by an axis that is not there", CULPRIT, "Transpose", perm=[0, 1, 2, 1 << 40]),
    _case("perm-short", "Transpose of three of four axes", CULPRIT, "Transpose", perm=[0, 1, 2]),
    _case("axis-beyond", "Softmax along axis 2^62", CULPRIT, "Softmax", axis=1 << 62, after=SURVIVES),
    _case("axis-negative", "Concat along axis -9", CULPRIT, "Concat", ["x", "x"], axis=-9),
    _case("axes-beyond", "Squeeze of axis 9", CULPRIT, "Squeeze", ["x", "a"], tensors={"a": _i(9)}),
    _case("axes-repeated", "Unsqueeze of one axis twice", CULPRIT, "Unsqueeze", ["x", "a"], tensors={"a": _i(1, 1)}),
    _case(
        "axes-huge",
        "Unsqueeze of a hundred thousand axes",
        SURVIVES,
        "Unsqueeze",
        ["x", "a"],
        tensors={"a": np.arange(100_000)},
        after=".",
    ),
    _case("reshape-negative", "Reshape to -5", CULPRIT, "Reshape", ["x", "s"], tensors={"s": _i(-5, 4)}),
    _case(
        "reshape-two-open", "Reshape with two open extents", CULPRIT, "Reshape", ["x", "s"], tensors={"s": _i(-1, -1)}
    ),
    _case(
        "reshape-unfit",
        "Reshape to another number of elements",
        CULPRIT,
        "Reshape",
        ["x", "s"],
        tensors={"s": _i(7, 3)},
    ),
    _case(
        "reshape-overflow",
        "Reshape to 2^63 elements",
        CULPRIT,
        "Reshape",
        ["x", "s"],
        tensors={"s": _i(1 << 62, 2, -1)},
    ),
    _case("kernel-zero", "pooling over nothing", SURVIVES, "MaxPool", kernel_shape=[0, 0], after=CULPRIT),
    _case(
        "kernel-negative", "pooling over a negative window", SURVIVES, "MaxPool", kernel_shape=[-3, 3], after=CULPRIT
    ),
    _case(
        "kernel-beyond",
        "pooling over more than there is",
        SURVIVES,
        "MaxPool",
        kernel_shape=[1 << 40, 1 << 40],
        after=CULPRIT,
    ),
    _case("kernel-rank", "a window of three axes over two", CULPRIT, "MaxPool", kernel_shape=[2, 2, 2]),
    _case(
        "strides-zero",
        "a convolution that does not move",
        CULPRIT,
        "Conv",
        ["x", "w"],
        tensors={"w": W},
        strides=[0, 0],
    ),
    _case(
        "strides-negative",
        "a convolution that moves back",
        CULPRIT,
        "Conv",
        ["x", "w"],
        tensors={"w": W},
        strides=[-1, 1],
    ),
    _case("dilations-zero", "dilation 0", CULPRIT, "Conv", ["x", "w"], tensors={"w": W}, dilations=[0, 0]),
    _case("group-zero", "a convolution in no groups", CULPRIT, "Conv", ["x", "w"], tensors={"w": W}, group=0),
    _case(
        "group-unfit",
        "a convolution in three groups of four channels",
        CULPRIT,
        "Conv",
        ["x", "w"],
        tensors={"w": W},
        group=3,
    ),
    _case("channels-unfit", "weights for other channels", CULPRIT, "Conv", ["x", "w"], tensors={"w": W[:, :3]}),
    _case(
        "pads-negative",
        "pads that leave nothing",
        SURVIVES,
        "Conv",
        ["x", "w"],
        tensors={"w": W},
        pads=[-9, -9, -9, -9],
        after=CULPRIT,
    ),
    _case("pads-short", "pads for one side", CULPRIT, "Conv", ["x", "w"], tensors={"w": W}, pads=[1, 1]),
    _case(
        "split-unfit",
        "Split into other sizes",
        CULPRIT,
        "Split",
        ["x", "s"],
        tensors={"s": _i(1, 1)},
        axis=1,
        outputs=2,
    ),
    _case(
        "split-negative",
        "Split into a negative size",
        CULPRIT,
        "Split",
        ["x", "s"],
        tensors={"s": _i(5, -1)},
        axis=1,
        outputs=2,
    ),
    _case(
        "slice-still",
        "Slice in steps of 0",
        CULPRIT,
        "Slice",
        ["x", "a", "b", "c", "d"],
        tensors={"a": _i(0), "b": _i(4), "c": _i(1), "d": _i(0)},
    ),
    _case(
        "slice-extreme",
        "Slice at the ends of int64",
        SURVIVES,
        "Slice",
        ["x", "a", "b", "c", "d"],
        tensors={"a": _i((1 << 63) - 1), "b": _i(-(1 << 63)), "c": _i(1), "d": _i(-(1 << 63))},
        after=".",
    ),
    _case(
        "gather-beyond",
        "Gather of row 99 of 4",
        SURVIVES,
        "Gather",
        ["x", "i"],
        tensors={"i": _i(99)},
        axis=1,
        after=".",
    ),
    _case(
        "topk-beyond", "the largest million of eight", CULPRIT, "TopK", ["x", "k"], tensors={"k": _i(10**6)}, outputs=2
    ),
    _case("topk-negative", "the largest -1", CULPRIT, "TopK", ["x", "k"], tensors={"k": _i(-1)}, outputs=2),
    _case("einsum-nonsense", "an equation that is none", CULPRIT, "Einsum", equation="a->->b,,"),
    _case("einsum-letters", "an equation of other ranks", CULPRIT, "Einsum", equation="ab->ba"),
    _case(
        "matmul-unfit",
        "a product of unfit matrices",
        CULPRIT,
        "MatMul",
        ["x", "w"],
        tensors={"w": np.ones((7, 2), np.float32)},
    ),
    _case("add-unfit", "a sum of unfit shapes", CULPRIT, "Add", ["x", "w"], tensors={"w": np.ones((5, 3), np.float32)}),
    _case(
        "resize-both",
        "Resize by scales and sizes",
        SURVIVES,
        "Resize",
        ["x", "", "c", "s"],
        tensors={"c": np.ones(4, np.float32), "s": _i(1, 4, 8, 8)},
        after=CULPRIT,
    ),
    _case(
        "resize-negative",
        "Resize by -1",
        CULPRIT,
        "Resize",
        ["x", "", "c"],
        tensors={"c": np.array([1, 1, -1, -1], np.float32)},
    ),
    _case(
        "quantize-axis",
        "a scale for each of other channels",
        SURVIVES,
        "QuantizeLinear",
        ["x", "s", "z"],
        tensors={"s": np.ones(3, np.float32), "z": np.zeros(3, np.uint8)},
        axis=1,
        after=CULPRIT,
    ),
    _case(
        "block-negative",
        "blocks of -1",
        SURVIVES,
        "QuantizeLinear",
        ["x", "s"],
        tensors={"s": np.ones((1, 4, 8, 8), np.float32)},
        block_size=-1,
        after=CULPRIT,
    ),
    _case("depth-to-space", "blocks of 0", CULPRIT, "DepthToSpace", blocksize=0),
    _case(
        "lstm-unfit",
        "an LSTM with unfit weights",
        SURVIVES,
        "LSTM",
        ["x", "w", "w"],
        tensors={"w": np.ones((1, 3, 3), np.float32)},
        shape=(2, 3, 4),
        hidden_size=7,
        after=CULPRIT,
    ),
]
