"""Files that are no model at all."""

from __future__ import annotations

import os
import random
from pathlib import Path

import onnx

from .parts import SURVIVES, Case, array, model, node, raw, sound


def _large() -> bytes:
    """About 6 kB, so that every tenth of it cuts through something else."""
    nodes = [
        node("Add", [f"t{i}" if i else "x", "w"], [f"t{i + 1}" if i < 99 else "y"], name=f"n{i}") for i in range(100)
    ]
    return model(nodes, tensors=[array("w", [1, 1], "float32")]).SerializeToString()


def _cut(tenths: int) -> bytes:
    data = _large()
    return data[: len(data) * tenths // 10 - 3]


def _noise(seed: int, head: bytes = b"") -> bytes:
    return head + random.Random(seed).randbytes(1 << 16)


def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes([*out, n])


def _nested_messages() -> bytes:
    data = b""
    for _ in range(4000):
        data = b"\x22" + _varint(len(data)) + data
    return b"\x08\x0a\x3a" + _varint(len(data)) + data


def _folder(folder: Path) -> Path:
    (folder / "model.onnx").mkdir()
    return folder / "model.onnx"


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "model.onnx")
    return folder / "model.onnx"


def _device(folder: Path) -> Path:
    os.symlink("/dev/zero", folder / "model.onnx")
    return folder / "model.onnx"


def _hole(folder: Path) -> Path:
    path = folder / "model.onnx"
    path.touch()
    os.truncate(path, 3 << 30)
    return path


def _absent(folder: Path) -> Path:
    return folder / "absent.onnx"


def _circle(folder: Path) -> Path:
    os.symlink("model.onnx", folder / "model.onnx")
    return folder / "model.onnx"


NOT_ONE = "this is not an ONNX model"
CASES = [
    Case("empty", "no bytes", raw(b""), "it is empty"),
    Case("text", "a shopping list", raw(b"milk, eggs\n"), NOT_ONE),
    Case("git-lfs", "a pointer of Git LFS", raw(b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    Case("zip", "a ZIP archive", raw(b"PK\x03\x04" + bytes(64)), "ZIP archive"),
    Case("gguf", "a GGUF file", raw(b"GGUF\x03\0\0\0"), "GGUF"),
    Case("html", "a web page", raw(b"<!DOCTYPE html>"), "web page"),
    Case("tensor", "a protobuf message of another type", raw(array("w", [1.0]).SerializeToString()), NOT_ONE),
    Case(
        "no-graph",
        "a model without a graph",
        raw(onnx.ModelProto(ir_version=10).SerializeToString()),
        "it has no graph",
    ),
    *(Case(f"noise-{i}", "random bytes", raw(lambda i=i: _noise(i)), NOT_ONE) for i in range(3)),
    Case("noise-header", "random bytes behind a sound header", raw(lambda: _noise(4, b"\x08\x0a\x12\x01p")), NOT_ONE),
    *(Case(f"cut-{i}0", f"cut off after {i}0 %", raw(lambda i=i: _cut(i)), NOT_ONE) for i in range(1, 11)),
    Case("long-length", "a length prefix of 2 GB", raw(b"\x08\x0a\x3a\xff\xff\xff\xff\x07abc"), NOT_ONE),
    Case("tail", "noise behind a sound model", raw(lambda: sound().SerializeToString() + b"\xff" * 9), NOT_ONE),
    Case("nested", "4,000 messages within each other", raw(_nested_messages), "protobuf says|imports no operator set"),
    Case(
        "unknown-fields",
        "fields that no version has",
        raw(lambda: sound().SerializeToString() + b"\xfa\x3e\x01x"),
        SURVIVES,
    ),
    Case("folder", "a folder in place of the file", _folder, "it is a folder"),
    Case("pipe", "a pipe that nobody writes to", _pipe, "not a plain file"),
    Case("device", "a link to an endless device", _device, "not a plain file"),
    Case("hole", "3 GB of nothing", _hole, "has 3221225472 bytes, the limit is"),
    Case("absent", "no file", _absent, "No such file"),
    Case("circle", "a link to itself", _circle, "symbolic links"),
]
