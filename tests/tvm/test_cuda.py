"""CUDA kernels: one scheduled kernel for every group, numbers by running them on the processor, compiled where there is
a compiler. What needs a GPU is in ``test_cuda_device.py``."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm")

from planish.backends.tvm import cuda, cuda_compile
from planish.backends.tvm.backend import TvmBackend
from planish.backends.tvm.cuda import kernels_of
from planish.backends.tvm.cuda_compile import compile_cubin, compiler
from planish.driver.checks.reference import Reference
from planish.ir import Builder, DType
from planish.ir.clone import clone_model
from planish.ir.errors import BackendError
from planish.ir.graph import Model
from planish.passes.manager import Pipeline
from planish.passes.pipelines import PIPELINES
from planish.passes.target import get_target

from ..arm.test_models import zoo_model
from .gpu_emulation import EmulatedGpu, Kernels

TARGET = get_target("cuda-sm_90")


def network() -> Model:
    """Every kind of kernel once: large and small convolutions, windows, products, row reductions, moves."""
    draw = np.random.default_rng(5)
    b = Builder()

    def weights(*shape: int) -> object:
        return b.const(draw.standard_normal(shape, np.float32) / np.sqrt(np.prod(shape[1:]), dtype=np.float32))

    x = b.input("x", DType.F32, (1, 3, 33, 40))
    y = b.Relu(b.Conv(x, weights(24, 3, 3, 3), weights(24), pads=(1, 1, 1, 1), strides=(2, 2)))
    y = b.HardSwish(b.Conv(y, weights(24, 1, 3, 3), weights(24), pads=(1, 1, 1, 1), group=24))
    y = b.Add(b.Conv(y, weights(24, 24, 1, 1), weights(24)), y)
    y = b.MaxPool(y, kernel_shape=(2, 2), strides=(2, 2), ceil_mode=1)
    y = b.AveragePool(y, kernel_shape=(3, 3), pads=(1, 1, 1, 1))
    gate = b.Sigmoid(b.Conv(b.GlobalAveragePool(y), weights(24, 24, 1, 1), weights(24)))
    y = b.Mul(y, gate)
    rows = b.Reshape(b.Transpose(y, perm=(0, 2, 3, 1)), b.const(np.array([1, 90, 24], np.int64)))
    rows = b.LayerNormalization(rows, weights(24), weights(24), axis=-1)
    scores = b.MatMul(rows, b.Transpose(rows, perm=(0, 2, 1)))
    rows = b.MatMul(b.Softmax(scores, axis=-1), rows)
    rows = b.Gelu(b.Add(b.MatMul(rows, weights(24, 40)), weights(40)))
    b.output(b.ReduceMean(rows, b.const(np.array([1], np.int64)), keepdims=0), "mean")
    b.output(b.Concat(rows, rows, axis=2), "twice")
    return b.model()


def rows() -> Model:
    """Reductions of rows of every length: within a warp, of several rows a block, of several warps, longer than a block
    takes."""
    b = Builder()
    for width in (5, 33, 96, 200, 700, 1500):
        x = b.input(f"x{width}", DType.F32, (6, width))
        b.output(b.Softmax(x, axis=-1), f"y{width}")
    return b.model()


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    return Kernels(network(), TARGET)


@pytest.fixture(scope="module")
def source(kernels: Kernels) -> str:
    return kernels.source


def check(model: Model, folder: Path, kernels: Kernels) -> None:
    draw = np.random.default_rng(1)
    feeds = {v.name: draw.standard_normal([int(str(d)) for d in v.shape or ()], np.float32) for v in model.graph.inputs}
    found = EmulatedGpu(kernels, folder).run(feeds)
    reference = Reference(model, optimizer_noise=False)
    reference.samples.append(feeds)
    assert [str(c) for c in reference.compare(0, found) if not c.equivalent] == []


def test_results_of_all_kinds_of_kernels(kernels: Kernels, tmp_path: Path) -> None:
    check(kernels.model, tmp_path, kernels)


def test_results_of_rows(tmp_path: Path) -> None:
    model = rows()
    check(model, tmp_path, Kernels(model, TARGET))


@pytest.mark.slow
def test_results_of_a_real_model(tmp_path: Path) -> None:
    model, feeds = zoo_model("magika")
    lowered = clone_model(model)
    Pipeline(PIPELINES["default"]).run(lowered)
    Pipeline(TvmBackend().legalize(lowered, TARGET)).run(lowered)
    found = EmulatedGpu(Kernels(lowered, TARGET), tmp_path).run(feeds)
    reference = Reference(model, optimizer_noise=False)
    reference.samples.append(feeds)
    assert [str(c) for c in reference.compare(0, found) if not c.equivalent] == []


def test_every_group_is_one_kernel_of_many_threads(kernels: Kernels, source: str) -> None:
    made = kernels_of(source)
    assert [k.name for k in made] == [f"{name}_kernel" for name in kernels.functions]
    for kernel in made:
        assert "threadIdx.x" in kernel.body, kernel.name
        assert "blockIdx.x" in kernel.body, kernel.name


def test_nothing_is_left_to_the_host(kernels: Kernels) -> None:
    """The host's half only checks arguments and launches: without its device functions it holds no arithmetic."""
    for name, function in kernels.functions.items():
        outside = [line for line in function.script().splitlines() if re.match(r" {8}for .* in T.(grid|serial)", line)]
        assert outside == [], name


@pytest.mark.parametrize(
    ("name", "shared", "shuffles"),
    [
        ("conv_relu_0", True, False),  # tiles in shared memory
        ("matmul_", True, False),
        ("conv_hardswish_1", False, False),  # depthwise: a thread for each output
        ("maxpool", False, False),
        ("averagepool", False, False),
        ("layernormalization", False, True),  # a warp for each row
        ("softmax", False, True),
    ],
)
def test_schedules(name: str, shared: bool, shuffles: bool, source: str) -> None:
    found = [k for k in kernels_of(source) if k.name.startswith(name)]
    assert found
    for kernel in found:
        assert ("__shared__" in kernel.body, "__shfl" in kernel.body) == (shared, shuffles), kernel.name


def test_windows_are_summed_in_registers(source: str) -> None:
    depthwise = next(k for k in kernels_of(source) if k.name.startswith("conv_hardswish"))
    assert re.search(r"float conv_local_ptr\[1\]", depthwise.body)
    assert len(re.findall(r"out0_ptr\[[^;]*\] = ", depthwise.body)) == 1


def test_a_function_that_no_schedule_takes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for rule in ("Matmul", "GEMV", "Reduction", "GeneralReduction", "Transpose", "Fallback"):
        monkeypatch.setattr(getattr(cuda.tvm.s_tir.dlight.gpu, rule), "apply", lambda *_: None)
    with pytest.raises(BackendError, match="no schedule for GPUs"):
        Kernels(network(), TARGET)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cuda-sm_75", "cuda-sm_90"])
def test_the_kernels_compile(target: str, source: str) -> None:
    if compiler() is None:
        pytest.skip("neither nvcc nor NVRTC (pip install nvidia-cuda-nvrtc) is here")
    made = compile_cubin(source, get_target(target).mcpu)
    assert made[:4] == b"\x7fELF"
    assert all(k.name.encode() in made for k in kernels_of(source))


def test_without_a_compiler_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(cuda_compile, "_library", lambda: None)
    assert compiler() is None
    with pytest.raises(BackendError, match="pip install nvidia-cuda-nvrtc"):
        compile_cubin("", "sm_90")


def test_errors_in_the_source_are_quoted() -> None:
    if compiler() is None:
        pytest.skip("neither nvcc nor NVRTC (pip install nvidia-cuda-nvrtc) is here")
    with pytest.raises(BackendError, match="undefined"):
        compile_cubin('extern "C" __global__ void f() { x = 1; }', "sm_90")
