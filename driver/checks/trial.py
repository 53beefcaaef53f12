"""Whether a model may run here at all: its results have a bounded size, and its first run ends.

The file may come from anybody. A result whose size inference knows is held to ``Limits.value_bytes`` before anything
runs. Where sizes or times depend on what is computed (loops, strings, extents from data), the first run with each set
of input shapes happens in a process of its own with bounded memory and time; only what comes through runs in this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from weakref import finalize

from ...backends.core import Sample
from ...backends.ort.isolated import FAULTS, Isolated, RuntimeCrash
from ...backends.ort.session import EXACT
from ...ir.dims import SymDim, evaluate
from ...ir.errors import UsageError
from ...ir.graph import Model, Value
from ...ir.limits import current_limits
from ...ir.onnx_writer import model_to_bytes
from ..sizes import constant_bytes

UNBOUNDED = frozenset(
    "Loop Scan StringConcat StringSplit SequenceMap SequenceInsert ConcatFromSequence SplitToSequence".split()
)
"""Operators whose results have a size that depends on what is computed, or that may never end."""
MAKES_SIZE = frozenset("Range ConstantOfShape Expand Tile Pad Resize Upsample OneHot CenterCropPad Reshape".split())
"""Those whose results' extents may come from numbers that are computed."""
_WINDOWS = frozenset({"Conv", "MaxPool", "AveragePool", "LpPool", "ConvInteger", "QLinearConv"})
MAX_BYTES = 1 << 30
"""Models with more constants are not sent to another process; their size shows that they were not made to deceive."""


def too_large(model: Model, sample: Sample | None = None) -> str | None:
    """Which result takes more than the limit, in words; ``None`` where none is known to.

    With a sample, sizes that depend on the inputs' extents count as well.
    """
    limit = current_limits.get().value_bytes
    symbols = bound_symbols(model, sample) if sample is not None else {}
    for node in model.all_nodes():
        for out in node.outputs:
            size = _size(out, symbols)
            if size is not None and size > limit:
                name = node.name or out.name
                return f"{node.op} {name!r} makes {out.type}, {size} bytes; the limit is {limit} (value_bytes)"
    for value in model.graph.inputs:
        size = _size(value, symbols)
        if size is not None and size > limit:
            return f"input {value.name!r} is {value.type}, {size} bytes; the limit is {limit} (value_bytes)"
    return None


def too_small(model: Model, sample: Sample) -> str | None:
    """Which window is larger than what it slides over, in words.

    ONNX Runtime rounds the number of places towards zero, and reads one window of whatever there is; nobody else does.
    """
    symbols = bound_symbols(model, sample)
    for node in model.all_nodes():
        if node.op in _WINDOWS and not node.domain:
            extents = [evaluate(d, symbols) for d in node.output.shape or ()]
            if any(extent is not None and extent < 1 for extent in extents[2:]) and 0 not in extents[:2]:
                return f"a window of {node.op} {node.name!r} is larger than its input"
    return None


def bound_symbols(model: Model, sample: Sample) -> dict[str, int]:
    """What the symbols of the inputs' shapes stand for."""
    found: dict[str, int] = {}
    for value in model.graph.inputs:
        array, shape = sample.get(value.name), value.shape
        for d, extent in zip(shape or (), array.shape if array is not None else (), strict=False):
            if isinstance(d, SymDim) and d.name is not None:
                found[d.name] = int(extent)
    return found


def needs_trial(model: Model) -> bool:
    """Whether sizes or times of a run depend on what is computed."""
    for node in model.all_nodes():
        if node.op in UNBOUNDED:
            return constant_bytes(model) <= MAX_BYTES
        if node.op in MAKES_SIZE and any(_open(out) for out in node.outputs):
            return constant_bytes(model) <= MAX_BYTES
    return False


MAX_CRASHES = 12
"""Made-up inputs that crash the runtime are passed over, this often: others may not."""


class Trial:
    """First runs of a model in a process of its own."""

    def __init__(self, model: Model, source: Model | bytes | Path) -> None:
        """``source`` is what runs."""
        self._model, self._source = model, source
        self._raw = b""
        self._process: Isolated | None = None
        self._crashes = 0

    def run(self, sample: Sample) -> None:
        """Runs one sample.

        Raises ``BackendError`` where the runtime refuses it or crashes, ``UsageError`` where it exceeds the limits or
        crashes again and again.
        """
        limits = current_limits.get()
        memory = limits.trial_bytes + 4 * constant_bytes(self._model)
        if self._process is None:
            data = self._source.read_bytes() if isinstance(self._source, Path) else self._source
            self._raw = data if isinstance(data, bytes) else model_to_bytes(data)
            self._process = Isolated(memory_bytes=memory, seconds=limits.trial_seconds)
            finalize(self, self._process.close)
        try:
            self._process.run(self._raw, [sample], EXACT)
        except RuntimeCrash as error:
            self._crashes += 1
            if error.signal in FAULTS and self._crashes < MAX_CRASHES:
                raise
            if error.signal in FAULTS:
                raise UsageError(
                    f"onnxruntime crashes on the original ({error.signal}, {self._crashes} times with other inputs)",
                    where="trial",
                    help="give samples that it is known to run on (--samples), or sizes (--dim NAME=SIZE)",
                ) from None
            raise UsageError(
                f"the original cannot be run within the limits of {memory} bytes and {limits.trial_seconds:g} seconds: "
                f"{error.message}",
                where="trial",
                help="a loop in it may never end; if you trust the model: --limit trial_seconds=N, trial_bytes=N",
            ) from None

    def close(self) -> None:
        """Ends the process; the next run starts another."""
        if self._process is not None:
            self._process.close()


def _size(value: Value, symbols: Mapping[str, int]) -> int | None:
    tensor = value.tensor
    if tensor is None or tensor.shape is None or tensor.dtype is None or tensor.dtype.bits == 0:
        return None
    count = 1
    for d in tensor.shape:
        extent = evaluate(d, symbols)
        if extent is None:
            return None
        count *= extent
    return tensor.dtype.nbytes(count)


def _open(value: Value) -> bool:
    """Whether an extent is not even known as an expression of the inputs' symbols."""
    tensor = value.tensor
    return tensor is None or tensor.shape is None or any(d is None for d in tensor.shape)
