"""Lists of what there is: passes, pipelines, targets."""

from __future__ import annotations

import ast
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..passes.pipelines import PIPELINES
from ..passes.registry import Entry, entries
from ..passes.target import (
    BOARDS,
    EXPORT_TARGETS,
    FIRMWARE_TARGETS,
    PROCESSORS,
    TARGETS,
    Target,
    get_target,
    native,
)
from .document import SCHEMA, Document, Table, Text
from .explain import rule_names


@dataclass
class PassList:
    """Passes by name, and named pipelines with their text."""

    passes: list[dict[str, Any]]
    pipelines: dict[str, str] = field(default_factory=dict[str, str])

    def to_dict(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self)}

    def document(self) -> Document:
        with_rules = any("rules" in p for p in self.passes)
        last = "rules" if with_rules else "what it does"
        rows = [
            (p["name"], p["family"], p["owner"], ", ".join(p["rules"]) if with_rules else p["summary"])
            for p in self.passes
        ]
        return [
            Table("passes", ("name", "family", "from", last), rows),
            Table("pipelines", ("name", "passes"), list(self.pipelines.items())),
        ]


KINDS = (
    (
        "machines: an ONNX file for ONNX Runtime, or with --backend tvm a library",
        ("x86_64", "aarch64", "riscv64", "any"),
    ),
    ("GPUs", ("cuda",)),
)
FEATURES = {
    "avx2": "vectors of 256 bits",
    "avx512": "vectors of 512 bits",
    "bf16": "products of bfloat16",
    "dotprod": "int8 products by sdot",
    "fma": "multiply and add in one",
    "fp16": "arithmetic in half precision",
    "i8mm": "int8 products by smmla and usmmla",
    "neon": "vectors of 128 bits",
    "sse42": "vectors of 128 bits",
    "sve": "longer vectors (not used)",
    "vnni": "int8 products by vpdpbusd",
}


@dataclass
class TargetList:
    """Targets by name."""

    targets: list[Target]

    def to_dict(self) -> dict[str, Any]:
        return {"schema": SCHEMA, "targets": [asdict(t) | {"features": sorted(t.features)} for t in self.targets]}

    def document(self) -> Document:
        if len(self.targets) == 1:
            return _explained(self.targets[0])
        ours = [t for t in self.targets if t.name in TARGETS or t.name in PROCESSORS]
        columns = ("name", "backends", "description", "features", "vectors", "L1, L2 KiB")
        found: Document = []
        for title, archs in KINDS:
            rows = [
                (t.name, _backends(t), t.description, " ".join(sorted(t.features)), _vectors(t), _caches(t))
                for t in ours
                if t.arch in archs
            ]
            found.append(Table(title, columns, rows) if archs != ("cuda",) else _short(title, rows))
        others = [t for t in self.targets if t not in ours]
        exports = [(t.name, "planish export", t.description) for t in others if t.name in EXPORT_TARGETS]
        chips = [(t.name, "planish plan", t.description) for t in others if t.name in FIRMWARE_TARGETS]
        found.append(
            Table("models and plans for others' runtimes", ("name", "command", "description"), exports + chips)
        )
        boards = ", ".join(f"{board} is {name}" for board, name in BOARDS.items())
        found.append(Table("features", ("name", "what it is for"), list(FEATURES.items())))
        return [*found, Text(f"`native` is {native()} here; {boards}; `planish targets NAME` says more of one")]


def pass_list(*, rules: bool = False) -> PassList:
    """All passes, ours and plugins'; ``rules`` loads them for the names of their rules.

    Raises ``PipelineError`` where two passes have one name.
    """
    found: list[dict[str, Any]] = []
    for entry in entries().values():
        row = {"name": entry.name, "family": entry.family, "owner": entry.owner, "summary": _summary(entry)}
        found.append(row | ({"rules": list(rule_names(entry.name))} if rules else {}))
    return PassList(found, dict(PIPELINES))


def target_list(name: str | None = None) -> TargetList:
    """All targets, or one. Raises ``UsageError`` with the nearest names."""
    if name is not None:
        return TargetList([get_target(name)])
    return TargetList([*TARGETS.values(), *PROCESSORS.values(), *EXPORT_TARGETS.values(), *FIRMWARE_TARGETS.values()])


def _short(title: str, rows: list[tuple[str, ...]]) -> Table:
    """Without what a library for a GPU does not ask for."""
    return Table(title, ("name", "backends", "description", "features"), [row[:4] for row in rows])


def _backends(target: Target) -> str:
    if target.runtime != "ort":
        return target.runtime
    return "ort, tvm" if target.triple else "ort"


def _vectors(target: Target) -> str:
    return f"{target.vector_registers} of {target.vector_bits} bits" if _is_processor(target) else ""


def _caches(target: Target) -> str:
    return f"{target.l1_bytes >> 10}, {target.l2_bytes >> 10}" if _is_processor(target) else ""


def _is_processor(target: Target) -> bool:
    return bool(target.triple) and target.arch != "cuda"


def _explained(target: Target) -> Document:
    """What planish takes for granted of one target."""
    words = (target.triple, target.mcpu, *target.mattr, target.abi)
    rows = [
        ("also", ", ".join(board for board, name in BOARDS.items() if name == target.name)),
        ("backends", _backends(target)),
        ("architecture", target.arch),
        *((f"has {name}", FEATURES.get(name, "")) for name in sorted(target.features)),
        ("vector registers", _vectors(target)),
        ("caches, L1 and L2", f"{_caches(target)} KiB" if _is_processor(target) else ""),
        ("memories", ", ".join(f"{name} {size or 'without a limit'}" for name, size in target.memories)),
        ("newest opset", str(target.newest_opset or "the model's own")),
        ("com.microsoft operators", "yes" if target.contrib else "no"),
        ("compiled for", " ".join(word for word in words if word)),
        ("emulated by", f"qemu -cpu {target.emulated}" if target.emulated else ""),
    ]
    known = [row for row in rows if row[1]]
    return [
        Text(f"{target.name}: {target.description}"),
        Table("what planish takes for granted", ("of", "what"), known),
    ]


def _summary(entry: Entry) -> str:
    """The first line of the module's docstring, read without running it; ours start with the pass's name."""
    try:
        spec = find_spec(entry.module)
        source = Path(spec.origin).read_text("utf-8") if spec is not None and spec.origin is not None else ""
        text = ast.get_docstring(ast.parse(source)) or ""
    except (ImportError, OSError, SyntaxError, ValueError):
        return ""
    return text.partition("\n")[0].removeprefix(f"{entry.name}:").strip().replace("``", "")
