"""Kernels of the TVM backend against numpy in double precision, on sizes with rests of every kind."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from planish.passes.target import cpu_flags, get_target, native

tvm = pytest.importorskip("tvm")

from planish.backends.tvm.kernels import conv as convs  # noqa: E402
from planish.backends.tvm.kernels.conv import Conv  # noqa: E402
from planish.backends.tvm.kernels.machine import Machine, block_of  # noqa: E402
from planish.backends.tvm.kernels.tile import Epilogue, Tile  # noqa: E402

MACHINE = Machine(get_target(native()))
AVX2 = "avx2" in cpu_flags()
Array = np.ndarray[Any, Any]


def compiled(kernel: Any, name: str) -> Any:
    return tvm.compile(kernel, target=MACHINE.target())[name]


def ran(kernel: Any, name: str, inputs: list[Array], shape: tuple[int, ...], dtype: str = "float32") -> Array:
    """The output of a kernel; it starts as NaN, so that what is not written shows."""
    fill = np.nan if dtype == "float32" else 77
    out = tvm.runtime.tensor(np.full(shape, fill, dtype))
    compiled(kernel, name)(*[tvm.runtime.tensor(np.ascontiguousarray(a)) for a in inputs], out)
    return out.numpy()


def in_blocks(x: Array, block: int, fill: float = np.nan) -> Array:
    """NCHW as NCHW[block]c; lanes beyond the channels hold ``fill``, which nobody may read."""
    if block == 1:
        return x
    n, c, h, w = x.shape
    blocks = -(-c // block)
    full = np.full((n, blocks * block, h, w), fill, x.dtype)
    full[:, :c] = x
    return full.reshape(n, blocks, block, h, w).transpose(0, 1, 3, 4, 2)


def from_blocks(y: Array, channels: int) -> Array:
    if y.ndim == 4:
        return y
    n, blocks, h, w, b = y.shape
    return y.transpose(0, 1, 4, 2, 3).reshape(n, blocks * b, h, w)[:, :channels]


def conv_in_double(x: Array, w: Array, conv: Conv) -> Array:
    """The definition, position by position."""
    top, left, bottom, right = conv.pads
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    n, g = x.shape[0], conv.groups
    out = np.zeros((n, g, conv.outputs // g, conv.out_height, conv.out_width))
    inputs = padded.reshape(n, g, conv.channels // g, *padded.shape[2:])
    weights = w.astype(np.float64).reshape(g, conv.outputs // g, *w.shape[1:])
    for ky, kx in itertools.product(range(conv.kernel[0]), range(conv.kernel[1])):
        y0, x0 = ky * conv.dilations[0], kx * conv.dilations[1]
        y1 = y0 + (conv.out_height - 1) * conv.strides[0] + 1
        x1 = x0 + (conv.out_width - 1) * conv.strides[1] + 1
        part = inputs[..., y0 : y1 : conv.strides[0], x0 : x1 : conv.strides[1]]
        out += np.einsum("ngcyx,gmc->ngmyx", part, weights[..., ky, kx])
    return out.reshape(n, conv.outputs, conv.out_height, conv.out_width)


CONVS = [
    Conv(1, 32, 9, 14, 48, (3, 3), pads=(1, 1, 1, 1), in_block=16, out_block=16),
    Conv(2, 32, 7, 7, 32, (1, 1), in_block=16, out_block=8),
    Conv(1, 3, 13, 29, 16, (7, 7), (2, 2), pads=(3, 3, 3, 3), out_block=16),
    Conv(1, 12, 11, 9, 20, (3, 3), pads=(1, 2, 0, 1), dilations=(2, 1), in_block=8, out_block=8),
    Conv(2, 32, 6, 6, 64, (3, 3), (2, 1), pads=(1, 1, 1, 1), groups=4, in_block=8, out_block=16),
    Conv(1, 16, 5, 3, 6, (3, 5), pads=(1, 4, 1, 4), in_block=16),
    Conv(2, 20, 9, 17, 20, (5, 3), (2, 1), pads=(2, 1, 2, 1), groups=20, in_block=16, out_block=16),
    Conv(1, 24, 7, 7, 24, (3, 3), pads=(1, 1, 1, 1), dilations=(1, 2), groups=24, in_block=8, out_block=8),
    Conv(1, 8, 1, 33, 24, (1, 3), pads=(0, 2, 0, 0), in_block=8, out_block=8),
]


@pytest.mark.parametrize("conv", CONVS, ids=str)
def test_convolutions(conv: Conv) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((conv.batch, conv.channels, conv.height, conv.width)).astype(np.float32)
    w = rng.standard_normal((conv.outputs, conv.channels // conv.groups, *conv.kernel)).astype(np.float32)
    blocks = -(-conv.outputs // conv.out_block)
    bias = rng.standard_normal((blocks, conv.out_block)).astype(np.float32)

    def apply(value: Any, index: tuple[Any, ...], extras: Any) -> Any:
        lane = index[4] if conv.out_block > 1 else 0
        return tvm.tirx.max(value + extras[0][index[1], lane] + extras[1][index], 0.0)

    residual = rng.standard_normal(conv.out_shape).astype(np.float32)
    epilogue = Epilogue(apply, ((bias.shape, "float32"), (conv.out_shape, "float32")))
    tile = convs.tiles(conv, MACHINE)[0]
    kernel = convs.build(conv, MACHINE, tile, epilogue)
    inputs = [in_blocks(x, conv.in_block), convs.pack(w, conv, tile), bias, residual]
    got = from_blocks(ran(kernel, "conv", inputs, conv.out_shape), conv.outputs)

    per_channel = bias.reshape(-1)[: conv.outputs, None, None]
    want = conv_in_double(x, w, conv) + per_channel + from_blocks(residual, conv.outputs)
    # A sum of n products in single precision is off by at most n half ulps of the sum of magnitudes.
    magnitude = conv_in_double(abs(x), abs(w), conv) + abs(per_channel) + abs(from_blocks(residual, conv.outputs))
    assert (abs(got - np.maximum(want, 0)) <= (conv.depth + 3) * 2**-24 * magnitude).all()


@pytest.mark.parametrize("tile", [Tile(3, 3, 8), Tile(3, 1, 4, 4), Tile(1, 2, 16, 2)], ids=str)
def test_every_tile_gives_the_same_sums(tile: Tile) -> None:
    conv = Conv(1, 16, 5, 11, 40, (3, 3), pads=(1, 1, 1, 1), in_block=8, out_block=8)
    rng = np.random.default_rng(1)
    x = rng.integers(-4, 5, (1, 16, 5, 11)).astype(np.float32)
    w = rng.integers(-4, 5, (40, 16, 3, 3)).astype(np.float32)
    kernel = convs.build(conv, MACHINE, tile)
    got = ran(kernel, "conv", [in_blocks(x, 8), convs.pack(w, conv, tile)], conv.out_shape)
    np.testing.assert_array_equal(from_blocks(got, 40), conv_in_double(x, w, conv))


def test_blocks_fit_the_channels_and_the_machine() -> None:
    wide, narrow = Machine(get_target("x86-64-v4")), Machine(get_target("aarch64"))
    assert [block_of(c, wide) for c in (64, 24, 12, 3)] == [16, 8, 4, 1]
    assert [block_of(c, narrow) for c in (64, 24, 12, 3)] == [8, 8, 4, 1]


INTEGER_CONVS = [
    Conv(1, 32, 9, 14, 48, (3, 3), pads=(1, 1, 1, 1), in_block=16, out_block=16),
    Conv(1, 3, 13, 29, 16, (5, 5), (2, 2), pads=(2, 2, 2, 2), out_block=16),
    Conv(1, 12, 11, 9, 20, (3, 3), pads=(1, 2, 0, 1), dilations=(2, 1), in_block=8, out_block=8),
    Conv(2, 32, 6, 6, 64, (1, 1), groups=2, in_block=8, out_block=16),
    Conv(1, 20, 9, 17, 20, (5, 3), (2, 1), pads=(2, 1, 2, 1), groups=20, in_block=16, out_block=16),
    Conv(1, 32, 2, 27, 32, (5, 5), pads=(2, 2, 2, 2), groups=32, in_block=16, out_block=16),
    Conv(2, 24, 7, 31, 24, (3, 3), (2, 2), pads=(1, 1, 1, 1), groups=24, in_block=8, out_block=8),
    Conv(1, 16, 5, 25, 16, (3, 3), groups=16, in_block=16, out_block=16),
]


@pytest.mark.parametrize(
    ("dtype", "target"),
    [
        ("uint8", native()),
        ("int8", native()),
        pytest.param("int8", "x86-64-v3", marks=[pytest.mark.slow, pytest.mark.skipif(not AVX2, reason="needs AVX2")]),
    ],
)
@pytest.mark.parametrize("conv", INTEGER_CONVS, ids=range(len(INTEGER_CONVS)))
def test_integer_convolutions_are_exact(conv: Conv, target: str, dtype: str) -> None:
    zero_point = 7 if dtype == "uint8" else -3
    conv = replace(conv, dtype=dtype, zero_point=zero_point)
    machine = Machine(get_target(target))
    rng = np.random.default_rng(0)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    x = rng.integers(low, high + 1, (conv.batch, conv.channels, conv.height, conv.width)).astype(dtype)
    w = rng.integers(-128, 128, (conv.outputs, conv.channels // conv.groups, *conv.kernel)).astype(np.int8)
    x[:, :, :2], w[:1] = high, 127  # where 16 bits would overflow
    tile = convs.tiles(conv, machine)[0]
    tile = replace(tile, rows=min(tile.rows, 5))  # which compiles faster
    kernel = convs.build(conv, machine, tile, Epilogue(dtype="int32"))
    inputs = [in_blocks(x, conv.in_block, fill=99), convs.pack(w, conv, tile)]
    got = from_blocks(ran(kernel, "conv", inputs, conv.out_shape, "int32"), conv.outputs)
    sums = w.astype(np.int64).sum((1, 2, 3))[:, None, None]
    seen = convs.seen_zero_point(conv, machine, tile)
    np.testing.assert_array_equal(got - seen * sums, conv_in_double(x.astype(float) - zero_point, w, conv))


@pytest.mark.skipif(not AVX2, reason="needs AVX2")
def test_weights_of_seven_bits_take_the_saturating_product_and_stay_exact() -> None:
    conv = Conv(1, 16, 5, 9, 24, (3, 3), pads=(1, 1, 1, 1), in_block=8, out_block=8, dtype="uint8", narrow=True)
    machine = Machine(get_target("x86-64-v3"))
    x = np.full((1, 16, 5, 9), 255, np.uint8)
    w = np.where(np.arange(24)[:, None, None, None] % 2, 63, -64) * np.ones((1, 16, 3, 3))
    tile = convs.tiles(conv, machine)[0]
    kernel = convs.build(conv, machine, tile, Epilogue(dtype="int32"))
    assert tile.depth == 4
    got = ran(
        kernel, "conv", [in_blocks(x, 8, fill=0), convs.pack(w.astype(np.int8), conv, tile)], conv.out_shape, "int32"
    )
    np.testing.assert_array_equal(from_blocks(got, 24), conv_in_double(x, w, conv))
