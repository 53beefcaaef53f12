"""Weights in another file, and the ways to make that file something it should not be."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from .parts import F32, SURVIVES, Case, array, info, model, node

WEIGHTS = np.arange(8, dtype=np.float32)
Make = Callable[[Path], Any]


def _tensor(location: str, name: str = "w", **entries: Any) -> TensorProto:
    made = TensorProto(name=name, data_type=F32, dims=[8], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        made.external_data.add(key=key, value=str(value))
    return made


def _save(folder: Path, tensors: list[TensorProto]) -> Path:
    """A model beside ``w.bin``; ``secret`` lies one folder further up."""
    inside = folder / "model"
    inside.mkdir()
    (folder / "secret").write_bytes(WEIGHTS.tobytes())
    (inside / "w.bin").write_bytes(WEIGHTS.tobytes())
    nodes = [node("Add", ["x", t.name], [f"y{i}" if i else "y"]) for i, t in enumerate(tensors)]
    path = inside / "model.onnx"
    made = model(nodes, inputs=[info("x", F32, [8])], tensors=tensors)
    path.write_bytes(made.SerializeToString())
    return path


def at(location: str, make: Make | None = None, **entries: Any) -> Callable[[Path], Path]:
    """A weight at ``location``; ``make`` prepares the model's folder."""

    def build(folder: Path) -> Path:
        path = _save(folder, [_tensor(location, **entries)])
        if make is not None:
            make(path.parent)
        return path

    return build


def _link(target: str, name: str) -> Make:
    return lambda folder: os.symlink(target, folder / name)


def _hard(folder: Path) -> None:
    os.link(folder.parent / "secret", folder / "h.bin")


def _two(first: dict[str, Any], second: dict[str, Any]) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        path = _save(folder, [_tensor("w.bin", "a", **first), _tensor("w.bin", "b", **second)])
        (path.parent / "w.bin").write_bytes(WEIGHTS.tobytes() * 2)
        return path

    return build


def _strings(folder: Path) -> Path:
    t = _tensor("w.bin")
    t.data_type = TensorProto.STRING
    return _save(folder, [t])


def _twice(folder: Path) -> Path:
    t = _tensor("w.bin")
    t.external_data.add(key="location", value="../secret")
    return _save(folder, [t])


def _and_raw(folder: Path) -> Path:
    t = _tensor("w.bin")
    t.raw_data = bytes(32)
    return _save(folder, [t])


def _in_function(folder: Path) -> Path:
    path = _save(folder, [array("w", WEIGHTS)])
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("f", 1)]
    inner = [node("Constant", [], ["k"], value=_tensor("../secret", "hidden")), node("Add", ["a", "k"], ["b"])]
    made = model([node("f", ["x"], ["y"], domain="f")], inputs=[info("x", F32, [8])])
    made.opset_import.append(imports[1])
    made.functions.append(helper.make_function("f", "f", ["a"], ["b"], inner, imports))
    path.write_bytes(made.SerializeToString())
    return path


def _in_branch(folder: Path) -> Path:
    path = _save(folder, [array("w", WEIGHTS)])
    body = helper.make_graph([], "branch", [], [info("hidden", F32, [8])], [_tensor("../secret", "hidden")])
    choice = node("If", ["flag"], ["y"], name="choice", then_branch=body, else_branch=body)
    made = model([choice], inputs=[info("x", F32, [8])], tensors=[array("flag", True)])
    path.write_bytes(made.SerializeToString())
    return path


def _in_sparse(folder: Path) -> Path:
    path = _save(folder, [array("w", WEIGHTS)])
    made = model([node("Identity", ["x"], ["y"])], inputs=[info("x", F32, [8])])
    sparse = made.graph.sparse_initializer.add(dims=[8])
    sparse.values.CopyFrom(_tensor("../secret", "hidden"))
    sparse.indices.CopyFrom(array("i", np.arange(8)))
    path.write_bytes(made.SerializeToString())
    return path


def _shrink(folder: Path) -> None:
    os.truncate(folder / "model" / "w.bin", 16)


def _swap(folder: Path) -> None:
    (folder / "model" / "w.bin").unlink()
    os.symlink("../secret", folder / "model" / "w.bin")


def _vanish(folder: Path) -> None:
    (folder / "model" / "w.bin").unlink()


def _fifo(folder: Path) -> None:
    os.mkfifo(folder / "p")


def _fifo_later(folder: Path) -> None:
    (folder / "model" / "w.bin").unlink()
    os.mkfifo(folder / "model" / "w.bin")


def _huge_hole(folder: Path) -> None:
    os.truncate(folder / "w.bin", 1 << 40)


def _terabyte(folder: Path) -> Path:
    t = _tensor("w.bin")
    t.dims[:] = [1 << 36, 8]
    path = _save(folder, [t])
    os.truncate(path.parent / "w.bin", 1 << 41)
    return path


UP, GONE = "leaves the folder by '..'", "not the file that was there|cannot open|No such file|shorter|changed"
CASES = [
    Case("location-absent", "a file that is not there", at("absent.bin"), "'w': cannot find its file 'absent.bin'"),
    Case("location-empty", "an empty path", at(""), "'w': it names no file"),
    Case("location-up", "a path out of the folder", at("../secret"), UP),
    Case("location-up-inside", "a path out of the folder and back", at("sub/../../secret"), UP),
    Case("location-up-backslash", "a path out of the folder, in Windows' spelling", at("..\\secret"), UP),
    Case("location-absolute", "an absolute path", at("/etc/passwd"), "'w': its location is an absolute path"),
    Case("location-absolute-double", "an absolute path with two slashes", at("//etc/passwd"), "absolute path"),
    Case("location-drive", "a path with a drive", at("C:\\w.bin"), "absolute path"),
    Case("location-drive-relative", "a path relative to a drive", at("c:w.bin"), "absolute path"),
    Case("location-unc", "a file on another machine", at("\\\\server\\share\\w.bin"), "absolute path"),
    Case("location-backslash", "backslashes", at("sub\\w.bin"), "written with backslashes"),
    Case("location-home", "a home folder", at("~/w.bin"), "home folder"),
    Case("location-user", "another user's home folder", at("~root"), "home folder"),
    Case("location-file-url", "a URL of a file", at("file:///etc/passwd"), "URL"),
    Case("location-http", "a URL", at("https://example.com/w.bin"), "URL"),
    Case("location-memory", "an address in memory", at("*/_ORT_MEM_ADDR_/*"), "memory address"),
    Case("location-null", "a null character", at("w.bin\0.txt"), "null character"),
    Case("location-long", "a path of 5,000 characters", at("w" * 5000), "over 4096 characters"),
    Case("location-case", "another case than the file's", at("W.BIN"), "cannot find its file 'W.BIN'"),
    Case("location-lookalike", "a dot of another alphabet in '..'", at("\u2024\u2024/secret"), "cannot find its file"),
    Case("location-folder", "a folder", at("sub", lambda f: (f / "sub").mkdir()), "folder, device or pipe"),
    Case("location-itself", "the model's folder", at("."), "leads out|folder"),
    Case("location-twice", "two locations", _twice, "'w' states location twice"),
    Case("link-out", "a link out of the folder", at("l.bin", _link("../secret", "l.bin")), "a link leads out"),
    Case("link-absolute", "a link to an absolute path", at("l.bin", _link("/etc/passwd", "l.bin")), "a link leads out"),
    Case("link-folder", "a folder that is a link out", at("up/secret", _link("..", "up")), "a link leads out"),
    Case("link-device", "a link to a device", at("z", _link("/dev/zero", "z")), "a link leads out"),
    Case("link-proc", "a link into the process", at("fd", _link("/proc/self/fd/0", "fd")), "a link leads out|cannot"),
    Case("link-circle", "a link to itself", at("l.bin", _link("l.bin", "l.bin")), "cannot find its file"),
    Case("link-hard", "a hard link to a file outside", at("h.bin", _hard), "has 2 names"),
    Case("pipe-weights", "a pipe that nobody writes to", at("p", _fifo), "folder, device or pipe"),
    Case("offset-negative", "a negative offset", at("w.bin", offset=-1), "'w' states offset '-1'"),
    Case("offset-beyond", "an offset behind the end", at("w.bin", offset=1 << 40), "of a file of 32 bytes"),
    Case("offset-one-beyond", "data that ends a byte behind the end", at("w.bin", offset=1), "needs bytes 1 to 33"),
    Case(
        "offset-overflow",
        "an offset that overflows with the length",
        at("w.bin", offset=(1 << 64) - 32),
        "states offset|needs bytes",
    ),
    Case("offset-words", "an offset in other digits", at("w.bin", offset="٣"), "states offset"),
    Case("length-negative", "a negative length", at("w.bin", length=-32), "states length"),
    Case("length-short", "a length that is too small", at("w.bin", length=31), "states length 31, .* takes 32"),
    Case("length-petabyte", "a length of a petabyte", at("w.bin", length=1 << 50), "states length 1125899906842624"),
    Case("weights-overlap", "two tensors over the same bytes", _two({}, {"offset": 4}), SURVIVES),
    Case("weights-strings", "strings in another file", _strings, "'w' holds strings"),
    Case("weights-twice", "data in another file and in the message", _and_raw, "tensor 'w' holds its data twice"),
    Case("weights-terabytes", "two terabytes of nothing as weights", _terabyte, "'w' makes .* the limit is"),
    Case("weights-in-hole", "32 bytes at the start of a terabyte", at("w.bin", _huge_hole), SURVIVES),
    Case(
        "keys-injected",
        "entries that are attributes of Python objects",
        at("w.bin", __class__="x", checksum="0"),
        SURVIVES,
    ),
    Case("hidden-function", "a path out of the folder, in a function", _in_function, UP),
    Case("hidden-branch", "a path out of the folder, in a branch", _in_branch, UP),
    Case("hidden-sparse", "a path out of the folder, in a sparse tensor", _in_sparse, UP),
    Case("weights-shrink", "weights that are cut off after reading", at("w.bin"), GONE, later=_shrink),
    Case("weights-swapped", "weights that become a link after reading", at("w.bin"), GONE, later=_swap),
    Case("weights-vanish", "weights that vanish after reading", at("w.bin"), GONE, later=_vanish),
    Case("weights-to-pipe", "weights that become a pipe after reading", at("w.bin"), GONE, later=_fifo_later),
]
