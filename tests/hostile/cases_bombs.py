"""Small files that ask for much memory or time."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper

from .parts import BOOL, F32, I64, SURVIVES, Case, array, info, model, node, written

ENDLESS = "the limit is|within the limits"


def _of(*nodes: onnx.NodeProto, **tensors: Any) -> onnx.ModelProto:
    """Constant arithmetic that ends in ``big``, added to nothing; ``y`` is its shape and ``x``."""
    extra = [node("Shape", ["big"], ["s"]), node("Cast", ["s"], ["f"], to=F32), node("ReduceSum", ["f"], ["r"])]
    last = node("Add", ["x", "r"], ["y"])
    weights = [array(name, data) for name, data in tensors.items()]
    return model([*nodes, *extra, last], tensors=weights)


def _used(*nodes: onnx.NodeProto, **tensors: Any) -> onnx.ModelProto:
    """Constant arithmetic whose result ``big`` every run needs."""
    weights = [array(name, data) for name, data in tensors.items()]
    reduce = node("ReduceMax", ["big"], ["r"], keepdims=0)
    return model([*nodes, reduce, node("Add", ["x", "r"], ["y"])], tensors=weights)


def _fill(*shape: int) -> onnx.ModelProto:
    return _used(node("ConstantOfShape", ["n"], ["big"], name="bomb"), n=np.array(shape, np.int64))


def _range(limit: float, step: float) -> onnx.ModelProto:
    start, end, delta = (np.array(v, np.float64) for v in (0, limit, step))
    return _of(node("Range", ["a", "b", "c"], ["big"], name="bomb"), a=start, b=end, c=delta)


def _doubling(op: str, times: int) -> onnx.ModelProto:
    """A tensor that doubles at each step, from elements that differ."""
    nodes = []
    for i in range(times):
        end = f"t{i + 1}" if i < times - 1 else "big"
        if op == "Concat":
            nodes.append(node("Concat", [f"t{i}", f"t{i}"], [end], axis=0))
        elif op == "StringConcat":
            nodes.append(node("StringConcat", [f"t{i}", f"t{i}"], [end]))
        else:
            nodes.append(node("Tile", [f"t{i}", "two"], [end]))
    start: Any = np.array(["ab"], object) if op == "StringConcat" else np.array([1, 2], np.float32)
    return _of(*nodes, t0=start, two=np.array([2], np.int64))


def _polynomial(times: int) -> onnx.ModelProto:
    """(N + M + 1)^(2^times) as shape arithmetic: as many terms as that has, were it multiplied out."""
    nodes = [
        node("Shape", ["x"], ["s0"]),
        node("ReduceSum", ["s0"], ["sum"], keepdims=1),
        node("Add", ["sum", "one"], ["p0"]),
    ]
    nodes += [node("Mul", [f"p{i}", f"p{i}"], [f"p{i + 1}"]) for i in range(times)]
    nodes.append(node("ConstantOfShape", [f"p{times}"], ["y"], name="bomb"))
    shape = ["N", "M", "K", "L"]
    return model(nodes, inputs=[info("x", F32, shape)], tensors=[array("one", [1])])


def _symbols(times: int) -> onnx.ModelProto:
    """Shapes that double: each axis the sum of all axes before."""
    nodes = []
    for i in range(times):
        nodes.append(node("Concat", [f"t{i}", f"t{i}"], [f"t{i + 1}" if i < times - 1 else "y"], axis=0))
    return model([node("Identity", ["x"], ["t0"]), *nodes], inputs=[info("x", F32, ["N"])])


def _loop(trips: int | None, *, grow: bool = False) -> onnx.ModelProto:
    """A loop over nothing but constants."""
    step = node("Concat", ["v", "v"], ["w"], axis=0) if grow else node("Add", ["v", "v"], ["w"])
    body = helper.make_graph(
        [node("Identity", ["c"], ["c2"]), step],
        "body",
        [info("i", I64, []), info("c", BOOL, []), info("v", F32, None)],
        [info("c2", BOOL, []), info("w", F32, None)],
    )
    tensors = [array("go", True), array("start", [1.0], np.float32)]
    if trips is not None:
        tensors.append(array("n", trips, np.int64))
    loop = node("Loop", ["n" if trips is not None else "", "go", "start"], ["big"], name="bomb", body=body)
    return model([loop, node("ReduceMax", ["big"], ["r"], keepdims=0), node("Add", ["x", "r"], ["y"])], tensors=tensors)


def _nested_loops(depth: int) -> onnx.ModelProto:
    """Loops of a thousand trips within each other."""

    def body(level: int) -> onnx.GraphProto:
        inner = (
            node("Loop", ["n", "go", f"v{level}"], [f"w{level}"], body=body(level - 1))
            if level
            else node("Add", [f"v{level}", "one"], [f"w{level}"])
        )
        return helper.make_graph(
            [node("Identity", [f"c{level}"], [f"d{level}"]), inner],
            f"body{level}",
            [info(f"i{level}", I64, []), info(f"c{level}", BOOL, []), info(f"v{level}", F32, None)],
            [info(f"d{level}", BOOL, []), info(f"w{level}", F32, None)],
        )

    tensors = [array("go", True), array("one", [1.0], np.float32), array("n", 1000)]
    loop = node("Loop", ["n", "go", "one"], ["big"], name="bomb", body=body(depth))
    return model([loop, node("Add", ["x", "big"], ["y"])], tensors=tensors)


def _resize() -> onnx.ModelProto:
    scales = np.array([1, 1, 1e5, 1e5], np.float32)
    image = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    return _used(
        node("Resize", ["image", "", "scales"], ["big"], name="bomb", mode="nearest"), image=image, scales=scales
    )


def _random() -> onnx.ModelProto:
    return _used(node("RandomNormal", [], ["big"], name="bomb", shape=[1 << 20, 1 << 20], dtype=F32))


def _matmul() -> onnx.ModelProto:
    """A product of two columns, which is large though its operands are small."""
    column = np.arange(1 << 16, dtype=np.float32)
    return _used(node("MatMul", ["a", "b"], ["big"], name="bomb"), a=column[:, None], b=column[None])


def _einsum() -> onnx.ModelProto:
    """An outer product over eight axes."""
    letters = "abcdefgh"
    equation = ",".join(letters) + "->" + letters
    return _used(node("Einsum", ["v"] * 8, ["big"], name="bomb", equation=equation), v=np.arange(100, dtype=np.float32))


def _input(*shape: int) -> onnx.ModelProto:
    return model([node("Neg", ["x"], ["y"])], inputs=[info("x", F32, list(shape))])


def _conv_pads() -> onnx.ModelProto:
    pads = [1 << 20] * 4
    w = array("w", np.ones((1, 1, 1, 1), np.float32))
    nodes = [node("Conv", ["x", "w"], ["y"], name="bomb", pads=pads)]
    return model(nodes, inputs=[info("x", F32, [1, 1, 4, 4])], tensors=[w])


def _int64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


TINY = np.array([1, 2], np.float32)
CASES = [
    Case("fill-terabyte", "ConstantOfShape of 2^40 elements", written(lambda: _fill(1 << 40)), SURVIVES, after=ENDLESS),
    Case(
        "fill-square",
        "ConstantOfShape of 200,000 by 200,000",
        written(lambda: _fill(200_000, 200_000)),
        SURVIVES,
        after=ENDLESS,
    ),
    Case(
        "fill-overflow",
        "ConstantOfShape whose size is beyond 64 bits",
        written(lambda: _fill(1 << 62, 1 << 62)),
        SURVIVES,
        after=".",
    ),
    Case("fill-negative", "ConstantOfShape of a negative extent", written(lambda: _fill(-5)), "ConstantOfShape|bomb"),
    Case("range-long", "Range to 10^12", written(lambda: _range(1e12, 1)), SURVIVES, after=ENDLESS),
    Case("range-small-step", "Range in steps of 10^-30", written(lambda: _range(1, 1e-30)), "bomb"),
    Case(
        "range-zero-step",
        "Range in steps of 0",
        written(lambda: _range(1, 0)),
        SURVIVES,
        after=".",
    ),
    Case("range-nan", "Range to nowhere", written(lambda: _range(float("nan"), 1)), "bomb"),
    Case(
        "expand",
        "Expand to 10^12 elements",
        written(lambda: _of(node("Expand", ["v", "n"], ["big"]), v=TINY, n=_int64(500_000_000_000, 2))),
        SURVIVES,
        after=ENDLESS,
    ),
    Case(
        "tile",
        "Tile to 10^12 elements",
        written(lambda: _of(node("Tile", ["v", "n"], ["big"]), v=TINY, n=_int64(500_000_000_000))),
        SURVIVES,
        after=ENDLESS,
    ),
    Case(
        "tile-overflow",
        "Tile beyond 64 bits",
        written(lambda: _of(node("Tile", ["v", "n"], ["big"], name="bomb"), v=TINY, n=_int64((1 << 63) - 1))),
        "bomb",
    ),
    Case(
        "pad",
        "Pad by 10^12",
        written(lambda: _of(node("Pad", ["v", "n"], ["big"]), v=TINY, n=_int64(10**12, 0))),
        SURVIVES,
        after=ENDLESS,
    ),
    Case(
        "concat-doubling",
        "40 times a tensor with itself",
        written(lambda: _doubling("Concat", 40)),
        SURVIVES,
        after=ENDLESS,
    ),
    Case("tile-doubling", "60 times a tensor doubled", written(lambda: _doubling("Tile", 60)), SURVIVES, after=ENDLESS),
    Case(
        "string-doubling",
        "40 times a string with itself",
        written(lambda: _doubling("StringConcat", 40)),
        SURVIVES,
        after="StringConcat|within the limits",
    ),
    Case("resize", "Resize by 100,000 each way", written(_resize), SURVIVES, after=ENDLESS),
    Case(
        "one-hot",
        "OneHot of depth 10^12",
        written(lambda: _of(node("OneHot", ["i", "d", "v"], ["big"]), i=_int64(1, 2), d=_int64(10**12), v=TINY)),
        SURVIVES,
        after=ENDLESS,
    ),
    Case(
        "eye",
        "EyeLike of a tensor that is not there",
        written(
            lambda: _of(
                node("ConstantOfShape", ["n"], ["z"]), node("EyeLike", ["z"], ["big"]), n=_int64(1 << 20, 1 << 20)
            )
        ),
        SURVIVES,
        after=ENDLESS,
    ),
    Case("matmul", "a product of a column and a row of 65,536", written(_matmul), SURVIVES, after=ENDLESS),
    Case("einsum", "an outer product over eight axes", written(_einsum), SURVIVES, after=ENDLESS),
    Case("random", "RandomNormal of 2^40 elements", written(_random), SURVIVES, after="."),
    Case("conv-pads", "Conv that pads by a million", written(_conv_pads), SURVIVES, after=ENDLESS),
    Case(
        "input-terabyte",
        "an input of a terabyte",
        written(lambda: _input(1 << 20, 1 << 18)),
        SURVIVES,
        after="x.* bytes",
    ),
    Case("input-overflow", "an input beyond 64 bits", written(lambda: _input(1 << 62, 1 << 62)), SURVIVES, after="."),
    Case("loop-endless", "a loop that never ends", written(lambda: _loop(None)), SURVIVES, after=ENDLESS),
    Case("loop-long", "a loop of 10^18 rounds", written(lambda: _loop(10**18)), SURVIVES, after=ENDLESS),
    Case(
        "loop-doubling",
        "a loop that doubles a tensor 60 times",
        written(lambda: _loop(60, grow=True)),
        SURVIVES,
        after=".",
    ),
    Case(
        "loops-nested",
        "loops of 1,000 rounds, eight within each other",
        written(lambda: _nested_loops(7)),
        SURVIVES,
        after=ENDLESS,
    ),
    Case("polynomial", "shape arithmetic of 2^30 terms", written(lambda: _polynomial(30)), SURVIVES, after="."),
    Case("shape-doubling", "60 times an input with itself", written(lambda: _symbols(60)), SURVIVES, after="."),
]
