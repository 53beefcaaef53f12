"""Random models through a compiler backend: what it built against the original under ONNX Runtime.

Extents that a model leaves open stay open where the backend can: the samples of a random model have different ones, and
all go through the same artifact. Special samples hold signed zeros, infinities, NaN and subnormals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...backends.core import Sample
from ...ir.constants import ArrayConstant
from ...ir.errors import BackendError, PlanishError
from ...ir.graph import Model
from ...ir.onnx_reader import read_model
from ...models.random import Case, random_case
from ...models.random.quantized import random_quantized
from ...passes.context import Context
from ...passes.manager import Pipeline
from ...passes.target import Target, get_target
from ..checks.reference import Reference
from ..deploy import for_passes, static_dims
from ..dims import with_dims
from .check import RUNTIME_FAULTS, Subject

RIGHT, BUILT, REFUSED, CRASH, WRONG, RUNTIME = "right", "built", "refused", "crash", "wrong", "the runtime's fault"
OPEN_FOR_NAN = frozenset(
    ("MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin", "GRU", "LSTM", "RNN", "LayerNormalization")
)
"""Operators of which ONNX Runtime may make finite numbers where NaN comes in, by its place or the size of the layer, or
whose partial sums overflow to infinities of both signs by their order."""
KINDS = (RIGHT, BUILT, REFUSED, CRASH, WRONG, RUNTIME)
ODD_SCALES = {0.05: 0.0437, 0.1: 0.1013, 0.02: 0.02017}
Draw = Callable[[int], Case]
"""A model for a seed."""


def quantized_case(seed: int) -> Case:
    """A model of quantizers around convolutions, products and what goes between, with two samples."""
    model = random_quantized(seed)
    _without_ties(model)
    rng = np.random.default_rng(seed)
    shapes = {v.name: [d for d in v.shape or () if isinstance(d, int)] for v in model.graph.inputs}
    samples = [{k: rng.standard_normal(s, np.float32) * scale for k, s in shapes.items()} for scale in (1, 4)]
    return Case(seed, model, samples)


def _without_ties(model: Model) -> None:
    """Takes scales that are no multiples of each other: numbers in the middle of two steps become either."""
    graph = model.graph
    scales = {
        v for n in graph if n.op in ("QuantizeLinear", "DequantizeLinear") for v in n.inputs[1:2] if v is not None
    }
    for value in [v for v in graph.constants if v in scales]:
        array = value.numpy()
        others = np.select([array == np.float32(known) for known in ODD_SCALES], list(ODD_SCALES.values()), array)
        made = graph.add_constant(ArrayConstant(others.astype(np.float32)), value.name)
        value.replace_uses(made)
        graph.remove_constant(value)


@dataclass
class Compiled:
    """What became of one model."""

    seed: int
    kind: str
    """One of ``KINDS``."""
    message: str = ""
    samples: int = 0
    """Samples on which the outputs were the original's."""
    open: bool = False
    """Whether extents stayed open."""
    nodes: int = 0
    fallen_back: dict[str, int] = field(default_factory=dict[str, int])
    """Nodes left to ONNX Runtime, by operator."""


def compiled_cases(
    seeds: Iterable[int], target: Target, draw: Draw = random_case, *, pipeline: str = "", fixed: bool = False
) -> Iterator[Compiled]:
    """Draws a model for each seed, builds it for ``target`` behind ``pipeline``, and compares where that runs here.

    ``fixed``: with the extents of the first sample. Seeds that give no model that ONNX Runtime runs are left out.
    """
    for seed in seeds:
        try:
            case = draw(seed)
            subject = Subject(case.model, case.samples, special=case.special)
        except PlanishError:
            continue
        yield _compiled(case, subject, replace(target, runtime="tvm", contrib=False), pipeline, fixed=fixed)


def _compiled(case: Case, subject: Subject, target: Target, pipeline: str, *, fixed: bool) -> Compiled:
    from ...backends.tvm.backend import TvmBackend
    from ...backends.tvm.kernels.machine import Machine
    from ...backends.tvm.ready import left_to_ort

    found = Compiled(case.seed, RIGHT)
    backend, ctx = TvmBackend(), Context(target=for_passes(target))
    model = read_model(subject.data)
    try:
        dims = static_dims(model, {}, subject.reference.samples[0]) if fixed or _unnamed(model) else {}
        model = with_dims(model, dims) if dims else model
        if pipeline:
            Pipeline(pipeline).run(model, ctx)
        legal = backend.legalize(model, target)
        if legal != "none":
            Pipeline(legal).run(model, ctx)
        found.open = not _static(model)
        found.nodes = len(list(model.graph))
        for node in left_to_ort(model.graph, Machine(target)):
            found.fallen_back[node.op] = found.fallen_back.get(node.op, 0) + 1
        artifact = backend.lower(model, target)
    except PlanishError as error:
        return replace(found, kind=REFUSED, message=str(error))
    except Exception as error:  # TVM's own, and ours: whatever it is, it must not happen
        return replace(found, kind=CRASH, message=f"{type(error).__name__}: {error}")
    if target.arch != get_target("native").arch:
        return replace(found, kind=BUILT)
    return _judged(found, subject, artifact, model, odd=not pipeline and "expand-fused" not in legal)


def _judged(found: Compiled, subject: Subject, artifact: Any, model: Model, *, odd: bool) -> Compiled:
    """``odd``: on special samples too, which passes that reorder sums are not held to, nor decompositions, which
    overflow elsewhere."""
    special = Reference(subject.model, subject.data, optimizer_noise=False, trusted=True)
    odd = odd and not any(node.op in OPEN_FOR_NAN for node in subject.model.all_nodes())
    special.samples.extend(sample for sample, _ in subject.special if odd)
    for reference in (subject.reference, special):
        for i, sample in enumerate(reference.samples):
            if not _fits(sample, model):
                continue
            try:
                checks = reference.compare(i, artifact.run(sample))
            except BackendError as error:
                fault = error.where == "ort" or any(text in str(error) for text in RUNTIME_FAULTS)
                return replace(found, kind=RUNTIME if fault else REFUSED, message=str(error))
            except Exception as error:
                return replace(found, kind=CRASH, message=f"{type(error).__name__}: {error}")
            problems = [str(check) for check in checks if not check.equivalent]
            if problems:
                return replace(found, kind=WRONG, message=f"sample {i}: {'; '.join(problems)}")
            found.samples += 1
    return found


def _static(model: Model) -> bool:
    return all(isinstance(d, int) for v in model.graph.inputs for d in v.shape or ())


def _unnamed(model: Model) -> bool:
    """Whether inputs have extents that are no symbols."""
    dims = [d for v in model.graph.inputs for d in v.shape or ()]
    return any(not isinstance(d, int) and getattr(d, "name", None) is None for d in dims)


def _fits(sample: Sample, model: Model) -> bool:
    """Whether the sample has the inputs (defaults cannot be overridden) and extents that the artifact takes: of open
    ones, 1 and more."""
    if set(sample) != {value.name for value in model.graph.inputs if value not in model.graph.defaults}:
        return False
    for value in model.graph.inputs:
        extents = zip(value.shape or (), sample[value.name].shape if value.name in sample else (), strict=False)
        if any(wanted != given if isinstance(wanted, int) else given == 0 for wanted, given in extents):
            return False
    return True
