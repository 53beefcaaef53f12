"""Models on emulated ARM processors: compiled by TVM, and on ONNX Runtime's own wheel for ARM; beside x86.

The default run takes a small network with the operators that networks are made of, the slow one real models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")

from planish.backends.ort.session import Session
from planish.backends.tvm.backend import TvmBackend
from planish.driver.calibrate import observer
from planish.driver.checks.reference import Reference
from planish.driver.dims import with_dims
from planish.ir import Builder, DType
from planish.ir.clone import clone_model
from planish.ir.graph import Model
from planish.ir.onnx_reader import read_model
from planish.ir.onnx_writer import write_model
from planish.models.zoo import get
from planish.passes.core import Context
from planish.passes.manager import Pipeline
from planish.passes.pipelines import PIPELINES, QUANTIZE
from planish.passes.target import get_target

from .emulation import Emulation, script

Feeds = Mapping[str, np.ndarray]
RUN_ON_ARM = """
import sys, numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
with np.load(sys.argv[2]) as feeds:
    outputs = session.run(None, dict(feeds))
np.savez(sys.argv[3], **{f"y{i}": y for i, y in enumerate(outputs)})
"""


def small_network(dtype: DType = DType.F32) -> tuple[Model, Feeds]:
    """Convolutions (3x3, depthwise, 1x1) with activations, a residual sum, pooling, a product, softmax."""
    draw = np.random.default_rng(3)

    def weights(*shape: int) -> np.ndarray:
        return (draw.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(dtype.numpy_name)

    b = Builder()
    x = b.input("x", dtype, (1, 3, 20, 24))
    y = b.Relu(b.Conv(x, b.const(weights(16, 3, 3, 3)), b.const(weights(16)), pads=(1, 1, 1, 1), strides=(2, 2)))
    z = b.HardSwish(b.Conv(y, b.const(weights(16, 1, 3, 3)), pads=(1, 1, 1, 1), group=16))
    z = b.Add(b.Conv(z, b.const(weights(16, 16, 1, 1)), b.const(weights(16))), y)
    z = b.MaxPool(z, kernel_shape=(2, 2), strides=(2, 2))
    z = b.Reshape(b.GlobalAveragePool(z), b.const(np.array([1, 16], np.int64)))
    b.output(b.Softmax(b.Add(b.MatMul(z, b.const(weights(16, 10))), b.const(weights(10)))), "y")
    return b.model(), {"x": draw.standard_normal((1, 3, 20, 24)).astype(dtype.numpy_name)}


def zoo_model(name: str) -> tuple[Model, Feeds]:
    """A real model at the extents of its first sample."""
    entry = get(name)
    model, sample = read_model(entry.path()), entry.samples(1)[0]
    dims: dict[str, int] = {}
    for value in model.graph.inputs:
        for dim, extent in zip(value.shape or (), sample[value.name].shape, strict=True):
            if not isinstance(dim, int):
                dims[str(dim).strip("'")] = extent
    return (with_dims(model, dims) if dims else model), sample


def build(model: Model, target: str, folder: Path, pipeline: str = PIPELINES["default"]) -> Path:
    """The folder of TVM's artifact. The model is not changed."""
    chosen = replace(get_target(target), runtime="tvm", contrib=False)
    backend, lowered = TvmBackend(), clone_model(model)
    context = Context(target=chosen)
    Pipeline(pipeline).run(lowered, context)
    Pipeline(backend.legalize(lowered, chosen)).run(lowered, context)
    backend.lower(lowered, chosen).save(folder)
    return folder


def run_loader(folder: Path, processor: str, feeds: Feeds, emulation: Emulation) -> list[np.ndarray]:
    """Outputs of the C++ loader."""
    manifest = json.loads((folder / "manifest.json").read_text())
    status, said, outputs = emulation.model(processor, folder, [feeds[i["name"]] for i in manifest["inputs"]])
    assert status == 0, said
    return outputs


def check(model: Model, feeds: Feeds, outputs: list[np.ndarray]) -> None:
    """Within what float rounding does to the original."""
    reference = Reference(model, optimizer_noise=False)
    reference.samples.append(feeds)
    assert [str(c) for c in reference.compare(0, list(outputs)) if not c.equivalent] == []


def save_feeds(path: Path, feeds: Feeds) -> None:
    named: dict[str, Any] = dict(feeds)
    np.savez(path, **named)


def run_wheel(model: Model, processor: str, feeds: Feeds, folder: Path) -> list[np.ndarray]:
    """Outputs of ONNX Runtime's wheel on an emulated processor."""
    folder.mkdir()
    write_model(model, folder / "model.onnx")
    (folder / "run.py").write_text(RUN_ON_ARM)
    save_feeds(folder / "in.npz", feeds)
    files = [folder / name for name in ("model.onnx", "in.npz", "out.npz")]
    done = script("python", processor, folder / "run.py", *files)
    assert done.returncode == 0, done.stderr
    with np.load(files[-1]) as outputs:
        return [outputs[f"y{i}"] for i in range(len(outputs.files))]


@pytest.mark.parametrize(
    ("board", "processor", "dtype"),
    [("rpi4", "cortex-a72", DType.F32), ("rpi5", "cortex-a76", DType.F32), ("rpi5", "cortex-a76", DType.F16)],
)
def test_a_small_network_compiled_for_a_board(
    board: str, processor: str, dtype: DType, emulation: Emulation, tmp_path: Path
) -> None:
    model, feeds = small_network(dtype)
    check(model, feeds, run_loader(build(model, board, tmp_path / board), processor, feeds, emulation))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "board", "processor"),
    [("magika", "rpi5", "cortex-a76"), ("minilm", "rpi4", "cortex-a72")],  # the README's test takes ppocr_cls
)
def test_real_models_compiled_for_a_board(
    name: str, board: str, processor: str, emulation: Emulation, tmp_path: Path
) -> None:
    model, feeds = zoo_model(name)
    check(model, feeds, run_loader(build(model, board, tmp_path / board), processor, feeds, emulation))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppocr_cls", "magika"])
def test_optimized_models_on_onnx_runtime_for_arm(name: str, python_emulation: Emulation, tmp_path: Path) -> None:
    assert python_emulation.runner
    model, feeds = zoo_model(name)
    optimized = clone_model(model)
    Pipeline(PIPELINES["default"]).run(optimized, Context(target=get_target("rpi4")))
    check(model, feeds, run_wheel(optimized, "cortex-a72", feeds, tmp_path / "model"))


def quantized(board: str) -> tuple[Model, Feeds, Model]:
    """The classifier of PP-OCR, a sample, and its int8 form for a board."""
    model, feeds = zoo_model("ppocr_cls")
    made = clone_model(model)
    context = Context(target=get_target(board), observe=observer(get("ppocr_cls").samples(4)))
    Pipeline(f"{PIPELINES['default']},{QUANTIZE['int8']}").run(made, context)
    assert any(node.op == "QuantizeLinear" for node in made.graph)
    return model, feeds, made


def check_integers(model: Model, made: Model, feeds: Feeds, there: list[np.ndarray]) -> None:
    """Kernels may round the last bit of a step otherwise than x86's, so outputs may differ by as much as quantization
    itself changes them, and no more."""
    plain, here = Session(model).run(feeds), Session(made).run(feeds)
    for original, x86, arm in zip(plain, here, there, strict=True):
        assert np.argmax(original) == np.argmax(arm)
        assert abs(arm - x86).max() <= abs(x86 - original).max()


@pytest.mark.slow
@pytest.mark.parametrize(("board", "processor"), [("rpi4", "cortex-a72"), ("rpi5", "cortex-a76")])
def test_an_int8_model_on_onnx_runtime_for_arm(
    board: str, processor: str, python_emulation: Emulation, tmp_path: Path
) -> None:
    """Kernels without and with dot products."""
    assert python_emulation.runner
    model, feeds, made = quantized(board)
    check_integers(model, made, feeds, run_wheel(made, processor, feeds, tmp_path / "model"))


@pytest.mark.slow
def test_an_int8_model_compiled_for_boards(emulation: Emulation, tmp_path: Path) -> None:
    """Sums are exact whatever instructions make them (kernels' own tests have those of a Cortex-A72)."""
    model, feeds, made = quantized("rpi5")
    found: list[np.ndarray] = []
    for board, processor in (("rpi5", "cortex-a76"), ("neoverse-v1", "max")):
        folder = build(made, board, tmp_path / board, pipeline="none")
        outputs = run_loader(folder, processor, feeds, emulation)
        check_integers(model, made, feeds, outputs)
        found.append(outputs[0])
    assert np.array_equal(found[0], found[1])
