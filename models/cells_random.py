"""Networks with random wiring: RandWire's Watts-Strogatz graphs, and cells in the style of SwiftNet.

Sources: S. Xie et al., Exploring randomly wired neural networks for image recognition, ICCV 2019 (WS(4, 0.75), 32 nodes
a stage, small regime with 78 channels); H.-P. Cheng et al., SwiftNet: using graph propagation as meta-knowledge to
search highly representative neural architectures, 2019; B. H. Ahn et al., Ordering chaos, MLSys 2020 (its three cells
have 21, 19 and 22 nodes; their wiring is only drawn there, so that ours comes from a seed).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..ir.builder import DEFAULT_OPSET, Builder
from ..ir.dtypes import DType
from ..ir.graph import Model, Value
from .layers import conv
from .weights import SeededWeights, Weights


def randwire(
    nodes: int = 32, *, channels: int = 78, size: int = 224, seed: int = 0, opset: int = DEFAULT_OPSET
) -> Model:
    """``input`` [1, 3, size, size] to ``output`` [1, 1000], float32 logits.

    Two convolutions, three stages of ``nodes`` nodes with ``channels``, twice and four times as many, a 1 x 1
    convolution to 1280 and the classifier. A node adds its inputs with positive weights, then Relu and a separable
    convolution; those without inputs read the stage's input with stride 2, and those that nobody reads are averaged.
    """
    b, w = Builder(opset=opset), SeededWeights(seed)
    x = b.input("input", DType.F32, (1, 3, size, size))
    x = b.Relu(conv(b, w, x, "conv1", 3, channels // 2, 3, stride=2, bias=True))
    x = conv(b, w, x, "conv2", channels // 2, channels, 3, stride=2, bias=True)
    inner = channels
    for stage in range(3):
        outer = channels << stage
        x = _stage(b, w, x, f"stage{stage + 1}", _watts_strogatz(nodes, seed * 3 + stage), inner, outer)
        inner = outer
    x = b.Relu(conv(b, w, b.Relu(x), "conv6", inner, 1280, 1, bias=True))
    x = b.Flatten(b.GlobalAveragePool(x), axis=1)
    weight = b.const(w.kernel("fc.weight", (1000, 1280)), "fc.weight")
    b.output(b.Gemm(x, weight, b.const(w.vector("fc.bias", 1000), "fc.bias"), transB=1), "output")
    return b.model()


def _watts_strogatz(nodes: int, seed: int, neighbours: int = 4, probability: float = 0.75) -> list[list[int]]:
    """Which nodes each one reads: a connected WS(4, 0.75) graph whose edges go from lower to higher numbers."""
    import networkx

    library: Any = networkx
    graph: Any = library.connected_watts_strogatz_graph(nodes, neighbours, probability, tries=200, seed=seed)
    return [sorted(int(j) for j in graph.neighbors(i) if j < i) for i in range(nodes)]


def _stage(
    b: Builder, w: Weights, x: Value, name: str, reads: Sequence[Sequence[int]], inner: int, outer: int
) -> Value:
    made: list[Value] = []
    for i, sources in enumerate(reads):
        node = f"{name}.{i}"
        if sources:
            gate = 1 / (1 + np.exp(-w.vector(f"{node}.gate", len(sources)).numpy()))
            terms = [b.Mul(made[j], b.const(g)) for j, g in zip(sources, gate, strict=True)]
            total = terms[0]
            for term in terms[1:]:
                total = b.Add(total, term)
        else:
            total = x
        width, stride = (outer, 1) if sources else (inner, 2)
        part = conv(b, w, b.Relu(total), f"{node}.depthwise", width, width, 3, stride=stride, groups=width)
        made.append(conv(b, w, part, f"{node}.pointwise", width, outer, 1, bias=True))
    ends = [value for value in made if not value.uses]
    return b.Mul(b.Sum(*ends), 1 / len(ends))


def swiftnet_style(*, channels: int = 24, size: int = 96, seed: int = 0, opset: int = DEFAULT_OPSET) -> Model:
    """``input`` [1, 3, size, size] to ``output`` [1, 2] (a person is there or not), float32 logits.

    Three cells of 21, 19 and 22 nodes; a node concatenates what one to four nodes before it made, and convolves it:
    1 x 1 or depthwise. The cell's end concatenates what nobody read.
    """
    b, w, rng = Builder(opset=opset), SeededWeights(seed), random.Random(seed)
    x = b.input("input", DType.F32, (1, 3, size, size))
    x, inner = b.Relu(conv(b, w, x, "stem", 3, channels, 3, stride=2, bias=True)), channels
    for cell, nodes in enumerate((21, 19, 22)):
        made = [b.MaxPool(x, kernel_shape=(2, 2), strides=(2, 2)) if cell else x]
        widths = [inner]
        for i in range(nodes - 1):  # the concatenation at the end is a node too
            near = range(max(0, len(made) - 8), len(made))
            sources = sorted(rng.sample(near, min(len(near), rng.choice((1, 2, 2, 3, 4)))))
            joined = b.Concat(*(made[j] for j in sources), axis=1) if len(sources) > 1 else made[sources[0]]
            width = sum(widths[j] for j in sources)
            depthwise = len(sources) == 1
            outer = width if depthwise else channels << cell
            name = f"cell{cell}.{i}"
            y = conv(
                b, w, joined, name, width, outer, 3 if depthwise else 1, groups=width if depthwise else 1, bias=True
            )
            made.append(b.Relu(y))
            widths.append(outer)
        ends = [i for i, value in enumerate(made) if not value.uses]
        x = b.Concat(*(made[i] for i in ends), axis=1) if len(ends) > 1 else made[ends[0]]
        inner = sum(widths[i] for i in ends)
    x = b.Flatten(b.GlobalAveragePool(x), axis=1)
    weight = b.const(w.kernel("fc.weight", (2, inner)), "fc.weight")
    b.output(b.Gemm(x, weight, b.const(w.vector("fc.bias", 2), "fc.bias"), transB=1), "output")
    return b.model()
