"""``random_case(seed)``: a random model that ONNX Runtime runs, with inputs for it.

A model is grown by *motifs*, small functions that append a few nodes in front of which some pass has a precondition:
inverse transposes, a convolution with what can be folded into it, an activation spelled out, shape arithmetic, a
branch with captures. Each also writes near misses, where the pass must not act. A model favours a few motifs, so that
they meet each other. The same seed and size give the same model.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...ir.dims import evaluate
from ...ir.dtypes import DType
from ...ir.errors import PlanishError
from ...ir.graph import Graph, Model, Value
from ...ir.infer import infer_model
from ...ir.types import TensorType
from . import control, elementwise, language, linear, movement, odd, shapes, vision
from .draft import SAMPLES, SYMBOLS, Array, Draft, Feed, Shared

OPSETS = (10, 11, 11, 12, 12, 13, 13, 14, 15, 16, 17, 17, 18, 18, 19, 20, 20, 21, 21, 22, 23, 23, 23, 24, 24, 25)
MAX_OUTPUTS = 8
NAMES = ("", "", "x", "y", "in0", "out0", "a/b:0", "layer.0/conv", "two words", 'say "hi"', "ünïcode", "1", "c0", "%")
GRID = (0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, 3.0, -3.0, 6.0, 1e-3, 1e-38, -1e-38)
"""Numbers at which activations bend and clamps begin."""
Motif = Callable[..., bool]
_CONTROL = frozenset(motif for _, motif in control.MOTIFS)
MOTIFS: tuple[tuple[int, Motif], ...] = (
    *elementwise.MOTIFS,
    *movement.MOTIFS,
    *linear.MOTIFS,
    *vision.MOTIFS,
    *language.MOTIFS,
    *shapes.MOTIFS,
    *control.MOTIFS,
    *odd.MOTIFS,
)


@dataclass
class Case:
    """A random model with samples that it takes."""

    seed: int
    model: Model
    samples: list[dict[str, Array]]
    special: list[dict[str, Array]] = field(default_factory=list[dict[str, Array]])
    """Samples with signed zeros, infinities, NaN, subnormals, very large numbers: for what must be equal to the bit."""
    motifs: list[str] = field(default_factory=list[str])
    """What it was made of, in order."""


def random_case(seed: int, size: int = 12) -> Case:
    """A model of about ``size`` motifs (two to four nodes each). The same arguments give the same case.

    Raises ``PlanishError`` where type inference refuses a node: that is a bug, here or in the rules.
    """
    rng = random.Random(seed)
    opset = rng.choice(OPSETS)
    symbols = tuple(name for name in SYMBOLS if rng.random() < 0.45)
    shared = Shared(rng, opset, symbols=symbols)
    draft = Draft(shared, Graph("main", {"": opset}))
    growth = _Growth(rng)
    growth.fill(draft, max(1, rng.randrange(size // 2, size + 1)))
    graph = draft.graph
    _give_outputs(draft)
    model = Model(graph, ir_version=8 if opset < 19 else 10)
    for function in shared.functions:
        if _is_called(graph, function.key):
            model.add_function(function)
    infer_model(model)
    for port, value in zip(graph.ports, graph.outputs, strict=True):
        port.declared = value.type if rng.random() < 0.8 or value.tensor is None else TensorType(value.dtype)
    _name_oddly(rng, model)
    # ONNX Runtime's recurrent kernels end the process when a batch is empty.
    fragile = any(node.op in ("LSTM", "GRU") for node in model.all_nodes())
    samples = [_sample(seed, graph, shared, i) for i in range(SAMPLES + (not fragile))]
    special = [_special(seed, samples[0], i) for i in range(2)]
    return Case(seed, model, samples, special, growth.done)


class _Growth:
    """Which motifs a model is made of."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.done: list[str] = []
        favoured = set(rng.sample([motif for _, motif in MOTIFS], 6))
        self.motifs = [motif for _, motif in MOTIFS]
        self.weights = [weight * (8 if motif in favoured else 1) for weight, motif in MOTIFS]

    def fill(self, draft: Draft, count: int) -> None:
        """Applies ``count`` motifs, as far as they find operands."""
        for _ in range(4 * count):
            if count <= 0:
                break
            motif: Any = self.rng.choices(self.motifs, self.weights)[0]
            arguments = (self.fill,) if motif in _CONTROL else ()
            try:
                grown = motif(draft, *arguments)
            except PlanishError as error:
                error.where = f"{error.where or 'infer'}, motif {motif.__name__}"
                raise
            if grown:
                self.done.append(motif.__name__)
                count -= 1


def _give_outputs(draft: Draft) -> None:
    """Results are what nothing uses, and now and then an inner value, an input, or a constant."""
    rng, graph = draft.rng, draft.graph
    own = [v for v in draft.values if v.tensor is not None]
    leaves = [v for v in own if not v.uses and v.producer is not None]
    limit = max(MAX_OUTPUTS, len(leaves) // 2)
    chosen: dict[Value, None] = dict.fromkeys(rng.sample(leaves, min(len(leaves), limit)))
    inner = [v for v in own if v.uses and v.producer is not None]
    for _ in range(rng.choice((0, 0, 1, 2))):  # passes must keep inner values that are results
        if inner:
            chosen[rng.choice(inner)] = None
    if not chosen or rng.random() < 0.03:
        chosen[rng.choice(graph.inputs) if graph.inputs else draft.input(DType.F32, [2])] = None
    chosen.update((v, None) for v in draft.shared.loose if rng.random() < 0.4)
    outputs = list(chosen)
    if rng.random() < 0.06:
        outputs.append(rng.choice(outputs))
    if rng.random() < 0.04 and graph.constants:
        outputs.append(rng.choice(list(graph.constants)))
    if rng.random() < 0.04 and graph.inputs:
        outputs.append(rng.choice(graph.inputs))
    rng.shuffle(outputs)
    graph.set_outputs(outputs, [f"out{i}" for i in range(len(outputs))])


def _is_called(graph: Graph, key: tuple[str, str, str]) -> bool:
    return any((n.domain, n.op, n.overload) == key for n in graph.all_nodes())


# -- inputs


def _name_oddly(rng: random.Random, model: Model) -> None:
    """Names as exporters write them, and worse: equal ones, empty ones, with spaces and signs."""
    if rng.random() < 0.5:
        return
    for node in model.all_nodes():
        if rng.random() < 0.6:
            node.name = rng.choice(NAMES)
        for out in node.outputs:
            if rng.random() < 0.2 and out.name:
                out.name = rng.choice(NAMES) or out.name


def _sample(seed: int, graph: Graph, shared: Shared, number: int) -> dict[str, Array]:
    """Sample ``SAMPLES`` is one more with an empty batch, which many operators refuse."""
    draw = np.random.default_rng([seed, number])
    sizes = {name: found[number % SAMPLES] for name, found in SYMBOLS.items()}
    if number == SAMPLES:
        sizes["N"] = 0
    sample: dict[str, Array] = {}
    for value in graph.inputs:
        feed = shared.feeds.get(value, Feed(-3, 3))
        if value in graph.defaults and number % 2 == 0:
            continue
        shape = shared.shapes.get(value) or tuple(int(evaluate(d, sizes) or 0) for d in value.shape or ())
        sample[value.name] = _elements(draw, value, shape, feed, number)
    return sample


def _elements(draw: np.random.Generator, value: Value, shape: tuple[int, ...], feed: Feed, number: int) -> Array:
    assert value.dtype is not None
    if value.dtype is DType.BOOL:
        return np.asarray(draw.random(shape) < 0.5)
    if not value.dtype.is_float:
        return np.asarray(draw.integers(int(feed.low), int(feed.high) + 1, shape)).astype(value.dtype.numpy)
    array = np.asarray(draw.standard_normal(shape))
    if number == 2:
        array = np.where(draw.random(shape) < 0.5, draw.choice(np.array(GRID), shape), array)
    return np.asarray(np.clip(array, feed.low, feed.high)).astype(value.dtype.numpy)


def _special(seed: int, sample: dict[str, Array], number: int) -> dict[str, Array]:
    """The sample with some of its floats replaced by what arithmetic treats in its own way."""
    draw: Any = np.random.default_rng([seed, 100 + number])
    found: dict[str, Array] = {}
    for name, array in sample.items():
        if array.dtype.kind != "f":
            found[name] = array
            continue
        limits = np.finfo(array.dtype)
        odd: list[Any] = [0.0, -0.0, limits.smallest_subnormal, -limits.smallest_subnormal, 1.0, -1.0]
        odd += [np.inf, -np.inf, np.nan, limits.max, limits.min] if number else [limits.tiny, limits.eps, 3.0]
        items: np.ndarray[Any, Any] = np.array(odd, array.dtype)
        found[name] = np.where(draw.random(array.shape) < 0.4, draw.choice(items, array.shape), array)
    return found
