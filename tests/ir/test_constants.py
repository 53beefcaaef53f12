"""Every kind of constant: the same tensor has the same bytes and digest whatever holds it."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.ir.constants import (
    CHUNK_BYTES,
    ArrayConstant,
    BytesConstant,
    Constant,
    FileConstant,
    LazyConstant,
    SeededConstant,
    SplatConstant,
    same_data,
)
from planish.ir.dtypes import BY_CODE, BY_TEXT, DType, from_numpy, pack, unpack
from planish.ir.errors import ExternalDataError
from planish.ir.repetition import RepeatedConstant, compacted, repeated, stored_bytes

from .random_models import bits

FILED = [d for d in DType if d is not DType.STRING]


def all_kinds(array: np.ndarray, dtype: DType, folder: Path) -> list[Constant]:
    """The same tensor held in every way that can hold any tensor."""
    raw = pack(array, dtype)
    path = folder / "weights"
    path.write_bytes(b"pad" + raw)
    return [
        ArrayConstant(array, dtype),
        BytesConstant(raw, dtype, array.shape),
        BytesConstant(memoryview(raw), dtype, array.shape),
        FileConstant(path, 3, dtype, array.shape),
        LazyConstant(lambda: array, dtype, array.shape),
    ]


@pytest.mark.parametrize("dtype", FILED, ids=lambda d: d.text)
@pytest.mark.parametrize("shape", [(), (0, 2), (1,), (17,), (3, 5), (2, 3, 33)], ids=str)
def test_equal_tensors_have_equal_bytes_and_digests(dtype: DType, shape: tuple[int, ...], tmp_path: Path) -> None:
    array = bits(random.Random(f"{dtype}{shape}"), dtype, shape)
    kinds = all_kinds(array, dtype, tmp_path)
    first = kinds[0]
    for c in kinds:
        assert (c.dtype, c.shape, c.count) == (dtype, shape, array.size)
        assert c.numpy().dtype == dtype.numpy
        assert c.numpy().shape == shape
        assert c.numpy().tobytes() == array.tobytes()
        assert b"".join(c.chunks()) == pack(array, dtype)
        assert c.nbytes == len(pack(array, dtype))
        assert c.digest() == first.digest()
        assert len(c.digest()) == 32
        assert same_data(c, first)
        assert same_data(first, c)


@pytest.mark.parametrize("dtype", list(DType), ids=lambda d: d.text)
def test_a_splat_is_the_tensor_full_of_it(dtype: DType) -> None:
    element = bits(random.Random(dtype.code), dtype, ())
    for shape in ((), (0,), (5,), (3, 7)):
        splat = SplatConstant(element, dtype, shape)
        full = ArrayConstant(np.broadcast_to(element, shape).copy(), dtype)
        assert splat.digest() == full.digest()
        assert same_data(splat, full)
        assert splat.nbytes == full.nbytes
        if dtype is not DType.STRING:
            assert b"".join(splat.chunks()) == b"".join(full.chunks())
            assert splat.numpy().tobytes() == full.numpy().tobytes()


def test_splats_beyond_one_chunk_stream_in_bounded_pieces() -> None:
    splat = SplatConstant(3, DType.I4, (CHUNK_BYTES * 2 + 5,))
    sizes = [len(c) for c in splat.chunks()]
    assert sum(sizes) == splat.nbytes
    assert max(sizes) <= CHUNK_BYTES
    huge = SplatConstant(1.0, DType.F32, (1_000_000, 1_000_000))
    assert huge.nbytes == 4 * 10**12
    assert huge.numpy().strides == (0, 0)
    assert len(huge.sample()) == 64


@pytest.mark.parametrize("dtype_name", ["f32", "f16", "f64", "i8", "bool", "u32"])
def test_repetition_is_found_and_keeps_every_bit(dtype_name: str) -> None:
    dtype, rng = BY_TEXT[dtype_name], np.random.default_rng(5)
    for base, shape, kind in (
        ((1, 1), (40, 70), SplatConstant),
        ((6, 1, 1), (6, 30, 40), RepeatedConstant),
        ((1, 7, 1), (50, 7, 16), RepeatedConstant),
        ((1, 1, 9), (32, 20, 9), RepeatedConstant),
        ((60, 64), (60, 64), ArrayConstant),
    ):
        small = rng.integers(0, 2, base).astype(dtype.numpy)
        small.reshape(-1)[:2] = [0, 1][: small.size]
        array = np.ascontiguousarray(np.broadcast_to(small, shape))
        dense = ArrayConstant(array, dtype)
        for found in (compacted(dense), repeated(small, dtype, shape)):
            assert type(found) is kind
            assert found.numpy().tobytes() == array.tobytes()
            assert found.digest() == dense.digest()
            assert found.sample() == dense.sample()
            assert (stored_bytes(found, 17) < 300) == (kind is not ArrayConstant)
            assert stored_bytes(found, 8) == dense.nbytes


def test_what_differs_in_one_element_is_no_splat() -> None:
    for at in (0, 1, 700, 1999, 5000, 9998, 9999):
        for other in (np.float32(1.0000001), np.float32(-1.0)):
            array = np.ones((100, 100), np.float32)
            array.reshape(-1)[at] = other
            found = compacted(ArrayConstant(array))
            assert not isinstance(found, SplatConstant)
            assert found.numpy().tobytes() == array.tobytes()
    zeros = np.zeros(1000, np.float32)
    zeros[500] = -0.0
    assert isinstance(compacted(ArrayConstant(zeros)), ArrayConstant)
    assert isinstance(compacted(ArrayConstant(np.full(1000, np.nan, np.float32))), SplatConstant)
    assert isinstance(compacted(ArrayConstant(np.full(256, 1.0, np.float32))), ArrayConstant)  # 1024 bytes: small


def test_views_of_any_layout_are_looked_through() -> None:
    table = np.arange(60, dtype=np.float32).reshape(60, 1) + np.zeros((1, 50), np.float32)
    for view in (table.T, table[::-1], table.T[:, ::2]):
        found = compacted(ArrayConstant(view))
        assert isinstance(found, RepeatedConstant)
        assert np.array_equal(found.numpy(), view)


def test_arrays_stream_in_bounded_pieces() -> None:
    array = ArrayConstant(np.arange(CHUNK_BYTES // 2, dtype=np.float32))
    sizes = [len(c) for c in array.chunks()]
    assert sum(sizes) == array.nbytes
    assert max(sizes) <= CHUNK_BYTES


def test_strings_hash_by_element_and_are_bytes() -> None:
    a = ArrayConstant(np.array(["ab", "c"]))
    b = ArrayConstant(np.array([b"ab", b"c"], object))
    assert a.dtype is DType.STRING
    assert a.numpy().tolist() == [b"ab", b"c"]
    assert same_data(a, b)
    assert a.nbytes == 3
    assert not same_data(a, ArrayConstant(np.array(["a", "bc"])))
    assert not same_data(a, ArrayConstant(np.array([["ab", "c"]])))


def test_seeds_decide() -> None:
    a, b = SeededConstant(1, DType.F32, (40, 3)), SeededConstant(1, DType.F32, (40, 3))
    assert same_data(a, b)
    assert not same_data(a, SeededConstant(2, DType.F32, (40, 3)))
    uniform = SeededConstant(1, DType.F32, (1000,), "uniform", 0.5).numpy()
    assert -0.5 <= uniform.min() < -0.4
    assert 0.4 < uniform.max() < 0.5
    levels = SeededConstant(1, DType.U8, (1000,), "uniform", 200).numpy()
    assert levels.min() >= 0
    assert 150 < levels.max() < 200
    assert SeededConstant(1, DType.BF16, (3,)).numpy().dtype == DType.BF16.numpy
    with pytest.raises(ValueError, match="unknown kind 'odd'"):
        SeededConstant(1, DType.F32, (), "odd")


def test_seeded_streams_do_not_change() -> None:
    """Golden files and reproducers rely on them."""
    assert SeededConstant(7, DType.F32, (4,)).numpy().tolist() == pytest.approx(
        [1.5219693, -1.1441058, 1.1501616, -1.7846532], abs=1e-7
    )


def test_differences_that_equality_would_miss() -> None:
    zero = ArrayConstant(np.array([0.0], np.float32))
    assert not same_data(zero, ArrayConstant(np.array([-0.0], np.float32)))
    assert not same_data(zero, ArrayConstant(np.array([0], np.int32)))
    assert not same_data(zero, ArrayConstant(np.array(0.0, np.float32)))
    nans = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)
    assert not same_data(ArrayConstant(nans[:1]), ArrayConstant(nans[1:]))
    assert same_data(ArrayConstant(nans), ArrayConstant(nans.copy()))
    long = np.zeros(100, np.float32)
    other = long.copy()
    other[99] = 1
    assert not same_data(ArrayConstant(long), ArrayConstant(other))


def test_nothing_writes_to_a_constant() -> None:
    array = np.zeros(3, np.float32)
    for c in (ArrayConstant(array), BytesConstant(bytes(12), DType.F32, (3,)), SplatConstant(0.0, DType.F32, (3,))):
        with pytest.raises(ValueError, match="read-only"):
            c.numpy()[0] = 1
    array[0] = 2  # the caller's own array stays writable


def test_misfits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"5 bytes of data found, f32\[2\] takes 8"):
        BytesConstant(bytes(5), DType.F32, (2,))
    with pytest.raises(ValueError, match="lazy constant gave"):
        LazyConstant(lambda: np.zeros(2), DType.F32, (2,)).numpy()
    with pytest.raises(ExternalDataError):
        FileConstant(tmp_path / "gone", 0, DType.F32, (2,)).numpy()
    path = tmp_path / "short"
    path.write_bytes(bytes(4))
    with pytest.raises(ExternalDataError):
        b"".join(FileConstant(path, 0, DType.F32, (2,)).chunks())
    with pytest.raises(ExternalDataError):
        FileConstant(path, 0, DType.F32, (2,)).numpy()


# -- packing


@pytest.mark.parametrize("dtype", [d for d in DType if d.is_packed], ids=lambda d: d.text)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_packing_gives_back_every_bit(dtype: DType, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 40))
    raw = data.draw(st.binary(min_size=dtype.nbytes(count), max_size=dtype.nbytes(count)))
    array = unpack(raw, dtype, count)
    assert array.size == count
    again = pack(array, dtype)
    full = count * dtype.bits // 8
    assert again[:full] == raw[:full], "bits behind the last element are padding"
    assert unpack(again, dtype, count).tobytes() == array.tobytes()


def test_the_first_element_lies_in_the_low_bits() -> None:
    assert pack(np.array([1, -2, 7], DType.I4.numpy), DType.I4) == b"\xe1\x07"
    assert pack(np.array([1, 2, 3, 0, 3], DType.U2.numpy), DType.U2) == b"\x39\x03"
    assert unpack(b"\xe1\x07", DType.I4, 3).astype(int).tolist() == [1, -2, 7]
    assert unpack(b"\x39\x03", DType.U2, 5).astype(int).tolist() == [1, 2, 3, 0, 3]
    assert unpack(b"\x1e", DType.I2, 4).astype(int).tolist() == [-2, -1, 1, 0]
    with pytest.raises(ValueError, match="1 bytes found, 3 elements of i4 take 2"):
        unpack(b"\x00", DType.I4, 3)


# -- element types


def test_element_types_are_onnxs() -> None:
    from onnx import TensorProto

    codes = {code for name, code in TensorProto.DataType.items() if name != "UNDEFINED" and code in BY_CODE}
    assert codes == {d.code for d in DType}
    assert {d.text for d in DType} == set(BY_TEXT)
    assert str(DType.F32) == repr(DType.F32) == "f32"


@pytest.mark.parametrize("dtype", list(DType), ids=lambda d: d.text)
def test_numpy_types_go_both_ways(dtype: DType) -> None:
    assert from_numpy(dtype.numpy) is dtype
    if dtype.bits:
        assert dtype.numpy.itemsize * 8 == max(8, dtype.bits)


def test_numpy_types_that_onnx_does_not_have() -> None:
    with pytest.raises(TypeError, match="no ONNX element type"):
        from_numpy(np.dtype("datetime64[s]"))
    assert from_numpy(np.dtype("<U3")) is DType.STRING
    assert from_numpy(np.dtype(">f4")) is DType.F32
