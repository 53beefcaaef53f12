"""Session settings that are worth trying on a model, for the tuner.

How many threads there may be is the user's decision: fewer are tried, never more. Nothing is tried that changes what
the model computes beyond rounding, and an option only where the model holds what it acts on.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace

from .session import SessionSettings

LEVELS = ("extended", "basic", "disable")
"""Against ``all``. ``extended`` leaves out the blocked convolution layout, ``basic`` all fused operators, ``disable``
everything: a model that planish optimized may hold all it needs, in an order or form that the runtime spoils."""

OPTIMIZERS: Mapping[str, tuple[frozenset[str], tuple[str, ...]]] = {
    # label: (the model must hold all of these operators, names of the runtime's graph transformers)
    "SkipLayerNorm fusion": (
        frozenset({"LayerNormalization", "Add"}),
        ("SkipLayerNormFusion", "BiasSkipLayerNormFusion"),
    ),
    "Attention fusion": (frozenset({"Softmax", "MatMul", "Transpose"}), ("AttentionFusion",)),
    "Gelu fusion": (frozenset({"Erf"}), ("GeluFusionL1", "GeluFusionL2", "BiasGeluFusion")),
    "LayerNorm fusion": (frozenset({"ReduceMean", "Sqrt"}), ("LayerNormFusionL1", "LayerNormFusionL2")),
    "MatMulAdd fusion": (frozenset({"MatMul", "Add"}), ("MatMulAddFusion",)),
    "MatMulTranspose fusion": (frozenset({"MatMul", "Transpose"}), ("MatmulTransposeFusion",)),
    "Transpose fusion": (frozenset({"Transpose"}), ("TransposeOptimizer",)),
    "channels-last": (frozenset({"Conv", "DequantizeLinear"}), ("NhwcTransformer",)),
    "ConvAdd fusion": (frozenset({"Conv", "Add"}), ("ConvAddActivationFusion",)),
}
"""Fusions of the runtime known to cost time on some models: SkipLayerNormalization 7 % of a small BERT, whole-block
Attention 6 %, the transpose optimizer moves transposes into blocks that fused before. Channels-last
convolutions on integers are 0 to 14 % faster here than without; other processors may differ."""


def speed_choices(
    settings: SessionSettings, ops: Iterable[str], *, threads: bool = False
) -> list[tuple[str, SessionSettings]]:
    """Label and settings of every variation of ``settings`` that may be faster; ``ops`` are the model's operators,
    ``threads`` says whether fewer threads are among them."""
    found = [(f"level {level}", settings.with_level(level)) for level in LEVELS if level != settings.optimization_level]
    held = {op.rsplit(":", 1)[-1] for op in ops}
    for label, (needed, names) in OPTIMIZERS.items():
        if needed <= held:
            disabled = tuple(sorted({*settings.disabled_optimizers, *names}))
            found.append((f"without {label}", replace(settings, disabled_optimizers=disabled)))
    found.append(("nodes in file order", replace(settings, execution_order="priority")))
    return found + (thread_choices(settings) if threads else []) + memory_choices(settings)[:2]


NO_SPINNING = ("session.intra_op.allow_spinning", "0")
"""Idle threads sleep at once instead of asking for work in a loop."""
NO_PREPACKING = ("session.disable_prepacking", "1")
"""Weights stay as they are in the file: one copy of them less, and kernels that read them out of order."""


def thread_choices(settings: SessionSettings, cores: int | None = None) -> list[tuple[str, SessionSettings]]:
    """Fewer threads than ``settings`` allow (0: all cores), by halves, and threads that do not spin.

    Small models lose more by handing work over than they gain; spinning threads take time from everything else.
    """
    most = settings.threads or cores or len(os.sched_getaffinity(0))
    if most < 2:
        return []
    counts = list(dict.fromkeys([most // 2, most // 4, 1]))
    found = [(f"{n} thread{'s' * (n > 1)}", replace(settings, threads=n)) for n in counts if n >= 1]
    if NO_SPINNING not in settings.config:
        found.append(("no spinning", _configured(settings, NO_SPINNING)))
    return found


def _configured(settings: SessionSettings, *entries: tuple[str, str]) -> SessionSettings:
    return replace(settings, config=tuple(sorted({*settings.config, *entries})))


def memory_choices(settings: SessionSettings) -> list[tuple[str, SessionSettings]]:
    """Variations that may take less memory, the likeliest first."""
    found: list[tuple[str, SessionSettings]] = []
    if settings.memory_pattern:
        found.append(("no memory pattern", replace(settings, memory_pattern=False)))
    if settings.memory_arena:
        found.append(("no arena", replace(settings, memory_arena=False)))
    if settings.memory_pattern and settings.memory_arena:
        found.append(("no arena, no pattern", replace(settings, memory_pattern=False, memory_arena=False)))
    if NO_PREPACKING not in settings.config:
        packed = _configured(settings, NO_PREPACKING)
        found.append(("no prepacking", packed))
        least = replace(packed, memory_pattern=False, memory_arena=False)
        found.append(("no prepacking, no arena, no pattern", least))
    return found


def combined(base: SessionSettings, parts: Iterable[SessionSettings]) -> SessionSettings:
    """``base`` with every difference of ``parts`` from it; of two levels or numbers of threads the first stays."""
    found = base
    for part in parts:
        if found.optimization_level == base.optimization_level:
            found = found.with_level(part.optimization_level)
        found = replace(
            found,
            threads=part.threads if found.threads == base.threads else found.threads,
            config=tuple(sorted({*found.config, *part.config})),
            execution_order=part.execution_order
            if part.execution_order != base.execution_order
            else found.execution_order,
            memory_pattern=found.memory_pattern and part.memory_pattern,
            memory_arena=found.memory_arena and part.memory_arena,
            disabled_optimizers=tuple(sorted({*found.disabled_optimizers, *part.disabled_optimizers})),
        )
    return found


def settings_text(settings: SessionSettings) -> str:
    """What differs from the runtime's defaults, as a phrase; ``defaults`` where nothing does."""
    plain, default = settings.to_dict(), SessionSettings(threads=settings.threads, provider=settings.provider).to_dict()
    parts = [f"{key}={_value(value)}" for key, value in plain.items() if value != default[key]]
    return ", ".join(parts) or "defaults"


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)  # pyright: ignore[reportUnknownArgumentType,reportUnknownVariableType]
