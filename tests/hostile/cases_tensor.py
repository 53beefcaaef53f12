"""Tensors whose data is not what they say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from .parts import F32, SURVIVES, Case, array, info, model, node, spoiled, written

Change = Callable[[TensorProto], Any]


def _weight(change: Change) -> Callable[[Path], Path]:
    """The sound model after a change to its weight ``w``, float32 of shape [2]."""
    return spoiled(lambda m: change(m.graph.initializer[0]))


def _typed(dtype: int, dims: list[int], **fields: Any) -> Callable[[Path], Path]:
    """A weight ``w`` of its own, beside an Identity."""
    tensor = TensorProto(name="w", data_type=dtype, dims=dims, **fields)
    return written(model([node("Identity", ["x"], ["y"]), node("Identity", ["w"], ["z"])], tensors=[tensor]))


def _dims(*dims: int) -> Change:
    def change(t: TensorProto) -> None:
        t.dims[:] = dims

    return change


def _raw(data: bytes) -> Change:
    return lambda t: setattr(t, "raw_data", data)


def _sparse(values: Any, indices: Any, dims: list[int]) -> Callable[[Path], Path]:
    made = helper.make_sparse_tensor(array("s", values), array("i", indices), dims)
    return spoiled(lambda m: m.graph.sparse_initializer.append(made))


def _both(t: TensorProto) -> None:
    t.float_data.extend([5, 6])


def _wrong_field(t: TensorProto) -> None:
    t.ClearField("raw_data")
    t.int64_data.extend([1, 2])


def _constant_both(m: onnx.ModelProto) -> None:
    m.graph.node.insert(0, node("Constant", [], ["k"], name="const", value_int=1, value_float=1.0))


def _attribute_short(m: onnx.ModelProto) -> None:
    short = TensorProto(name="t", data_type=F32, dims=[3], raw_data=b"\0" * 4)
    m.graph.node.insert(0, node("Constant", [], ["k"], name="const", value=short))


def _input_and_weight() -> onnx.ModelProto:
    """An input of float whose initializer is a string of another shape."""
    graph = [node("Neg", ["x"], ["y"])]
    return model(graph, inputs=[info("x", F32, [2])], tensors=[array("x", np.array(["a", "b", "c"], object))])


def _zero_point() -> onnx.ModelProto:
    nodes = [node("QuantizeLinear", ["x", "scale", "zero"], ["y"], name="quantize")]
    zero = TensorProto(name="zero", data_type=TensorProto.UINT8, dims=[], int32_data=[300])
    return model(nodes, tensors=[array("scale", 0.1, np.float32), zero])


def _empty_and_huge() -> onnx.ModelProto:
    """No elements, yet extents whose product without the zero is beyond 64 bits."""
    t = TensorProto(name="w", data_type=F32, dims=[0, 1 << 62, 1 << 62])
    return model([node("Identity", ["x"], ["y"]), node("Identity", ["w"], ["z"])], tensors=[t])


BIG = 1 << 62
CASES = [
    Case("dims-negative", "an extent of -1", _weight(_dims(-1)), "tensor 'w' has shape .-1.: an extent is negative"),
    Case(
        "dims-two-negative",
        "two negative extents, whose product is right",
        _weight(_dims(-1, -2)),
        "tensor 'w' has shape",
    ),
    Case(
        "dims-overflow", "extents whose product is 0 in 64 bits", _weight(_dims(BIG, 4)), "tensor 'w' has shape .* over"
    ),
    Case(
        "dims-overflow-right",
        "extents whose product is 2 in 64 bits",
        _weight(_dims((1 << 63) - 1, (1 << 63) - 1, 2)),
        "tensor 'w' has shape",
    ),
    Case(
        "dims-many", "a thousand axes", _weight(_dims(*[1] * 999, 2)), "tensor 'w' has 1000 axes, expected at most 64"
    ),
    Case(
        "dims-lie", "a shape of a terabyte over 8 bytes", _weight(_dims(1 << 38)), "tensor 'w': 8 bytes of data found"
    ),
    Case("dims-empty-huge", "no elements of absurd extents", written(_empty_and_huge), SURVIVES, after="."),
    Case("raw-short", "a byte too few", _weight(_raw(bytes(7))), "tensor 'w': 7 bytes of data found, .* takes 8"),
    Case("raw-long", "a byte too many", _weight(_raw(bytes(9))), "tensor 'w': 9 bytes of data found"),
    Case("data-none", "no data", _weight(lambda t: t.ClearField("raw_data")), "tensor 'w': .*takes 8"),
    Case(
        "data-twice",
        "raw and typed data that disagree",
        _weight(_both),
        "tensor 'w' holds its data twice, in raw_data and float_data",
    ),
    Case(
        "data-wrong-field",
        "floats in the field of integers",
        _weight(_wrong_field),
        "tensor 'w': .*int64_data.*float_data",
    ),
    Case(
        "type-none", "no element type", _weight(lambda t: t.ClearField("data_type")), "tensor 'w' has no element type"
    ),
    Case(
        "type-unknown",
        "element type 77",
        _weight(lambda t: setattr(t, "data_type", 77)),
        "tensor 'w' has element type 77",
    ),
    Case(
        "type-unknown-input",
        "an input of element type 77",
        spoiled(lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 77)),
        "'x'.* element type 77",
    ),
    Case(
        "type-opaque",
        "an opaque type",
        spoiled(lambda m: setattr(m.graph.input.add(name="o").type.opaque_type, "name", "t")),
        "'o' has an opaque type",
    ),
    Case(
        "segment",
        "one segment of a tensor",
        _weight(lambda t: setattr(t.segment, "begin", 1)),
        "tensor 'w' is one segment",
    ),
    Case(
        "strings-missing",
        "fewer strings than elements",
        _typed(TensorProto.STRING, [2], string_data=[b"a"]),
        "tensor 'w': 1 strings found",
    ),
    Case(
        "strings-in-numbers",
        "strings in a tensor of floats",
        _weight(lambda t: t.string_data.append(b"a")),
        "tensor 'w' holds its data twice",
    ),
    Case(
        "strings-not-utf8",
        "strings in no encoding",
        _typed(TensorProto.STRING, [2], string_data=[b"\xff\xfe", b"\xc3"]),
        SURVIVES,
    ),
    Case("int4-odd", "an odd number of 4-bit integers", _typed(TensorProto.INT4, [3], raw_data=b"\x21\x03"), SURVIVES),
    Case(
        "int4-short",
        "too few bytes for 4-bit integers",
        _typed(TensorProto.INT4, [5], raw_data=b"\x21\x03"),
        "tensor 'w': 2 bytes of data found",
    ),
    Case(
        "int4-typed-long",
        "too many packed 4-bit integers",
        _typed(TensorProto.UINT4, [3], int32_data=[1, 2, 3]),
        "tensor 'w': 3 bytes",
    ),
    Case(
        "int8-out-of-range",
        "the number 300 as int8",
        _typed(TensorProto.INT8, [2], int32_data=[1, 300]),
        "tensor 'w': int32_data holds 300",
    ),
    Case(
        "float16-out-of-range",
        "bits of a float16 beyond 16",
        _typed(TensorProto.FLOAT16, [1], int32_data=[1 << 20]),
        "tensor 'w': int32_data holds 1048576",
    ),
    Case(
        "uint32-out-of-range",
        "the number 2^40 as uint32",
        _typed(TensorProto.UINT32, [1], uint64_data=[1 << 40]),
        "tensor 'w': uint64_data holds 1099511627776",
    ),
    Case(
        "zero-point-out-of-range",
        "zero point 300 of uint8",
        written(_zero_point),
        "tensor 'zero': int32_data holds 300",
    ),
    Case("bool-odd", "truth values of 7", _typed(TensorProto.BOOL, [2], raw_data=b"\x07\x00"), SURVIVES),
    Case(
        "external-no-entry",
        "data in another file that is not named",
        _weight(lambda t: t.ClearField("raw_data") or setattr(t, "data_location", 1)),
        "tensor 'w'.*names no file",
    ),
    Case("input-other-type", "an input whose default has another type", written(_input_and_weight), "'x'"),
    Case("constant-two-values", "Constant of two values", spoiled(_constant_both), r"'const' has attributes"),
    Case(
        "constant-short",
        "Constant whose tensor is cut off",
        spoiled(_attribute_short),
        "(?s)tensor 't': 4 bytes.*node Constant 'const', attribute 'value'",
    ),
    Case(
        "sparse-beyond", "a sparse index beyond the shape", _sparse([1.0], [9], [3]), "tensor 's' has indices outside"
    ),
    Case("sparse-negative", "a negative sparse index", _sparse([1.0], [-1], [3]), "tensor 's' has indices outside"),
    Case("sparse-count", "fewer indices than values", _sparse([1.0, 2.0], [1], [3]), "not one for each value"),
    Case("sparse-rank", "sparse indices of another rank", _sparse([1.0], [[1, 1]], [3]), "tensor 's'"),
    Case("sparse-absurd", "a sparse tensor of a petabyte", _sparse([1.0], [0], [1 << 50]), "over .* bytes when dense"),
    Case(
        "sparse-repeated", "one sparse index twice", _sparse([1.0, 2.0], [1, 1], [3]), "tensor 's' has an index twice"
    ),
]
