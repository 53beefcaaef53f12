"""``deploy``: optimize a model, build it with a compiler backend, and check what was built on the samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..ir.clone import clone_model
from ..ir.dims import SymDim, substitute
from ..ir.errors import NotEquivalentError, UsageError
from ..ir.graph import Model
from ..passes.core import Context
from ..passes.manager import Pipeline
from ..passes.target import Target, get_target, native
from .dims import input_symbols
from .measuring import host_arch
from .optimize import optimize
from .result import Result
from .samples import Samples, Source, load_samples
from .validate import AnyModel, as_model, make_reference, make_samples

if TYPE_CHECKING:
    from ..backends.core import Sample
    from ..backends.tvm.artifact import Artifact


@dataclass
class Deployed:
    """What came out."""

    result: Result
    """The optimized model and its report."""
    artifact: Artifact
    checked: int
    """Samples on which the artifact gave the original's outputs; 0 where this machine cannot run it."""


def deploy(
    model: AnyModel,
    target: str | Target = "native",
    *,
    samples: Source | Samples | None = None,
    dims: Mapping[str, int] | None = None,
    tolerance: float = 0.0,
    seed: int = 0,
    **options: Any,
) -> Deployed:
    """Optimizes for TVM with the options of :func:`optimize`, builds, and compares on the samples that fit.

    Extents that the model leaves open are those of ``dims``, then those of the first sample. Nothing is timed.
    Raises what ``optimize`` raises, ``UsageError`` for open extents, ``BackendError`` for what cannot be built, and
    ``NotEquivalentError`` where the artifact's outputs are not the original's.
    """
    chosen = get_target(target) if isinstance(target, str) else target
    graph, source = as_model(model)
    given = load_samples(samples, graph) if samples is not None and not isinstance(samples, Samples) else samples
    fixed = static_dims(graph, dims or {}, given.items[0] if given is not None else None)
    if given is not None:
        given = _fitting(given, graph, fixed)
    options.setdefault("measure", False)
    result = optimize(model, for_passes(chosen), samples=given, dims=fixed, tolerance=tolerance, seed=seed, **options)
    artifact = build(result, chosen)
    checked = 0
    if runs_on_this_machine(chosen):
        reference = make_reference(graph, source)
        if not isinstance(reference, str):
            fitting = make_samples(given, graph, reference, seed=seed, dims=fixed)
            shapes = {v.name: v.shape for v in result.model.graph.inputs}
            for i, sample in enumerate(fitting.items):
                if all(tuple(sample[name].shape) == shape for name, shape in shapes.items()):
                    _compare(reference.compare(i, artifact.run(sample), tolerance=tolerance), options)
                    checked += 1
    return Deployed(result, artifact, checked)


def build(result: Result, target: Target) -> Artifact:
    """The artifact of an optimized model with static extents. Raises ``BackendError``."""
    from ..backends.tvm.backend import TvmBackend

    backend, target = TvmBackend(), replace(target, runtime="tvm", contrib=False)
    model = clone_model(result.model)
    text = backend.legalize(model, target)
    if text != "none":
        Pipeline(text).run(model, Context(target=for_passes(target)))
    plan = result.plan.pipeline if result.plan is not None and result.changed else ""
    steps = [part for part in (plan, text if text != "none" else "") if part]
    return backend.lower(model, target, pipeline=",".join(steps) or "none", source=result.origin)


def for_passes(target: Target) -> Target:
    """The target as passes see it: standard operators, which are what our kernels are made of."""
    arch = target.arch if target.arch in ("x86_64", "aarch64") else "any"
    return replace(target, runtime="ort", arch=arch, contrib=False)


def runs_on_this_machine(target: Target) -> bool:
    """Whether code for the target runs here: the same processor family, with all that the target takes for granted."""
    return target.arch == "any" or (target.arch == host_arch() and target.features <= get_target(native()).features)


def static_dims(model: Model, dims: Mapping[str, int], sample: Sample | None) -> dict[str, int]:
    """A number for every symbol of the inputs' shapes. Raises ``UsageError`` for those that nothing says."""
    found = dict(dims)
    for value in model.graph.inputs if sample is not None else ():
        array = sample.get(value.name) if sample is not None else None
        if array is None or value.shape is None or len(value.shape) != array.ndim:
            continue
        for dim, extent in zip(value.shape, array.shape, strict=True):
            names: set[str] = dim.symbols() if isinstance(dim, SymDim) else set()
            for name in names:
                if len(names) == 1 and substitute(dim, {name: extent}) == extent:
                    found.setdefault(name, extent)
    missing = [name for name in input_symbols(model) if name not in found]
    if missing:
        raise UsageError(
            f"the inputs have open extents: {', '.join(missing)}",
            where="dims",
            help="kernels are made for fixed ones: "
            + " ".join(f"--dim '{name}=...'" for name in missing)
            + ", or --samples with arrays of the wanted shapes",
        )
    return found


def _fitting(samples: Samples, model: Model, dims: Mapping[str, int]) -> Samples:
    """The samples of the fixed shapes; all have one where they were made for one."""
    from .dims import with_dims

    shapes = {v.name: v.shape for v in with_dims(model, dims).graph.inputs} if dims else {}
    kept = [
        i
        for i, sample in enumerate(samples.items)
        if all(name not in shapes or tuple(array.shape) == shapes[name] for name, array in sample.items())
    ]
    if len(kept) == len(samples.items):
        return samples
    return replace(
        samples,
        items=[samples.items[i] for i in kept],
        kinds=[samples.kinds[i] for i in kept if i < len(samples.kinds)],
    )


def _compare(checks: Any, options: Mapping[str, Any]) -> None:
    problems = [str(check) for check in checks if not check.equivalent]
    if problems and not options.get("allow_different"):
        raise NotEquivalentError(
            f"what TVM built does not compute what the original computes: {'; '.join(problems[:3])}",
            where="tvm",
            help="planish's kernels are at fault; --backend ort runs the same optimized model",
        )
