"""Weights beside the model: read only from plain files inside its folder, streamed, never loaded on the way."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from planish.ir import (
    ExternalDataError,
    FileConstant,
    Limits,
    SparseConstant,
    model_to_bytes,
    read_model,
)

WEIGHTS = np.arange(8, dtype=np.float32)


def external(name: str = "w", location: str = "w.bin", **entries: Any) -> TensorProto:
    """``f32[8]`` at the start of a file beside the model."""
    made = TensorProto(name=name, data_type=1, dims=[8], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        made.external_data.add(key=key, value=str(value))
    return made


def around(tensor: TensorProto) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "main",
        [helper.make_tensor_value_info("x", 1, [8])],
        [helper.make_tensor_value_info("y", 1, [8])],
        [tensor],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def save(folder: Path, tensor: TensorProto) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(around(tensor).SerializeToString())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder with ``w.bin``, beside which lies a file that is none of its business."""
    inside = tmp_path / "model"
    (inside / "sub").mkdir(parents=True)
    (inside / "w.bin").write_bytes(WEIGHTS.tobytes())
    (inside / "sub" / "w.bin").write_bytes(WEIGHTS.tobytes())
    os.symlink("../../secret", inside / "sub" / "out")
    (tmp_path / "secret").write_bytes(WEIGHTS.tobytes())
    (tmp_path / "model-evil").mkdir()
    (tmp_path / "model-evil" / "w.bin").write_bytes(WEIGHTS.tobytes())
    return inside


def data_of(path: Path, **options: Any) -> FileConstant:
    model = read_model(path, **options)
    (value,) = model.graph.constants
    assert isinstance(value.data, FileConstant)
    return value.data


@pytest.mark.parametrize("location", ["w.bin", "./w.bin", "sub/w.bin", "sub//./w.bin"])
def test_plain_relative_paths(folder: Path, location: str) -> None:
    found = data_of(save(folder, external(location=location)))
    assert np.array_equal(found.numpy(), WEIGHTS)
    assert b"".join(found.chunks()) == WEIGHTS.tobytes()


def test_offset_length_and_keys_that_mean_nothing(folder: Path) -> None:
    (folder / "w.bin").write_bytes(b"#" * 13 + WEIGHTS.tobytes() + b"#")
    tensor = external(offset=13, length=32, checksum="abc", __class__="FileConstant", path="../secret")
    assert np.array_equal(data_of(save(folder, tensor)).numpy(), WEIGHTS)


REFUSED = {
    "..": "leaves the folder by '..'",
    "../secret": "leaves the folder by '..'",
    "sub/../../secret": "leaves the folder by '..'",
    "sub/../w.bin": "leaves the folder by '..'",
    "..\\secret": "leaves the folder by '..'",
    "sub\\w.bin": "written with backslashes",
    "/etc/passwd": "absolute path",
    "//etc/passwd": "absolute path",
    "\\\\server\\share": "absolute path",
    "C:\\w.bin": "absolute path",
    "c:w.bin": "absolute path",
    "~/w.bin": "home folder",
    "~root": "home folder",
    "file:///etc/passwd": "URL",
    "https://example.com/w.bin": "URL",
    "*/_ORT_MEM_ADDR_/*": "memory address",
    "w.bin\0.txt": "null character",
    "w" * 5000: "over 4096 characters",
    "": "it names no file",
    "absent.bin": "cannot find its file 'absent.bin'",
    "W.BIN": "cannot find its file 'W.BIN'",
    "w.bin/": "its location is a folder",
    "sub": "a folder, device or pipe",
    ".": "leads out|a folder",
    "a" * 300: "cannot find its file",
}


@pytest.mark.parametrize("location", REFUSED)
def test_locations_that_are_refused(folder: Path, location: str) -> None:
    with pytest.raises(ExternalDataError, match=REFUSED[location]) as caught:
        read_model(save(folder, external(location=location)))
    assert "'w'" in str(caught.value)


def link(make: Callable[..., None], target: str, name: str) -> Callable[[Path], None]:
    return lambda folder: make(folder / target if make is os.link else target, folder / name)


LINKS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "a link to a file outside": (link(os.symlink, "../secret", "l.bin"), "l.bin", "a link leads out"),
    "an absolute link": (link(os.symlink, "/etc/passwd", "l.bin"), "l.bin", "a link leads out"),
    "a folder that is a link": (link(os.symlink, "..", "up"), "up/secret", "a link leads out"),
    "a link to a folder of like name": (link(os.symlink, "../model-evil", "e"), "e/w.bin", "a link leads out"),
    "a link to a link": (link(os.symlink, "sub/out", "b"), "b", "a link leads out"),
    "links in a circle": (link(os.symlink, "l.bin", "l.bin"), "l.bin", "cannot find its file"),
    "a hard link": (link(os.link, "../secret", "h.bin"), "h.bin", "has 2 names"),
    "a hard link inside": (link(os.link, "w.bin", "h.bin"), "h.bin", "has 2 names"),
    "a pipe": (lambda f: os.mkfifo(f / "p"), "p", "a folder, device or pipe"),
    "a link to a device": (link(os.symlink, "/dev/zero", "z"), "z", "a link leads out"),
}


@pytest.mark.parametrize("name", LINKS)
def test_links_that_are_refused(folder: Path, name: str) -> None:
    make, location, says = LINKS[name]
    make(folder)
    with pytest.raises(ExternalDataError, match=says):
        read_model(save(folder, external(location=location)))


def test_links_that_stay_inside(folder: Path) -> None:
    os.symlink("sub/w.bin", folder / "l.bin")
    assert np.array_equal(data_of(save(folder, external(location="l.bin"))).numpy(), WEIGHTS)


def test_a_cache_that_links_model_and_weights_to_one_store(folder: Path) -> None:
    """The layout of model hubs' caches: snapshots/m.onnx -> ../blobs/1, snapshots/w.bin -> ../blobs/2."""
    store, snapshot = folder / "blobs", folder / "snapshots"
    store.mkdir()
    snapshot.mkdir()
    save(folder, external()).rename(store / "1")
    (folder / "w.bin").rename(store / "2")
    os.symlink("../blobs/1", snapshot / "m.onnx")
    os.symlink("../blobs/2", snapshot / "w.bin")
    assert np.array_equal(data_of(snapshot / "m.onnx").numpy(), WEIGHTS)
    os.symlink("../../secret", snapshot / "evil.bin")
    (store / "1").write_bytes(around(external(location="evil.bin")).SerializeToString())
    with pytest.raises(ExternalDataError, match="a link leads out"):
        read_model(snapshot / "m.onnx")


def test_hard_links_where_they_are_allowed(folder: Path) -> None:
    os.link(folder / "w.bin", folder / "h.bin")
    path = save(folder, external(location="h.bin"))
    assert np.array_equal(data_of(path, limits=Limits(allow_hard_links=True)).numpy(), WEIGHTS)


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"offset": -1}, "offset '-1', expected a whole number"),
        ({"offset": "1e3"}, "offset '1e3'"),
        ({"offset": "٣"}, "offset '٣'"),
        ({"offset": " 1"}, "offset ' 1'"),
        ({"offset": "9" * 5000}, "offset '9999"),
        ({"offset": 1}, "needs bytes 1 to 33 of a file of 32 bytes"),
        ({"offset": 10**17}, "of a file of 32 bytes"),
        ({"length": -32}, "length '-32'"),
        ({"length": 31}, r"states length 31, f32\[8\] takes 32 bytes"),
        ({"length": 1 << 50}, "states length 1125899906842624"),
    ],
)
def test_offsets_and_lengths(folder: Path, entries: dict[str, Any], says: str) -> None:
    with pytest.raises(ExternalDataError, match=says):
        read_model(save(folder, external(**entries)))


def test_shapes_beyond_the_file(folder: Path) -> None:
    tensor = external()
    tensor.dims.append(1 << 38)
    with pytest.raises(ExternalDataError, match="of a file of 32 bytes"):
        read_model(save(folder, tensor))


def test_a_location_stated_twice(folder: Path) -> None:
    tensor = external()
    tensor.external_data.add(key="location", value="../secret")
    with pytest.raises(ExternalDataError, match="states location twice"):
        read_model(save(folder, tensor))


def test_strings_cannot_lie_outside(folder: Path) -> None:
    tensor = external()
    tensor.data_type = TensorProto.STRING
    with pytest.raises(ExternalDataError, match="holds strings"):
        read_model(save(folder, tensor))


def test_bytes_have_no_folder_unless_told(folder: Path) -> None:
    raw = around(external()).SerializeToString()
    with pytest.raises(ExternalDataError, match="came without a folder"):
        read_model(raw)
    assert isinstance(next(iter(read_model(raw, folder=folder).graph.constants)).data, FileConstant)


PLACES = ("attribute", "body", "function", "sparse values", "sparse indices", "function default")


def hidden(place: str, tensor: TensorProto) -> onnx.ModelProto:
    """A model that has the tensor somewhere else than among its initializers."""
    model = around(numpy_helper.from_array(WEIGHTS, "w"))
    model.opset_import.append(helper.make_opsetid("f", 1))
    constant = helper.make_node("Constant", [], ["k"], value=tensor)
    if place == "attribute":
        model.graph.node.append(constant)
    elif place == "body":
        body = helper.make_graph([], "b", [], [helper.make_tensor_value_info("w", 1, [8])], [tensor])
        model.graph.node.append(helper.make_node("If", ["x"], ["q"], then_branch=body, else_branch=body))
    elif place.startswith("function"):
        in_body = [constant] if place == "function" else []
        default = [helper.make_attribute("t", tensor)] if place == "function default" else []
        nodes = [*in_body, helper.make_node("Neg", ["a"], ["b"])]
        imports = [helper.make_opsetid("", 21)]
        made = helper.make_function("f", "f", ["a"], ["b"], nodes, imports, attribute_protos=default)
        model.functions.append(made)
    else:
        sparse = model.graph.sparse_initializer.add(dims=[8])
        other = numpy_helper.from_array(np.arange(8), "i")
        sparse.values.CopyFrom(tensor if place == "sparse values" else numpy_helper.from_array(WEIGHTS, "s"))
        sparse.indices.CopyFrom(tensor if place == "sparse indices" else other)
    return model


@pytest.mark.parametrize("place", PLACES)
def test_every_place_is_checked(folder: Path, place: str) -> None:
    for location, says in (("../secret", "by '..'"), ("absent", "cannot find"), ("l.bin", "a link leads out")):
        if location == "l.bin":
            os.symlink("../secret", folder / location)
        tensor = external("t", location)
        if place == "sparse indices":
            tensor.data_type = TensorProto.INT64
            tensor.dims[:] = [4]
        with pytest.raises(ExternalDataError, match=says):
            read_model(hidden(place, tensor), folder=folder)


def test_sparse_tensors_in_files(folder: Path) -> None:
    (folder / "w.bin").write_bytes(WEIGHTS[1:3].tobytes() + np.array([5, 0]).tobytes())
    values, indices = external("s", length=8), external("i", offset=8, length=16)
    values.dims[:] = indices.dims[:] = [2]
    indices.data_type = TensorProto.INT64
    model = around(numpy_helper.from_array(WEIGHTS, "w"))
    model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=values, indices=indices, dims=[2, 3]))
    read = read_model(model, folder=folder)
    data = next(v.data for v in read.graph.constants if v.name == "s")
    assert isinstance(data, SparseConstant)
    assert data.numpy().tolist() == [[2, 0, 0], [0, 0, 1]]
    again = read_model(model_to_bytes(read))
    assert next(v.numpy() for v in again.graph.constants if v.name == "s").tolist() == [[2, 0, 0], [0, 0, 1]]


def test_a_file_that_changes_after_reading_is_noticed(folder: Path) -> None:
    found = data_of(save(folder, external()))
    (folder / "new").write_bytes(WEIGHTS[::-1].tobytes())
    os.replace(folder / "new", folder / "w.bin")
    with pytest.raises(ExternalDataError, match="not the file that was there"):
        found.numpy()
    os.unlink(folder / "w.bin")
    os.symlink("../secret", folder / "w.bin")
    with pytest.raises(ExternalDataError, match=r"w\.bin"):
        list(found.chunks())


def test_packed_and_unaligned(folder: Path) -> None:
    (folder / "w.bin").write_bytes(b"###" + bytes([0x21, 0x43, 0x05]))
    tensor = external(offset=3)
    tensor.data_type = TensorProto.UINT4
    tensor.dims[:] = [5]
    model = read_model(around(tensor), folder=folder, infer=False)
    assert next(iter(model.graph.constants)).numpy().astype(int).tolist() == [1, 2, 3, 4, 5]


# -- large models


_THROUGH = """
import re, sys, time
from pathlib import Path
from planish.ir import read_model, write_model
start = time.process_time()
model = read_model(sys.argv[1])
write_model(model, sys.argv[2])
assert [c.dtype.text for c in (v.data for v in model.graph.constants)] == ["f16"] * 4
peak = re.search(r"VmHWM:\\s+([0-9]+) kB", Path("/proc/self/status").read_text())  # ru_maxrss counts the parent too
print(int(peak[1]) >> 10, time.process_time() - start)
"""


@pytest.mark.parametrize(
    ("size", "most_mib"),
    [(1 << 29, 300), pytest.param(1 << 32, 1024, marks=pytest.mark.slow)],
    ids=["512 MiB", "4 GiB"],
)
def test_large_weights_pass_through_in_bounded_memory(tmp_path: Path, size: int, most_mib: int) -> None:
    """Holes of a sparse file stay holes, so that the disk need not hold what the file says it has."""
    path, data = tmp_path / "large.onnx", tmp_path / "large.bin"
    each = size // 4
    with data.open("wb") as file:
        for i in range(4):
            file.seek(i * each + 12345)
            file.write(b"planish%d" % i)
        file.truncate(size)
    proto = onnx.ModelProto(ir_version=10)
    proto.opset_import.add(version=21)
    proto.graph.name = "large"
    proto.graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT16, [1, 8]))
    for i in range(4):
        tensor = external(f"w{i}", "large.bin", offset=i * each)
        tensor.data_type = TensorProto.FLOAT16
        tensor.dims[:] = [8, each // 16]
        proto.graph.initializer.append(tensor)
        proto.graph.node.append(helper.make_node("MatMul", ["x", f"w{i}"], [f"y{i}"]))
        proto.graph.output.append(helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT16, [1, each // 16]))
    path.write_bytes(proto.SerializeToString())
    target = tmp_path / "out" / "copy.onnx"
    target.parent.mkdir()
    command = [sys.executable, "-P", "-c", _THROUGH, path, target]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    rss_mib, seconds = map(float, run.stdout.split())
    assert rss_mib < most_mib, f"{rss_mib} MiB, {seconds} s"
    copy = target.with_name("copy.onnx.data")
    assert copy.stat().st_size == size
    assert copy.stat().st_blocks * 512 < size // 16
    with copy.open("rb") as file:
        for i in range(4):
            file.seek(i * each + 12345)
            assert file.read(8) == b"planish%d" % i
    onnx.checker.check_model(str(target))
