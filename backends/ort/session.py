"""Sessions of ONNX Runtime: settings as data, and every failure as a ``BackendError``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ...ir.errors import BackendError, PlanishError
from ...ir.graph import Model
from ..feeds import check_names
from .foreign_types import is_foreign, run_foreign
from .lent import Lent, lend

if TYPE_CHECKING:
    from ...passes.target import Target
    from ..core import Outputs, Sample

LEVELS = {"disable": 0, "basic": 1, "extended": 2, "layout": 3, "all": 99}
"""Names of ``GraphOptimizationLevel`` in ONNX Runtime 1.31."""
ORDERS = ("default", "priority")
"""``priority`` runs nodes exactly in file order when the runtime rewrites nothing; ``default`` walks back from the
outputs. (The runtime's third, memory-efficient, is refused by builds without training.)"""
MAX_INLINE_BYTES = 1 << 30
"""Models with more constant bytes lend them to the runtime: one message holds at most 2 GB."""
_FATAL = 4


@dataclass(frozen=True)
class SessionSettings:
    """How a session runs. Serializable; the manifest of an artifact carries it."""

    optimization_level: str = "all"
    """One of ``LEVELS``."""
    threads: int = 0
    """Threads within one operator; 0 lets the runtime take all cores, 1 runs on the caller's thread."""
    execution_order: str = "default"
    """One of ``ORDERS``."""
    memory_pattern: bool = True
    """Plan memory from the first run's shapes."""
    memory_arena: bool = True
    """Keep freed memory for later runs."""
    deterministic: bool = False
    """Ask kernels for reproducible results where they have a choice."""
    disabled_optimizers: tuple[str, ...] = ()
    """Names of the runtime's graph transformers to leave out."""
    config: tuple[tuple[str, str], ...] = ()
    """Session configuration entries, as ``("session.disable_prepacking", "1")``. The runtime ignores unknown keys."""
    provider: str = "CPUExecutionProvider"

    def __post_init__(self) -> None:
        if self.optimization_level not in LEVELS:
            _refuse_setting("optimization level", self.optimization_level, list(LEVELS))
        if self.execution_order not in ORDERS:
            _refuse_setting("execution order", self.execution_order, ORDERS)
        if self.threads < 0:
            _refuse_setting("number of threads", str(self.threads), ["0 (all cores)", "1", "2", "..."])

    def with_level(self, level: str) -> SessionSettings:
        """The same settings at another optimization level."""
        return replace(self, optimization_level=level)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that ``from_dict`` takes back."""
        plain = asdict(self)
        plain["disabled_optimizers"] = list(self.disabled_optimizers)
        plain["config"] = dict(sorted(self.config))
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> SessionSettings:
        """Raises ``BackendError`` for keys that this version does not know."""
        unknown = sorted(set(plain) - {f.name for f in fields(cls)})
        if unknown:
            raise BackendError(
                f"unknown session settings {', '.join(unknown)}", where="ort", help="written by a newer planish?"
            )
        known = dict(plain)
        known["disabled_optimizers"] = tuple(known.get("disabled_optimizers", ()))
        known["config"] = tuple(sorted(known.get("config", {}).items()))
        return cls(**known)

    def options(self) -> Any:
        """The runtime's own form (``onnxruntime.SessionOptions``)."""
        ort = _runtime()
        options = ort.SessionOptions()
        # Failures arrive as exceptions; at lower severities the runtime prints them a second time.
        options.log_severity_level = _FATAL
        options.graph_optimization_level = ort.GraphOptimizationLevel(LEVELS[self.optimization_level])
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = self.memory_pattern
        options.enable_cpu_mem_arena = self.memory_arena
        options.use_deterministic_compute = self.deterministic
        if self.execution_order == "priority":
            options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
        for key, value in self.config:
            options.add_session_config_entry(key, value)
        return options


PROVIDER_OPTIONS: dict[str, dict[str, str]] = {"CUDAExecutionProvider": {"use_tf32": "0"}}
"""Without it products on GPUs from Ampere on have factors of 19 bits: no rounding that planish promises."""

EXACT = SessionSettings("disable", threads=1, deterministic=True)
"""Runs a model as it is written, for checking numbers."""


def settings_for(target: Target) -> SessionSettings:
    """The settings that planish chooses for a target."""
    return SessionSettings(
        threads=target.cores if target.cores > 1 else 0,
        provider="CUDAExecutionProvider" if target.arch == "cuda" else "CPUExecutionProvider",
    )


def _refuse_setting(what: str, found: str, expected: Sequence[str]) -> NoReturn:
    raise BackendError(f"{what} {found!r} does not exist", where="ort", help=f"one of: {', '.join(expected)}")


class Session:
    """A loaded model. Keep it for several runs: loading costs far more than running a small model."""

    def __init__(self, model: Model | bytes | str | Path, settings: SessionSettings = EXACT) -> None:
        """``model`` is a graph of ours, the bytes of a file, or a path. Raises ``BackendError`` when it is refused."""
        self.settings = settings
        with ExitStack() as stack:
            source = stack.enter_context(_runtime_source(model))
            self._lent = source.weights if isinstance(source, Lent) else {}
            """The runtime does not copy them, nor keep them alive."""
            self._session = _load(source, settings)
        self.inputs: list[str] = [i.name for i in self._session.get_inputs()]
        """Names of the inputs that must be given (those with a default are not among them)."""
        self.outputs: list[str] = [o.name for o in self._session.get_outputs()]
        types = [i.type for i in (*self._session.get_inputs(), *self._session.get_outputs())]
        self._foreign = any(map(is_foreign, types))
        self._known = {*self.inputs, *(i.name for i in self._session.get_overridable_initializers())}

    def run(self, inputs: Sample) -> Outputs:
        """All outputs for one sample. Raises ``BackendError`` that names missing or unknown inputs, or what failed."""
        check_names(inputs, self.inputs, self._known, where="ort")
        try:
            if self._foreign:
                return run_foreign(self._session, inputs)
            # A sample taken out of an array along its first axis may hold numpy scalars, which the runtime refuses.
            given = {k: np.asarray(v) if isinstance(v, np.generic) else v for k, v in inputs.items()}
            return list(self._session.run(None, given))
        except Exception as error:
            raise backend_error("run", error) from error


def _runtime() -> Any:
    import onnxruntime

    return onnxruntime


def _load(source: str | bytes | Lent, settings: SessionSettings) -> Any:
    ort = _runtime()
    available: list[str] = ort.get_available_providers()
    if settings.provider not in available:
        raise BackendError(
            f"{settings.provider} is not available here",
            where="ort",
            help=f"this onnxruntime has {', '.join(available)}; CUDA needs onnxruntime-gpu and NVIDIA's libraries",
        )
    names = list(dict.fromkeys([settings.provider, "CPUExecutionProvider"]))
    providers = [(name, PROVIDER_OPTIONS.get(name, {})) for name in names]
    options = settings.options()
    try:
        if isinstance(source, Lent):
            options.add_external_initializers(list(source.weights), list(source.weights.values()))
            source = source.model
        session = ort.InferenceSession(
            source,
            options,
            providers=providers,
            disabled_optimizers=set(settings.disabled_optimizers) or None,
        )
    except Exception as error:
        raise backend_error("load", error) from error
    if settings.provider not in session.get_providers():
        # The runtime falls back to the processor without an error.
        raise BackendError(
            f"onnxruntime could not start {settings.provider} and would run on {', '.join(session.get_providers())}",
            where="ort",
            help="is there a GPU, and are the driver and CUDA's libraries those that this onnxruntime was built for?",
        )
    return session


def _runtime_source(model: Model | bytes | str | Path) -> AbstractContextManager[str | bytes | Lent]:
    """What the runtime takes, alive while it loads."""
    if isinstance(model, bytes):
        return nullcontext(model)
    if isinstance(model, (str, Path)):
        return nullcontext(str(model))
    size = sum(value.data.nbytes for graph in model.all_graphs() for value in graph.constants if value.data is not None)
    if size > MAX_INLINE_BYTES:
        found = lend(model)
        return nullcontext(found) if size - found.bytes <= MAX_INLINE_BYTES else _temporary_file(model)
    from ...ir.onnx_writer import model_to_bytes

    return nullcontext(model_to_bytes(model))


class _temporary_file(AbstractContextManager[str]):
    def __init__(self, model: Model) -> None:
        self.model = model

    def __enter__(self) -> str:
        from ...ir.onnx_writer import write_model

        self.folder = TemporaryDirectory(prefix="planish-")
        path = Path(self.folder.name) / "model.onnx"
        try:
            write_model(self.model, path)
        except BaseException:
            self.folder.cleanup()
            raise
        return str(path)

    def __exit__(self, *_: object) -> None:
        self.folder.cleanup()


_ORT_HEAD = re.compile(r"^\[ONNXRuntimeError\] : (\d+) : (\w+) : ")
_NODE = re.compile(r"Node(?:\:| )\s*\(?'?([^()']*?)'?\)? (?:Op|OpType)|Name:'([^']*)'")


def backend_error(action: str, error: Exception) -> PlanishError:
    """The runtime's exception as ours: its first lines, the node where it names one, and what that may mean."""
    if isinstance(error, PlanishError):
        return error
    text = str(error).strip()
    head = _ORT_HEAD.match(text)
    code = head.group(2) if head else type(error).__name__
    text = _ORT_HEAD.sub("", text)
    newer = _too_new(text)
    if newer is not None:
        return newer
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    message = " ".join(lines[:3])[:600] or type(error).__name__
    node = _NODE.search(text)
    origin = next((g for g in node.groups() if g), None) if node else None
    return BackendError(
        f"cannot {action} the model: {message}", where="ort", origin=origin, help=_help(action, code, message)
    )


_IR_VERSION = re.compile(r"model IR version: (\d+), max supported IR version: (\d+)")
_OPSET = re.compile(
    r"Opset (\d+) is under development.*official support for domain (\S+) is till opset (\d+)", re.DOTALL
)


def _too_new(text: str) -> PlanishError | None:
    """A file of a later ONNX than the runtime knows, in plain words."""
    ir, opset = _IR_VERSION.search(text), _OPSET.search(text)
    if ir is not None:
        found, what = f"IR version {ir[1]}", f"up to {ir[2]}"
        help = f"export the model with IR version {ir[2]} (`onnx.save` of an older onnx, or set `ir_version`)"
    elif opset is not None:
        found, what = f"opset {opset[1]} of domain {opset[2]}", f"up to {opset[3]}"
        help = f"export the model for opset {opset[3]}; planish does not lower a model's opset"
    else:
        return None
    version = _runtime().__version__
    return BackendError(f"the model has {found}, onnxruntime {version} takes {what}", where="ort", help=help)


def _help(action: str, code: str, message: str) -> str:
    if code == "NOT_IMPLEMENTED" or "No Op registered" in message or "is not a registered function/op" in message:
        return "this onnxruntime has no kernel for the operator: a custom operator, or one that this processor lacks"
    if code in ("INVALID_PROTOBUF", "NO_SUCHFILE"):
        return "the file is missing or damaged"
    if action == "load":
        return "onnxruntime does not accept the model; `planish inspect` checks it"
    return "the inputs do not fit the model, or the model is at fault"
