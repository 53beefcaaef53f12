"""lower-fourier on transforms of any length, beside numpy's and ONNX Runtime's."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.backends.ort.session import Session
from planish.ir.builder import Builder
from planish.ir.clone import clone_model
from planish.ir.dtypes import DType
from planish.ir.verify import verify
from planish.passes.core import Context
from planish.passes.manager import Pipeline

F32_EPS = float(np.finfo(np.float32).eps)


@settings(max_examples=40)
@given(
    length=st.integers(2, 90),
    step=st.integers(1, 40),
    batch=st.integers(1, 3),
    more=st.integers(1, 100),
    windowed=st.booleans(),
    onesided=st.booleans(),
    plain=st.booleans(),
)
def test_frames(length: int, step: int, batch: int, more: int, windowed: bool, onesided: bool, plain: bool) -> None:
    """Within rounding of sums of ``length`` products of numpy's transform in float64."""
    draw = np.random.default_rng(length)
    size = length + more
    x = draw.standard_normal((batch, size), np.float32)
    window = draw.standard_normal(length).astype(np.float32)
    b = Builder(opset=17)
    signal = b.input("x", DType.F32, (batch, size) if plain else (batch, size, 1))
    operands = [b.const(window)] if windowed else [None, b.const(np.int64(length))]
    b.output(b.STFT(signal, b.const(np.int64(step)), *operands, onesided=int(onesided)), "y")
    model = b.model()
    lowered = clone_model(model)
    assert Pipeline("lower-fourier").run(lowered, Context()).changes
    verify(lowered)
    feed = {"x": x if plain else x[..., None]}
    (found,), (original,) = Session(lowered).run(feed), Session(model).run(feed)
    frames = np.stack([x[:, i : i + length] for i in range(0, size - length + 1, step)], axis=1).astype(np.float64)
    exact = np.fft.fft(frames * (window if windowed else 1))[..., : length // 2 + 1 if onesided else length]
    expected = np.stack([exact.real, exact.imag], axis=-1)
    assert found.shape == original.shape == expected.shape
    bound = length * F32_EPS * np.abs(frames * (window if windowed else 1)).sum(-1).max()
    assert np.abs(found - expected).max() <= bound


@settings(max_examples=30)
@given(count=st.integers(1, 40), length=st.integers(1, 60), opset=st.sampled_from([17, 20]), onesided=st.booleans())
def test_rows(count: int, length: int, opset: int, onesided: bool) -> None:
    x = np.random.default_rng(count).standard_normal((2, count, 1), np.float32)
    b = Builder(opset=opset)
    b.output(b.DFT(b.input("x", DType.F32, (2, count, 1)), b.const(np.int64(length)), onesided=int(onesided)), "y")
    model = b.model()
    assert Pipeline("lower-fourier").run(model, Context()).changes
    (found,) = Session(model).run({"x": x})
    transform = np.fft.rfft if onesided else np.fft.fft
    exact = transform(x[..., 0].astype(np.float64), n=length)
    bound = max(count, 1) * F32_EPS * np.abs(x).sum(1).max()
    assert np.abs(found - np.stack([exact.real, exact.imag], axis=-1)).max() <= bound
