"""Static and dynamic quantization of real models: the task's score survives and the runtime runs integer kernels."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest

from planish.driver.calibrate import observer
from planish.ir.graph import Model
from planish.ir.onnx_reader import read_model
from planish.ir.onnx_writer import model_to_bytes
from planish.models.zoo import Runner, get
from planish.passes.core import Context
from planish.passes.manager import Pipeline
from planish.passes.pipelines import QUANTIZE
from planish.passes.target import get_target

INTEGER_PRODUCTS = {"QLinearConv", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"}
CASES = {
    "ppocr_cls": (24, 0.0),
    "ppocr_rec": (12, 0.02),
    "ppocr_det": (3, 0.02),
    "nudenet": (6, 0.0),
    "magika": (24, 0.0),
    "minilm": (16, 0.02),
}
"""By model: labelled samples, and how much of the score may go."""


def runner(model: Model) -> tuple[Runner, list[str]]:
    """What runs the model, and the operators that the runtime makes of it."""
    import onnx
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        session = ort.InferenceSession(model_to_bytes(model), options, providers=["CPUExecutionProvider"])
        found = [n.op_type for n in onnx.load(options.optimized_model_filepath, load_external_data=False).graph.node]
    return (lambda sample: [np.asarray(y) for y in session.run(None, sample)]), found


def quantized(name: str, pipeline: str, target: str) -> tuple[Model, Context]:
    entry = get(name)
    model = read_model(entry.path())
    context = Context(target=get_target(target), observe=observer(entry.samples(4)))
    Pipeline(pipeline).run(model, context)
    return model, context


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_score_survives_and_kernels_are_integer(name: str) -> None:
    entry = get(name)
    if not entry.installed:
        pytest.skip(entry.install_command)
    assert entry.metric is not None
    count, loss = CASES[name]
    model, context = quantized(name, f"default,{QUANTIZE['int8']}", "x86-64-v4-vnni")
    products = [k for k in context.choices.offered if k.startswith("assign-quant/u8i8@")]
    run, operators = runner(model)
    assert sum(op in INTEGER_PRODUCTS for op in operators) == len(products)
    floats = runner(read_model(entry.path()))[0]
    assert entry.metric(run, count) >= entry.metric(floats, count) - loss


@pytest.mark.slow
def test_dynamic_keeps_the_ranking_of_sentences() -> None:
    entry = get("minilm")
    if not entry.installed:
        pytest.skip(entry.install_command)
    assert entry.metric is not None
    model = read_model(entry.path())
    context = Context(target=get_target("x86-64-v4-vnni"))
    Pipeline("default,quantize-dynamic").run(model, context)
    run, operators = runner(model)
    assert sum(op in INTEGER_PRODUCTS for op in operators) == len(context.choices.offered) == 36
    assert entry.metric(run, 16) >= entry.metric(runner(read_model(entry.path()))[0], 16) - 0.02
