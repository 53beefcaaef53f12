"""Networks of searched cells: DARTS, NASNet-A, AmoebaNet-A, with the sizes of their papers: irregular graphs.

A cell reads the two cells before it; each of its steps adds two operators' results, and some steps are concatenated.
The cells and the network around them are those of DARTS's published code (github.com/quark0/darts, cnn/genotypes.py and
cnn/model.py), without auxiliary heads; batch normalization behind a convolution is in its bias, as PyTorch exports it.

Sources: H. Liu et al., DARTS: differentiable architecture search, ICLR 2019; B. Zoph et al., Learning transferable
architectures for scalable image recognition, CVPR 2018; E. Real et al., Regularized evolution for image classifier
architecture search, AAAI 2019.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from ..ir.builder import DEFAULT_OPSET, Builder
from ..ir.dtypes import DType
from ..ir.graph import Model, Value
from .cells_random import randwire, swiftnet_style
from .layers import batch_norm
from .weights import SeededWeights, Weights

Steps = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Genotype:
    """What a network's cells do: operators with the state each reads (0 and 1: the two cells before), two to a step."""

    normal: Steps
    normal_concat: tuple[int, ...]
    reduce: Steps
    reduce_concat: tuple[int, ...]


def _steps(text: str) -> Steps:
    """``"sep5:1 skip:0"``: operators and states."""
    return tuple((op, int(state)) for op, state in (part.split(":") for part in text.split()))


DARTS = Genotype(
    _steps("sep3:0 sep3:1 sep3:0 sep3:1 sep3:1 skip:0 skip:0 dil3:2"),
    (2, 3, 4, 5),
    _steps("max3:0 max3:1 skip:2 max3:1 max3:0 skip:2 skip:2 max3:1"),
    (2, 3, 4, 5),
)
"""The second-order cell (DARTS_V2)."""
NASNET = Genotype(
    _steps("sep5:1 sep3:0 sep5:0 sep3:0 avg3:1 skip:0 avg3:0 avg3:0 sep3:1 skip:1"),
    (2, 3, 4, 5, 6),
    _steps("sep5:1 sep7:0 max3:1 sep7:0 avg3:1 sep5:0 skip:3 avg3:2 sep3:2 max3:1"),
    (4, 5, 6),
)
AMOEBANET = Genotype(
    _steps("avg3:0 max3:1 sep3:0 sep5:2 sep3:0 avg3:3 sep3:1 skip:1 skip:0 avg3:1"),
    (4, 5, 6),
    _steps("avg3:0 sep3:1 max3:0 sep7:2 sep7:0 avg3:1 max3:0 max3:1 line7:0 sep3:5"),
    (3, 4, 6),
)


def cell_network(
    genotype: Genotype, *, channels: int, layers: int, size: int, seed: int = 0, opset: int = DEFAULT_OPSET
) -> Model:
    """``input`` [1, 3, size, size] to ``output`` [1, 10] (CIFAR) or [1, 1000] (size 224), float32 logits.

    ``layers`` cells with ``channels`` in each operator, twice as many from a third and again from two thirds on, where
    the cells reduce the extent. Images of 224 pixels go through a stem that reduces them eightfold.
    """
    b = Builder(opset=opset)
    cells = _Cells(b, SeededWeights(seed), genotype)
    x = b.input("input", DType.F32, (1, 3, size, size))
    imagenet = size >= 224
    before, last = cells.imagenet_stem(x, channels) if imagenet else (cells.cifar_stem(x, channels),) * 2
    reduced = imagenet
    for i in range(layers):
        reduces = i in (layers // 3, 2 * layers // 3)
        channels *= 2 if reduces else 1
        before, last = last, cells.cell(before, last, channels, reduces=reduces, reduced=reduced)
        reduced = reduces
    classes = 1000 if imagenet else 10
    pooled = b.Flatten(b.GlobalAveragePool(last), axis=1)
    weight = b.const(cells.w.kernel("classifier.weight", (classes, _channels(last))), "classifier.weight")
    b.output(b.Gemm(pooled, weight, b.const(cells.w.vector("classifier.bias", classes)), transB=1), "output")
    return b.model()


class _Cells:
    def __init__(self, b: Builder, w: Weights, genotype: Genotype) -> None:
        self.b, self.w, self.genotype = b, w, genotype
        self.count = 0

    def cifar_stem(self, x: Value, channels: int) -> Value:
        return self.conv(x, 3 * channels, 3)

    def imagenet_stem(self, x: Value, channels: int) -> tuple[Value, Value]:
        first = self.conv(self.b.Relu(self.conv(x, channels // 2, 3, stride=2)), channels, 3, stride=2)
        return first, self.conv(self.b.Relu(first), channels, 3, stride=2)

    def cell(self, before: Value, last: Value, channels: int, *, reduces: bool, reduced: bool) -> Value:
        """``reduced``: the cell before reduced the extent, so that what lies before it must be reduced as well."""
        first = self.reduce(before, channels) if reduced else self.conv(self.b.Relu(before), channels, 1)
        states = [first, self.conv(self.b.Relu(last), channels, 1)]
        g = self.genotype
        steps, joined = (g.reduce, g.reduce_concat) if reduces else (g.normal, g.normal_concat)
        for left, right in zip(steps[::2], steps[1::2], strict=True):
            terms = [
                self.operator(op, states[i], channels, stride=2 if reduces and i < 2 else 1) for op, i in (left, right)
            ]
            states.append(self.b.Add(*terms))
        return self.b.Concat(*(states[i] for i in joined), axis=1)

    def operator(self, op: str, x: Value, channels: int, stride: int) -> Value:
        kind, extent = op.rstrip("0123456789"), int(op[-1]) if op[-1].isdigit() else 1
        b = self.b
        if kind == "skip":
            return x if stride == 1 else self.reduce(x, channels)
        if kind in ("avg", "max"):
            pads = (extent // 2,) * 4
            shape = {"kernel_shape": (extent, extent), "strides": (stride, stride), "pads": pads}
            return b.MaxPool(x, **shape) if kind == "max" else b.AveragePool(x, **shape, count_include_pad=0)
        if kind == "line":
            x = self.conv(b.Relu(x), channels, (1, extent), stride=(1, stride))
            return self.conv(x, channels, (extent, 1), stride=(stride, 1))
        if kind == "dil":
            return self.separable(x, channels, extent, stride, dilation=2)
        return self.separable(self.separable(x, channels, extent, stride), channels, extent)

    def separable(self, x: Value, channels: int, extent: int, stride: int = 1, dilation: int = 1) -> Value:
        x = self.conv(self.b.Relu(x), channels, extent, stride=stride, dilation=dilation, depthwise=True)
        return self.conv(x, channels, 1)

    def reduce(self, x: Value, channels: int) -> Value:
        """Half the extent: two strided convolutions, one of them a pixel further, side by side."""
        b, x = self.b, self.b.Relu(x)
        shifted = b.Slice(x, b.const([1, 1]), b.const([1 << 30, 1 << 30]), b.const([2, 3]))
        halves = [self.conv(x, channels // 2, 1, stride=2), self.conv(shifted, channels - channels // 2, 1, stride=2)]
        self.count += 1
        return batch_norm(b, self.w, b.Concat(*halves, axis=1), f"reduce{self.count}", channels)

    def conv(
        self,
        x: Value,
        outer: int,
        extent: int | tuple[int, int],
        *,
        stride: int | tuple[int, int] = 1,
        dilation: int = 1,
        depthwise: bool = False,
    ) -> Value:
        """ "Same" padding, with a bias."""
        self.count += 1
        kernel = extent if isinstance(extent, tuple) else (extent, extent)
        groups = _channels(x) if depthwise else 1
        name = f"conv{self.count}"
        shape = (outer, _channels(x) // groups, *kernel)
        pad = [(k - 1) * dilation // 2 for k in kernel]
        return self.b.Conv(
            x,
            self.b.const(self.w.kernel(f"{name}.weight", shape, gain=math.sqrt(2.0)), f"{name}.weight"),
            self.b.const(self.w.vector(f"{name}.bias", outer), f"{name}.bias"),
            kernel_shape=kernel,
            strides=stride if isinstance(stride, tuple) else (stride, stride),
            dilations=(dilation, dilation),
            pads=(*pad, *pad),
            group=groups,
            _name=name,
        )


def _channels(x: Value) -> int:
    count = x.shape[1] if x.shape is not None else None
    if not isinstance(count, int):
        raise AssertionError(f"{x.name} has no number of channels")
    return count


def _names(prefix: str, counts: Sequence[int]) -> dict[str, Callable[[], Model]]:
    return {f"{prefix}-{count}": partial(randwire, count) for count in counts}


CELLS: dict[str, Callable[[], Model]] = {
    "darts-cifar": partial(cell_network, DARTS, channels=36, layers=20, size=32),
    "darts-imagenet": partial(cell_network, DARTS, channels=48, layers=14, size=224),
    "nasnet-cifar": partial(cell_network, NASNET, channels=32, layers=20, size=32),
    "nasnet-imagenet": partial(cell_network, NASNET, channels=44, layers=14, size=224),
    "amoebanet-cifar": partial(cell_network, AMOEBANET, channels=36, layers=20, size=32),
    "amoebanet-imagenet": partial(cell_network, AMOEBANET, channels=50, layers=14, size=224),
    **_names("randwire-ws", (32, 48, 64)),
    "swiftnet-style": swiftnet_style,
}
"""Builders by name. NASNet-A (6 @ 768) and (4 @ 1056), AmoebaNet-A (6, 36) and (4, 50), DARTS as its authors trained
it; RandWire's small regime with its 32 nodes a stage, and with more."""
