"""Extents that samples tell: symbols of a graph's inputs."""

from __future__ import annotations

from ....ir.dims import SymDim
from ....ir.graph import Graph
from ...core import Context
from .costs import Sizes


def sizes_of(graph: Graph, ctx: Context) -> Sizes:
    """What the first sample says of symbols that are an input's extent by themselves; guesses for all others. ONNX
    Runtime's kernels for processors move one axis at a time fast, and no other runtime is known to."""
    known: dict[str, int] = {}
    sample = ctx.samples[0] if ctx.samples else {}
    for value in graph.root.inputs:
        array = sample.get(value.name)
        if array is None or value.shape is None or len(value.shape) != array.ndim:
            continue
        for d, n in zip(value.shape, array.shape, strict=True):
            if isinstance(d, SymDim):
                known.setdefault(str(d), int(n))
    target = ctx.target
    return Sizes(known, steps=target is not None and target.runtime == "ort" and target.arch in ("x86_64", "aarch64"))
