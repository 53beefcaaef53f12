"""Samples from files and objects, what is wrong with them, and samples made up from the types."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from planish.backends.core import Sample
from planish.backends.ort.isolated import RuntimeCrash
from planish.backends.ort.session import Session
from planish.driver.checks.reference import Reference
from planish.driver.inputs.generate import generate_samples
from planish.driver.inputs.samples import load_samples
from planish.ir.builder import Builder
from planish.ir.dtypes import DType
from planish.ir.errors import UsageError
from planish.ir.limits import Limits, current_limits

from .networks import array, classifier, embedder, images


def test_npz_strips_the_axis_that_counts(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", x=images(3))
    found = load_samples(tmp_path / "s.npz", classifier())
    assert len(found) == 3
    assert found.items[0]["x"].shape == (2, 3, 16, 16)
    assert found.origin == "s.npz"


def test_other_sources_give_the_same(tmp_path: Path) -> None:
    stacked = images(2)
    np.savez(tmp_path / "a.npz", x=stacked[:1])
    np.savez(tmp_path / "b.npz", x=stacked[1:])
    for source in (tmp_path, {"x": stacked}, [{"x": s} for s in stacked], ({"x": s} for s in stacked)):
        found = load_samples(source, classifier())
        assert [np.array_equal(a["x"], b) for a, b in zip(found, stacked, strict=True)] == [True, True]


def test_onnx_test_data(tmp_path: Path) -> None:
    import onnx.numpy_helper

    (tmp_path / "test_data_set_0").mkdir()
    proto = onnx.numpy_helper.from_array(images(1)[0])
    (tmp_path / "test_data_set_0" / "input_0.pb").write_bytes(proto.SerializeToString())
    assert load_samples(tmp_path, classifier()).items[0]["x"].shape == (2, 3, 16, 16)


def test_the_limit_holds() -> None:
    assert len(load_samples({"x": images(3)}, classifier(), limit=2)) == 2


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"X": images()}, ["no input 'X'", "its inputs: x"]),
        ({}, ["no samples"]),
        ([{}], ["x is missing", "f32[N,3,16,16]"]),
        ({"x": images().astype(np.float64)}, ["elements of f64", "float32"]),
        ({"x": images()[0]}, ["shape [3,16,16]", "[N,3,16,16]", "counts the samples"]),
        ({"x": images()[:, :, :2]}, ["shape [2,2,16,16]"]),
        ({"x": np.float32(1)}, ["no axis"]),
        ([3], ["is a int"]),
    ],
)
def test_what_is_wrong_is_said(source: object, words: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        load_samples(source, classifier())  # type: ignore[arg-type]
    for word in words:
        assert word in str(error.value)


def test_arrays_of_different_length() -> None:
    with pytest.raises(UsageError, match="different numbers"):
        load_samples({"input_ids": np.zeros((2, 1, 3), int), "attention_mask": np.zeros((3, 1, 3), int)}, embedder())


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04broken"])
def test_broken_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s.npz").write_bytes(content)
    with pytest.raises(UsageError, match=r"s\.npz"):
        load_samples(tmp_path / "s.npz", classifier())


def test_pickles_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", x=np.array([print], object))
    with pytest.raises(UsageError, match=r"s\.npz"):
        load_samples(tmp_path / "s.npz", classifier())


def test_compressed_zeros_are_counted_before_they_are_read(tmp_path: Path) -> None:
    name = tmp_path / "s.npz"
    with zipfile.ZipFile(name, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as file:
        file.write(bytes(4 << 20))
    assert name.stat().st_size < 1 << 16
    token = current_limits.set(Limits(sample_bytes=1 << 20))
    try:
        with pytest.raises(UsageError, match=r"holds 4194304 bytes of samples, the limit is 1048576"):
            load_samples(name, classifier())
    finally:
        current_limits.reset(token)


def test_headers_that_lie(tmp_path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }".ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / "s.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(UsageError, match=r"cannot read samples from .*s\.npz"):
        load_samples(tmp_path / "s.npz", classifier())


def test_missing_files_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file"):
        load_samples(tmp_path / "none.npz", classifier())
    with pytest.raises(UsageError, match="holds no samples"):
        load_samples(tmp_path, classifier())


# -- made up


def test_indices_stay_in_the_table_and_masks_are_masks() -> None:
    model = embedder()
    found = generate_samples(model, Session(model).run, count=5)
    ids = np.concatenate([s["input_ids"].reshape(-1) for s in found])
    assert ids.min() >= 0
    assert ids.max() < 11
    assert found.ranges["input_ids"] == "integers in [0, 11)"
    assert set(np.concatenate([s["attention_mask"].reshape(-1) for s in found])) == {0, 1}


def test_several_sizes_of_each_symbol() -> None:
    model = embedder()
    shapes = {s["input_ids"].shape for s in generate_samples(model, Session(model).run, count=5)}
    assert len({n for n, _ in shapes}) > 1
    assert len({n for _, n in shapes}) > 1


def test_the_same_seed_gives_the_same() -> None:
    model = classifier()
    first, second, other = (generate_samples(model, Session(model).run, seed=s) for s in (1, 1, 2))
    assert all(np.array_equal(a["x"], b["x"]) for a, b in zip(first, second, strict=True))
    assert not np.array_equal(first.items[0]["x"], other.items[0]["x"])


def test_sizes_that_the_model_refuses_are_not_used() -> None:
    b = Builder()
    x = b.input("x", DType.F32, ("N", "K"))
    b.output(b.MatMul(x, b.const(array(48, 2))), "y")
    found = generate_samples(b.model(), Session(b.model()).run)
    assert {s["x"].shape[1] for s in found} == {48}
    assert len(found) == 4


def test_dims_fix_symbols() -> None:
    model = embedder()
    found = generate_samples(model, Session(model).run, dims={"batch": 1, "length": 5})
    assert {s["input_ids"].shape for s in found} == {(1, 5)}


def test_an_input_that_chooses_a_branch_takes_both() -> None:
    b = Builder()
    rate = b.input("rate", DType.I64, ())
    b.output(b.Equal(rate, b.const(np.int64(16000))), "y")
    values = {int(s["rate"]) for s in generate_samples(b.model(), Session(b.model()).run)}
    assert 16000 in values
    assert len(values) > 1


def test_every_size_is_tried_where_the_batch_is_fixed() -> None:
    b = Builder()
    sound = b.input("sound", DType.F32, ("batch", 1, "samples"))
    b.output(b.Conv(sound, b.const(array(2, 1, 400)), strides=(160,)), "y")
    found = generate_samples(b.model(), Session(b.model()).run, dims={"batch": 1})
    assert {s["sound"].shape[2] for s in found} == {512, 640, 1600, 16000}


def test_sizes_with_which_the_runtime_crashes_are_passed_over() -> None:
    tried: list[int] = []

    def run(sample: Sample) -> None:
        tried.append(sample["x"].shape[1])
        if tried[-1] < 300:
            raise RuntimeCrash("the runtime crashed (SIGFPE)", where="ort")

    b = Builder()
    b.output(b.Neg(b.input("x", DType.F32, (1, "N"))), "y")
    found = generate_samples(b.model(), run)
    assert [s["x"].shape[1] for s in found] == [512, 640, 1600, 16000]
    assert tried[:5] == [32, 64, 224, 256, 512], "smaller ones than those that crashed are left out"


def test_no_size_fits() -> None:
    b = Builder()
    x = b.input("x", DType.F32, ("N", "K"))
    b.output(b.MatMul(x, b.const(array(999, 2))), "y")
    with pytest.raises(UsageError, match="--samples"):
        generate_samples(b.model(), Session(b.model()).run)


@pytest.mark.parametrize(
    "dtype", [d for d in DType if d.kind in ("int", "uint", "bool", "string") and d.bits in (0, 8, 16, 32, 64)]
)
def test_every_ordinary_type(dtype: DType) -> None:
    b = Builder()
    x = b.input("x", dtype, (3, 2))
    b.output(b.Identity(x), "y")
    found = generate_samples(b.model(), Session(b.model()).run)
    assert len(found) == 4


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_inputs_of_unknown_rank(rank: int) -> None:
    b = Builder()
    x = b.input("x", DType.F32, None)
    b.output(b.Transpose(x, perm=tuple(range(rank))), "y")
    found = generate_samples(b.model(), Session(b.model()).run)
    assert {s["x"].ndim for s in found} == {rank}


def test_sizes_with_windows_larger_than_their_input_are_not_made_up() -> None:
    """There is no such result, but ONNX Runtime gives one."""
    b = Builder()
    x = b.input("x", DType.F32, (1, 2, "H", 8))
    b.output(b.MaxPool(x, kernel_shape=(60, 1), strides=(60, 1)), "y")
    found = generate_samples(b.model(), Reference(b.model()).accepts)
    assert min(s["x"].shape[2] for s in found) >= 60
