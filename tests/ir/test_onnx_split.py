"""Weights taken out of the bytes of a file: the model is the one that protobuf would read, and so is every error."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest

from planish.ir import Builder, DType, ReadError, model_to_bytes, read_model
from planish.ir import onnx_reader as reader
from planish.ir.onnx_split import LARGE_BYTES, split_weights

SIDE = 160


def weights(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((SIDE, SIDE)).astype(np.float32)


@pytest.fixture(scope="module")
def data() -> bytes:
    """Two large weights, a small one, one that is packed, and one of the same name in a body."""
    b = Builder(opset=21)
    x = b.input("x", DType.F32, ("N", SIDE))
    flag = b.input("flag", DType.BOOL, ())

    def body(seed: int) -> object:
        inner = Builder(opset=21)
        inner.graph.set_outputs([inner.MatMul(x, inner.const(weights(seed), "w"))], ["r"])
        return inner.graph

    y = b.Add(b.MatMul(x, b.const(weights(1), "w1")), b.const(np.ones(SIDE, np.float32), "small"))
    z = b.If(flag, then_branch=body(2), else_branch=body(3))
    b.output(b.Add(b.MatMul(y, b.const(weights(4), "w2")), z), "y")
    return model_to_bytes(b.model())


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_SPLIT_ABOVE", 0)


def whole(data: bytes) -> str:
    """What protobuf alone makes of it: the model's bytes, or the error."""
    try:
        proto = onnx.ModelProto()
        proto.ParseFromString(data)
    except Exception:
        return "not a model"
    try:
        return str(model_to_bytes(read_model(proto)))
    except ReadError as error:
        return error.message


def read(data: bytes) -> str:
    try:
        return str(model_to_bytes(read_model(data)))
    except ReadError as error:
        return "not a model" if "protobuf says" in error.message or "it is empty" in error.message else error.message


def test_large_weights_of_the_main_graph_are_taken_out(data: bytes) -> None:
    message, taken = split_weights(memoryview(data))
    assert list(taken) == ["w1", "w2"]
    heads = 2 * (1 + 3) + 2 * 2  # tag and length of the data, and two bytes of the tensor's length
    assert len(message) == len(data) - 2 * 4 * SIDE * SIDE - heads
    assert np.array_equal(np.frombuffer(taken["w2"], np.float32).reshape(SIDE, SIDE), weights(4))


@pytest.mark.usefixtures("always")
def test_the_model_is_the_same_from_bytes_and_from_a_file(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    assert model_to_bytes(read_model(tmp_path / "m.onnx")) == model_to_bytes(read_model(data)) == data
    large = [v.numpy() for v in read_model(data).graph.constants if v.numpy().nbytes > LARGE_BYTES]
    assert len(large) == 2
    assert all(array.flags.aligned and not array.flags.writeable for array in large)


@pytest.mark.usefixtures("always")
def test_nodes_out_of_order_find_their_weights(data: bytes) -> None:
    proto = onnx.ModelProto.FromString(data)
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend(reversed(nodes))
    found = proto.SerializeToString()
    assert read(found) == whole(found)
    assert len(read(found)) > LARGE_BYTES


def odd(data: bytes, case: str) -> bytes:
    proto = onnx.ModelProto.FromString(data)
    tensor = proto.graph.initializer[0]
    match case:
        case "two graphs, which protobuf merges":
            return data + onnx.ModelProto(graph=onnx.GraphProto(doc_string="more")).SerializeToString()
        case "raw data twice, of which the last counts":
            twice = tensor.SerializeToString() + onnx.TensorProto(raw_data=bytes(4 * SIDE * SIDE)).SerializeToString()
        case "two names, of which the last counts":
            twice = tensor.SerializeToString() + onnx.TensorProto(name="w1").SerializeToString()
        case "a name that is no text":
            twice = tensor.SerializeToString().replace(b"\x42\x02w1", b"\x42\x02\xff\xff")
        case "data in two places":
            tensor.float_data.append(1)
            return proto.SerializeToString()
        case "two weights of one name":
            proto.graph.initializer.append(tensor)
            return proto.SerializeToString()
        case _:
            tensor.dims[0] += 1
            return proto.SerializeToString()
    del proto.graph.initializer[0]
    rest = proto.graph.SerializeToString()
    head = bytearray(b"\x2a")
    length = len(twice)
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    graph = rest + bytes(head) + bytes([length]) + twice
    proto.ClearField("graph")
    out, size = bytearray(b"\x3a"), len(graph)
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    return proto.SerializeToString() + bytes(out) + bytes([size]) + graph


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(
    "case",
    [
        "two graphs, which protobuf merges",
        "raw data twice, of which the last counts",
        "two names, of which the last counts",
        "a name that is no text",
        "data in two places",
        "two weights of one name",
        "data that does not fit the shape",
    ],
)
def test_what_no_writer_writes_is_read_as_protobuf_reads_it(data: bytes, case: str) -> None:
    found = odd(data, case)
    assert found != data
    assert read(found) == whole(found)


@pytest.mark.usefixtures("always")
def test_truncated_files_are_refused(data: bytes) -> None:
    draw = random.Random(7)
    for length in (*range(1, 40), *(draw.randrange(len(data)) for _ in range(60)), len(data) - 1):
        assert read(data[:length]) == whole(data[:length]), length


@pytest.mark.usefixtures("always")
def test_damaged_files_give_what_protobuf_gives(data: bytes) -> None:
    draw = random.Random(11)
    inside = [data.index(weights(seed).tobytes()) for seed in (1, 2, 3, 4)]
    outside = [i for i in range(len(data)) if not any(start <= i < start + 4 * SIDE * SIDE for start in inside)]
    for _ in range(150):
        damaged = bytearray(data)
        damaged[draw.choice(outside)] = draw.randrange(256)
        assert read(bytes(damaged)) == whole(bytes(damaged))
