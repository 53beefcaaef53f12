"""One model through one pipeline: whatever can be wrong with the result, found and named.

What is checked, in this order: the passes come to an end without an error; they changed something exactly where they
say so; the graph verifies, types inferred anew; names and types of the interface are the same; a second run has
nothing to do (single passes) and a run on a copy gives the same bytes; the text of the result parses back to itself;
the file reads back; the runtime loads it; every sample that the original takes gives the same outputs, within the
numeric contract of the passes that changed something.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...backends.core import Array, Outputs, Sample
from ...backends.ort.session import Session
from ...ir.clone import clone_model
from ...ir.dtypes import DType
from ...ir.errors import BackendError, PlanishError
from ...ir.graph import Model, Node
from ...ir.onnx_reader import read_model
from ...ir.onnx_writer import model_to_bytes
from ...ir.text import parse_model, print_model
from ...ir.verify import verify
from ...passes.core import Context, Fuel, Numbers, Pass
from ...passes.manager import Pipeline, RunRecord
from ...passes.pipeline import Step, flatten
from ...passes.target import Target
from ..checks.compare import leaves
from ..checks.reference import Reference
from ..checks.validate import interface_problems
from ..inputs.trouble import EXTREME

KINDS = (
    "original", "crash", "claims", "invalid", "interface", "restless", "undetermined", "text", "file", "refused",
    "inexact", "special", "different",
)  # fmt: skip


FINITE_ONLY = frozenset({"fuse-clip"})
"""Passes whose promise of equality is for finite elements: runtimes disagree about what clamps make of NaN."""
PACKED = frozenset("MatMul Gemm Conv ConvTranspose LSTM GRU FusedMatMul".split())
"""Operators that prepare a constant operand when the model is loaded."""
RUNTIME_FAULTS = ("Missing Input: ",)
"""What ONNX Runtime 1.31 says when it removed a Cast whose result only a body captures; the models are valid."""


@dataclass(frozen=True)
class Failure:
    """What went wrong."""

    pipeline: str
    kind: str
    """One of ``KINDS``."""
    message: str
    fuel: int | None = None
    """The number of rewrites after which it stopped."""

    def __str__(self) -> str:
        return f"{self.pipeline}: {self.kind}: {self.message}"


class Subject:
    """A model with samples and the outputs that any transformation of it must keep."""

    def __init__(
        self,
        model: Model,
        samples: Sequence[Sample],
        target: Target | None = None,
        *,
        special: Sequence[Sample] = (),
    ) -> None:
        """``special`` samples hold infinities and the like: only passes that promise equality are held to them.

        Raises ``PlanishError`` where the runtime refuses the model or each of the samples.
        """
        self.model, self.target = model, target
        self.hits: dict[str, int] = {}
        """Rewrites of the last pipeline that was checked, by rule."""
        self.known = False
        """Whether it came to a result that another one had come to, and that was right."""
        self._text = str(model)
        self._passed: dict[tuple[bytes, Numbers, bool], bool] = {}
        """Results that are known to be right, with the promise to which they were held and whether for special samples
        too; whether they were checked thoroughly."""
        self.data = model_to_bytes(model)
        self.reference = Reference(model, self.data, optimizer_noise=False, trusted=True)
        refusal: BackendError | None = None
        for sample in samples:
            self.reference.samples.append(sample)
            try:
                self.reference.outputs(len(self.reference.samples) - 1)
            except BackendError as error:
                self.reference.samples.pop()
                refusal = error
        random = self.reference.is_random() if self.reference.samples else None
        if random is not None:
            raise BackendError(random, where="fuzz")
        if not self.reference.samples:
            raise refusal or BackendError("the model has no samples", where="fuzz")
        self.special: list[tuple[Sample, Outputs]] = []
        session = Session(self.data) if special and not any(map(_is_open_for_nan, model.all_nodes())) else None
        for sample in special:
            with contextlib.suppress(BackendError):
                if session is not None:
                    self.special.append((sample, session.run(sample)))

    def context(self) -> Context:
        return Context(target=self.target)

    def transformed(self, steps: Sequence[Step], ctx: Context | None = None) -> tuple[Model, RunRecord]:
        """A copy of the model behind the steps. Raises ``PlanishError`` where one of them fails."""
        model = clone_model(self.model)
        record = Pipeline(list(steps)).run(model, ctx or self.context())
        return model, record

    def original_failure(self) -> Failure | None:
        """What is wrong before any pass: reader, writer, text, inference."""
        try:
            verify(self.model, types=True)
        except PlanishError as error:
            return Failure("", "invalid", f"the original does not verify: {error}")
        problem = text_problem(self.model)
        if problem:
            return Failure("", "text", problem)
        return self._read_back(self.model, self.data, "")

    def check(
        self, pipeline: str, *, thorough: bool = True, fuel: int | None = None, parsed: Pipeline | None = None
    ) -> Failure | None:
        """What the pipeline does wrong, or ``None``. Without ``thorough`` only what a single run shows.

        ``fuel``: stop after that many rewrites; the model must be right at every point. ``parsed``: the pipeline,
        where it need not be parsed again.
        """
        steps = (parsed or Pipeline(pipeline)).steps
        found = self._check(pipeline, steps, thorough=thorough, fuel=fuel)
        return found if found is None or fuel is None else replace(found, fuel=fuel)

    def _check(self, pipeline: str, steps: Sequence[Step], *, thorough: bool, fuel: int | None) -> Failure | None:
        self.hits, self.known = {}, False
        try:
            model, record = self.transformed(steps, replace(self.context(), fuel=Fuel(fuel), log=[]))
        except PlanishError as error:
            return Failure(pipeline, "crash", str(error))
        thorough = thorough and fuel is None
        for done in record.applications:
            self.hits[done.rule] = self.hits.get(done.rule, 0) + 1
        if not record.changes:
            same = str(model) == self._text if thorough else True
            return None if same else Failure(pipeline, "claims", "the model changed, yet no change was counted")
        return self._result(pipeline, steps, model, record, thorough=thorough)

    def _result(
        self, pipeline: str, steps: Sequence[Step], model: Model, record: RunRecord, *, thorough: bool
    ) -> Failure | None:
        try:
            verify(model, types=True)
        except PlanishError as error:
            return Failure(pipeline, "invalid", str(error))
        problems = interface_problems(self.model, model)
        if problems:
            return Failure(pipeline, "interface", "; ".join(problems))
        try:
            data = model_to_bytes(model)
        except PlanishError as error:
            return Failure(pipeline, "file", str(error))
        finite = not any(p.name in FINITE_ONLY for p in flatten([*steps]))
        key = (hashlib.blake2b(data, digest_size=16).digest(), weakest(steps, record), finite)
        self.known = key in self._passed and (self._passed[key] or not thorough)
        alone = len(steps) == 1 and isinstance(steps[0], Pass)
        failure = self._again(pipeline, steps, model, data) if thorough and (alone or not self.known) else None
        if failure is not None or self.known:
            return failure
        failure = self._file(pipeline, model, data) if thorough else None
        failure = failure or self._numbers(pipeline, data, key[1], self.special if finite else ())
        if failure is None:
            self._passed[key] = thorough
        return failure

    def _file(self, pipeline: str, model: Model, data: bytes) -> Failure | None:
        problem = text_problem(model)
        return Failure(pipeline, "text", problem) if problem else self._read_back(model, data, pipeline)

    def _again(self, pipeline: str, steps: Sequence[Step], model: Model, data: bytes) -> Failure | None:
        other, _ = self.transformed(steps)
        if model_to_bytes(other) != data:
            return Failure(pipeline, "undetermined", "two runs on copies give different bytes")
        if len(steps) == 1 and isinstance(steps[0], Pass):
            before = str(model)
            try:
                changes = Pipeline(list(steps)).run(model, self.context()).changes
            except PlanishError as error:
                return Failure(pipeline, "crash", f"in a second run: {error}")
            if changes:
                return Failure(pipeline, "restless", f"a second run makes {changes} changes: {_first(before, model)}")
        return None

    def _read_back(self, model: Model, data: bytes, pipeline: str) -> Failure | None:
        try:
            again = read_model(data)
            verify(again, types=True)
            problems = interface_problems(model, again)
            twice = model_to_bytes(again)
        except PlanishError as error:
            return Failure(pipeline, "file", f"what was written does not read back: {error}")
        if problems:
            return Failure(pipeline, "file", f"what was written reads back as another model: {problems[0]}")
        if model_to_bytes(read_model(twice)) != twice:
            return Failure(pipeline, "file", "writing, reading and writing changes the file")
        return None

    def _numbers(
        self, pipeline: str, data: bytes, contract: Numbers, special: Sequence[tuple[Sample, Outputs]]
    ) -> Failure | None:
        try:
            session = Session(data)
        except BackendError as error:
            return Failure(pipeline, "refused", error.message)
        # Where the original itself overflows, rewrites that are claimed for real numbers promise nothing.
        exact = contract is Numbers.EXACT
        self.reference.kinds = [] if exact else [EXTREME] * len(self.reference.samples)
        for i, sample in enumerate(self.reference.samples):
            try:
                found = session.run(sample)
            except BackendError as error:
                if any(fault in error.message for fault in RUNTIME_FAULTS):
                    return None
                tensors = [*sample.values(), *(a for _, a in leaves(self.reference.names, self.reference.outputs(i)))]
                if any(array is not None and array.size == 0 for array in tensors):
                    continue  # many kernels refuse empty tensors, and passes may choose such kernels
                return Failure(pipeline, "refused", f"sample {i}: {error.message}")
            bad = [c for c in self.reference.compare(i, found) if not c.equivalent]
            if bad and contract is not Numbers.APPROXIMATES:  # those draw on an error budget
                return Failure(pipeline, "different", f"sample {i}: {bad[0]}")
            inexact = self._inexact(self.reference.outputs(i), found) if exact else None
            if inexact:
                return Failure(pipeline, "inexact", f"sample {i}: {inexact}")
        for i, (sample, expected) in enumerate(special if exact else ()):
            try:
                inexact = self._inexact(expected, session.run(sample))
            except BackendError as error:
                return Failure(pipeline, "refused", f"special sample {i}: {error.message}")
            if inexact:
                return Failure(pipeline, "special", f"special sample {i}: {inexact}")
        return None

    def _inexact(self, expected: Outputs, found: Outputs) -> str | None:
        """Where results are not equal to the bit; zeros may change their sign."""
        if self._may_change_kernel():
            return None
        names = self.reference.names
        pairs = zip(leaves(names, expected), leaves(names, found), strict=True)
        for (label, a), (_, b) in pairs:
            if a is None or b is None:
                continue
            if a.shape != b.shape:
                return f"output {label} has shape {list(b.shape)}, expected {list(a.shape)}"
            if not _equal(a, b):
                with np.errstate(all="ignore"):
                    off = np.nanmax(np.abs(a.astype(np.float64) - b.astype(np.float64)), initial=0.0)
                return f"output {label} differs by up to {off:.3g}, the passes promise equality"
        return None

    def _may_change_kernel(self) -> bool:
        """Whether bits depend on more than the operators.

        The runtime computes half precision in single precision where it has no kernels (on x86), and rounds in between
        or not depending on which operators stand next to each other. Products pack a constant operand and sum in
        another order then.
        """
        nodes = list(self.model.all_nodes())
        if any(out.dtype is DType.F16 for node in nodes for out in node.outputs):
            return True
        factors = [v for node in nodes if node.op in PACKED for v in node.inputs[1:]]
        return any(v is not None and v.producer is not None for v in factors)


def _is_open_for_nan(node: Node) -> bool:
    """Whether what the node makes of NaN is left open: positions in which nothing is largest, casts to integers."""
    if node.op in ("ArgMax", "ArgMin", "TopK", "Unique", "NonMaxSuppression", "RoiAlign"):
        return True
    integers = node.outputs[0].dtype is not None and not node.outputs[0].dtype.is_float
    return (node.op in ("Cast", "QuantizeLinear") and integers) or (node.op == "MaxPool" and len(node.outputs) > 1)


def _equal(a: Array, b: Array) -> bool:
    same = np.asarray(a == b)
    return bool((same | (np.isnan(a) & np.isnan(b))).all()) if a.dtype.kind == "f" else bool(same.all())


def weakest(steps: Sequence[Step], record: RunRecord) -> Numbers:
    """The weakest promise among the passes that changed something."""
    order = list(Numbers)
    changed = {p.name for p in record.passes if p.changes}
    promises = [_promise(step) for step in _units(steps) if str(step) in changed]
    return max(promises, key=order.index, default=Numbers.EXACT)


def _units(steps: Sequence[Step]) -> Iterator[Step]:
    from ...passes.pipeline import Repeat

    for step in steps:
        if isinstance(step, Repeat):
            yield from _units(step.steps)
        else:
            yield step


def _promise(step: Step) -> Numbers:
    return max((type(p).numbers for p in flatten([step])), key=list(Numbers).index, default=Numbers.EXACT)


def text_problem(model: Model) -> str | None:
    """How the textual form fails to come back, or ``None``."""
    text = print_model(model, resources="inline", explicit=True)
    try:
        again = print_model(parse_model(text), resources="inline", explicit=True)
    except PlanishError as error:
        return f"the text does not parse: {error}"
    return None if again == text else f"the text comes back changed: {_first_line(text, again)}"


def _first(before: str, model: Model) -> str:
    return _first_line(before, str(model))


def _first_line(a: str, b: str) -> str:
    lines = zip(a.splitlines(), b.splitlines(), strict=False)
    x, y = next(((x, y) for x, y in lines if x != y), ("", "lines at the end"))
    return f"{x.strip()!r} became {y.strip()!r}"
