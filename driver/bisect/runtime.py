"""The runtime's own optimizer as the suspect: which level, then which optimizer changes the result of a model.

The model as it is written (no optimization) is the measure. The runs happen in a process of their own, since an
optimizer may also crash. Names are those that ``disabled_optimizers`` of a session takes; source: the registrations
in ``onnxruntime/core/optimizer`` of ONNX Runtime 1.31.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...backends.core import Sample
from ...backends.ort.isolated import Isolated
from ...backends.ort.session import EXACT, SessionSettings
from ...ir.errors import BackendError, PlanishError, UsageError
from ...ir.graph import Model
from ...ir.onnx_writer import model_to_bytes
from ...ir.text import print_model
from ..checks.validate import AnyModel, as_model, make_reference, make_samples
from ..document import SCHEMA, Document, Text, plain_data
from ..inputs.samples import Source
from .judge import CRASH, DIFFERENT, REFUSED, Fault, reference_for
from .reduce import Reduced, reduce_model
from .reproducer import with_sample

Progress = Callable[[str, int, int], None]
LEVELS = ("basic", "extended", "layout", "all")
OPTIMIZERS = tuple(
    "AttentionFusion BiasDropoutFusion BiasGeluFusion BiasSkipLayerNormFusion BiasSoftmaxFusion "
    "CastChainElimination CastElimination ClipQuantRewrite CommonSubexpressionElimination ConstantFolding "
    "ConstantSharing ConvActivationFusion ConvAddActivationFusion ConvAddFusion ConvBNFusion ConvMulFusion "
    "DivMulFusion DoubleQDQPairsRemover DynamicQuantizeMatMulFusion EliminateDropout EliminateIdentity "
    "EliminateSlice EmbedLayerNormFusion EnsureUniqueDQForNodeUnit ExpandElimination FastGeluFusion FuseReluClip "
    "GatherSliceToSplitFusion GatherToSliceFusion GeluApproximation GeluFusionL1 GeluFusionL2 "
    "GemmActivationFusion GemmSumFusion GemmTransposeFusion GroupQueryAttentionFusion LabelEncoderFusion "
    "LayerNormFusionL1 LayerNormFusionL2 MatMulActivationFusion MatMulAddFusion MatMulIntegerToFloatFusion "
    "MatMulNBitsFusion MatMulScaleFusion MatMul_BatchNormalization_Fusion MatmulTransposeFusion NchwcTransformer "
    "NhwcTransformer NoopElimination NotWhereFusion Pad_Fusion PreShapeNodeElimination QDQFinalCleanupTransformer "
    "QDQPropagationTransformer QDQS8ToU8Transformer QDQSelectorActionTransformer QuickGeluFusion ReluQuantRewrite "
    "ReshapeFusion SimplifiedLayerNormFusion SkipLayerNormFusion SliceConcatToSpaceToDepthFusion "
    "TransposeOptimizer TransposeOptimizer_CPUExecutionProvider UnsqueezeElimination WhereDummyDq".split()
)


@dataclass
class RuntimeBisection:
    """The outcome of :func:`bisect_runtime`."""

    fault: Fault | None = None
    level: str = ""
    """The lowest level at which the result is wrong."""
    optimizers: list[str] = field(default_factory=list[str])
    """The smallest set found whose absence makes it right; empty where no named optimizer is at fault alone."""
    runs: int = 0
    nodes: int = 0
    text: str = ""
    """The shrunk model."""
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        fault = None if self.fault is None else {"kind": self.fault.kind, "message": self.fault.message}
        plain = {k: v for k, v in vars(self).items() if k != "fault"}
        return plain_data({"schema": SCHEMA, "fault": fault, **plain})

    def document(self) -> Document:
        if self.fault is None:
            return [Text(f"onnxruntime's optimizer changes nothing that matters ({self.runs} runs)", "green")]
        document: Document = [
            Text(f"onnxruntime's optimization level {self.level!r} makes the model wrong", "bold"),
            Text(f"  {self.fault}"),
        ]
        if self.optimizers:
            names = ", ".join(self.optimizers)
            document.append(Text(f"  right without {names} (InferenceSession(..., disabled_optimizers=[...]))"))
        else:
            document.append(Text("  no single named optimizer is at fault"))
        if self.text:
            document += [Text(f"reproducer of {self.nodes} nodes", "bold"), Text(self.text)]
        return document


def bisect_runtime(
    model: AnyModel,
    samples: Source | None = None,
    *,
    tolerance: float = 0.0,
    seconds: float = 300.0,
    seed: int = 0,
    reduce: bool = True,
    progress: Progress | None = None,
) -> RuntimeBisection:
    """Finds the level and the optimizers of ONNX Runtime that change what ``model`` computes on ``samples``.

    Raises ``UsageError`` where the runtime cannot run the model without optimization.
    """
    start = time.monotonic()
    original, source = as_model(model)
    reference = make_reference(original, source, optimizer_noise=False)
    if isinstance(reference, str):
        raise UsageError(f"nothing to compare with: {reference}", where="bisect", help="bisecting runs the original")
    items = make_samples(samples, original, reference, seed=seed).items
    with Isolated() as process:
        trial = _Trial(process, tolerance)
        found = RuntimeBisection()
        for level in LEVELS:
            if progress is not None:
                progress(f"running at level {level}", 0, 0)
            found.fault = trial.fault(original, items, EXACT.with_level(level))
            if found.fault is not None:
                found.level = level
                found.optimizers = [*_guilty(trial, original, items, level, found.fault, start + seconds / 2)]
                break
        if found.fault is not None and reduce:
            if progress is not None:
                progress("shrinking the model", 0, 0)
            small = _shrunk(trial, original, items, found, start + seconds - time.monotonic())
            found.nodes = sum(1 for _ in small.model.all_nodes())
            text = print_model(small.model, resources="inline", explicit=True)
            found.text = with_sample(f"// runtime: onnxruntime at level {found.level}\n{text}", small.samples)
        found.runs = trial.runs
    found.seconds = time.monotonic() - start
    return found


class _Trial:
    """Runs of models under settings of the runtime, compared with the same models without optimization."""

    def __init__(self, process: Isolated, tolerance: float) -> None:
        self.process, self.tolerance = process, tolerance
        self.runs = 0

    def fault(self, model: Model, samples: Sequence[Sample], settings: SessionSettings) -> Fault | None:
        """What is wrong; ``None`` also where the model does not run without optimization."""
        reference = reference_for(model, samples)
        if reference is None:
            return None
        self.runs += 1
        try:
            outputs = self.process.run(model_to_bytes(model), list(reference.samples), settings)
        except BackendError as error:
            return Fault(CRASH if "crashed" in error.message else REFUSED, error.message)
        except PlanishError:
            return None
        for i, found in enumerate(outputs):
            for check in reference.compare(i, found, tolerance=self.tolerance):
                if not check.equivalent:
                    return Fault(DIFFERENT, str(check))
        return None


def _guilty(
    trial: _Trial, model: Model, samples: Sequence[Sample], level: str, fault: Fault, deadline: float
) -> Sequence[str]:
    """The fewest optimizers whose absence makes the model right, by halving; none where all of them do not suffice."""

    def right_without(names: Sequence[str]) -> bool:
        settings = replace(EXACT.with_level(level), disabled_optimizers=tuple(names))
        found = trial.fault(model, samples, settings)
        return found is None or found.kind != fault.kind

    suspects = list(OPTIMIZERS)
    if not right_without(suspects):
        return []
    size = len(suspects) // 2
    while size and time.monotonic() < deadline:
        for start in range(0, len(suspects), size):
            rest = suspects[:start] + suspects[start + size :]
            if rest and right_without(rest):
                suspects = rest
                break
        else:
            size //= 2
            continue
        size = min(size, max(1, len(suspects) // 2))
    return suspects


def _shrunk(trial: _Trial, model: Model, samples: Sequence[Sample], found: RuntimeBisection, seconds: float) -> Reduced:
    kind = found.fault.kind if found.fault is not None else ""
    settings = EXACT.with_level(found.level)

    def fails(candidate: Model, some: Sequence[Sample]) -> bool:
        fault = trial.fault(candidate, some, settings)
        return fault is not None and fault.kind == kind

    return reduce_model(model, samples, fails, seconds=max(1.0, seconds))
