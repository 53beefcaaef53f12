"""Gives a graph whose weights are ConstantOfShape nodes random weights that keep activations in range.

Random weights alone let activations of deep networks saturate or lose the input. As in training, each
batch normalization therefore gets the mean and variance of what it really sees (data-dependent
initialization, as in Krähenbühl et al., ICLR 2016), found by one run per image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .ort_runner import ort_runner
from .zoo_model import Sample, random_for

if TYPE_CHECKING:
    import onnx

VERSION = 1
"""To be raised when the weights that are drawn change: cached files carry it in their names."""


def with_seeded_weights(source: Path, target: Path, samples: Sequence[Sample]) -> None:
    """Writes the model ``source`` to ``target`` with an initializer in place of every ConstantOfShape.

    The values depend on the model, the use of each weight (see `_draw`) and, for the statistics of batch
    normalization, on ``samples``.
    """
    import onnx

    model = onnx.load(str(source))
    model.ir_version = max(model.ir_version, 4)  # before 4 every initializer had to be an input as well
    _draw_weights(model.graph, random_for(source.stem, VERSION))
    _calibrate(model, samples)
    onnx.save(model, str(target))


def _draw_weights(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    """Shapes come from the initializers that ConstantOfShape reads; those that nothing else uses are dropped."""
    from onnx import numpy_helper

    shapes = {tensor.name: tensor for tensor in graph.initializer}
    uses = _uses(graph)
    constants = [node for node in graph.node if node.op_type == "ConstantOfShape"]
    for node in constants:
        shape = numpy_helper.to_array(shapes[node.input[0]])
        weight = _draw(*_role(uses, node.output[0]), tuple(int(d) for d in shape), rng)
        graph.initializer.append(numpy_helper.from_array(weight, node.output[0]))
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    _keep(graph.initializer, lambda tensor: tensor.name in used)
    _keep(graph.input, lambda value: value.name not in shapes)


def _keep(field: Any, condition: Callable[[Any], bool]) -> None:
    """Removes from a repeated protobuf field what does not fulfil ``condition``."""
    for item in [item for item in field if not condition(item)]:
        field.remove(item)


def _uses(graph: onnx.GraphProto) -> dict[str, tuple[Any, int]]:
    """The first node and operand position at which each value is used."""
    result: dict[str, tuple[Any, int]] = {}
    for node in graph.node:
        for position, name in enumerate(node.input):
            result.setdefault(name, (node, position))
    return result


def _role(uses: dict[str, tuple[Any, int]], name: str) -> tuple[str, int]:
    """Operator and operand position at which a weight is consumed, looking through Unsqueeze."""
    node, position = uses[name]
    return _role(uses, node.output[0]) if node.op_type == "Unsqueeze" else (node.op_type, position)


def _draw(op: str, position: int, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Weights for operand ``position`` of ``op``, float32.

    Conv and Gemm: He's normal, deviation sqrt(2 / fan-in) (He et al., ICCV 2015). Batch normalization, or
    the Mul and Add that follow it: a gain near 1 and small shifts.
    """
    draws: dict[tuple[str, int], Callable[[], np.ndarray]] = {
        ("Conv", 1): lambda: rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape),
        ("Gemm", 1): lambda: rng.normal(0, np.sqrt(2 / shape[-1]), shape),
        ("BatchNormalization", 1): lambda: rng.uniform(0.5, 1.5, shape),
        ("Mul", 1): lambda: rng.uniform(0.5, 1.5, shape),
    }
    return draws.get((op, position), lambda: rng.normal(0, 0.1, shape))().astype(np.float32)


def _calibrate(model: onnx.ModelProto, samples: Sequence[Sample]) -> None:
    """Sets mean and variance of every BatchNormalization to those of its input over ``samples``.

    In a copy each one becomes an InstanceNormalization, which for a batch of one normalizes with the
    input's own statistics; so a single run sees every layer behind layers that are already normalized.
    """
    from onnx import numpy_helper

    layers = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    if not layers:
        return
    means, variances = _statistics(_probe(model, layers), samples, len(layers))
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    for node, mean, variance in zip(layers, means, variances, strict=True):
        for name, value in zip(node.input[3:5], (mean, variance), strict=True):
            initializers[name].CopyFrom(numpy_helper.from_array(value, name))


def _probe(model: onnx.ModelProto, layers: Sequence[onnx.NodeProto]) -> bytes:
    """The copy for calibration; its outputs are the inputs of ``layers``."""
    import onnx
    from onnx import helper

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    for node in probe.graph.node:
        if node.op_type == "BatchNormalization":
            epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
            normalize = helper.make_node("InstanceNormalization", node.input[:3], node.output[:1], epsilon=epsilon)
            node.CopyFrom(normalize)
    for name in dict.fromkeys(node.input[0] for node in layers):
        probe.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return probe.SerializeToString()


def _statistics(probe: bytes, samples: Sequence[Sample], count: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Mean and variance per channel of each output of ``probe`` over ``samples`` (float32 [C] each)."""
    runner = ort_runner(probe)
    runs = [runner(sample) for sample in samples]
    means: list[np.ndarray] = []
    variances: list[np.ndarray] = []
    for layer in range(count):
        values = np.stack([run[layer][0] for run in runs], axis=1).astype(np.float64)
        means.append(values.mean(axis=(1, 2, 3)).astype(np.float32))
        variances.append((values.var(axis=(1, 2, 3)) + 1e-3).astype(np.float32))
    return means, variances
