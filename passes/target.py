"""Targets as data: what a pass or a backend may ask of the machine that will run the model."""

from __future__ import annotations

import difflib
import platform
from dataclasses import dataclass, field
from pathlib import Path

from ..ir.errors import UsageError


@dataclass(frozen=True)
class Target:
    """A machine with a runtime on it. Sizes in bytes."""

    name: str
    arch: str
    """``x86_64``, ``aarch64``, ``cuda``, or ``any``: only what every machine has."""
    description: str = ""
    vector_bits: int = 128
    features: frozenset[str] = field(default_factory=frozenset[str])
    """Instruction sets beyond the base: ``avx2``, ``fma``, ``avx512``, ``vnni``, ``dotprod``, ``i8mm``, ``fp16``."""
    cores: int = 1
    l1_bytes: int = 32 << 10
    l2_bytes: int = 512 << 10
    memory_bytes: int | None = None
    """Limit on what the model may use; ``None`` where it does not matter."""
    runtime: str = "ort"
    """Backend that runs it."""
    newest_opset: int = 26
    """Standard opset up to which a pass may raise a model by itself; 0: the model's own stays."""
    value_info: bool = True
    """Whether files carry the types of intermediates: proven equal extents let ONNX Runtime fuse residual sums (3 to
    5 % on small models), but also let it form SkipLayerNormalization (7 % slower where no pass prevents it)."""
    contrib: bool = True
    """Whether the runtime takes ``com.microsoft`` operators; ``generic`` output stays within the ONNX standard."""


_X86 = "x86-64 processors at"
TARGETS: dict[str, Target] = {
    t.name: t
    for t in (
        Target(
            "generic",
            "any",
            "any machine; standard ONNX only, opset as it is",
            contrib=False,
            newest_opset=0,
            value_info=False,
        ),
        Target("x86-64-v2", "x86_64", f"{_X86} level v2 (SSE4.2)", 128, frozenset({"sse42"})),
        Target("x86-64-v3", "x86_64", f"{_X86} level v3 (AVX2, FMA)", 256, frozenset({"sse42", "avx2", "fma"})),
        Target(
            "x86-64-v4",
            "x86_64",
            f"{_X86} level v4 (AVX-512)",
            512,
            frozenset({"sse42", "avx2", "fma", "avx512"}),
            l2_bytes=1 << 20,
        ),
        Target(
            "x86-64-v4-vnni",
            "x86_64",
            f"{_X86} level v4 with VNNI",
            512,
            frozenset({"sse42", "avx2", "fma", "avx512", "vnni"}),
            l2_bytes=1 << 20,
        ),
        Target("aarch64", "aarch64", "64-bit ARM (NEON), as Cortex-A72", 128, frozenset({"neon"})),
        Target(
            "aarch64-dotprod",
            "aarch64",
            "64-bit ARM with int8 dot products, as Cortex-A76",
            128,
            frozenset({"neon", "dotprod", "fp16"}),
        ),
        Target(
            "aarch64-i8mm",
            "aarch64",
            "64-bit ARM with int8 matrix products, as Neoverse V1",
            128,
            frozenset({"neon", "dotprod", "fp16", "i8mm", "bf16"}),
            l2_bytes=1 << 20,
        ),
        Target("cuda", "cuda", "NVIDIA GPUs through ONNX Runtime's CUDA provider", 1024, frozenset({"fp16", "bf16"})),
    )
}


def _export(name: str, description: str) -> Target:
    return Target(name, "any", description, runtime=name, newest_opset=17, contrib=False, value_info=False)


EXPORT_TARGETS: dict[str, Target] = {
    t.name: t
    for t in (
        _export("tensorrt", "NVIDIA TensorRT: i8 with zero points 0"),
        _export("openvino", "Intel OpenVINO on x86-64: u8 activations, i8 weights"),
        _export("qnn", "Qualcomm QNN (HTP): u8 or u16 activations, static shapes"),
        _export("coreml", "Apple Core ML: only weights are stored narrow"),
    )
}
"""Runtimes that models are made for but that do not run here: standard ONNX, opsets that they read."""


def get_target(name: str) -> Target:
    """The target of that name; ``native`` is this machine's. Raises ``UsageError`` with the nearest names."""
    known = TARGETS | EXPORT_TARGETS
    found = known.get(native() if name == "native" else name)
    if found is None:
        near = difflib.get_close_matches(name, known, 3, 0.3)
        raise UsageError(
            f"there is no target {name!r}",
            where="target",
            help=f"targets: {', '.join(near or known)}; `planish targets` describes them",
        )
    return found


def native() -> str:
    """Name of the target that fits this machine's processor, by what Linux says of it; ``generic`` where unknown."""
    machine = platform.machine().lower()
    flags = cpu_flags()
    if machine in ("x86_64", "amd64"):
        if {"avx512f", "avx512bw", "avx512vl"} <= flags:
            return "x86-64-v4-vnni" if "avx512_vnni" in flags else "x86-64-v4"
        return "x86-64-v3" if {"avx2", "fma"} <= flags else "x86-64-v2"
    if machine in ("aarch64", "arm64"):
        return "aarch64-i8mm" if "i8mm" in flags else "aarch64-dotprod" if "asimddp" in flags else "aarch64"
    return "generic"


def cpu_flags(path: Path = Path("/proc/cpuinfo")) -> set[str]:
    """Instruction sets of the first processor, where the system tells."""
    if not path.exists():
        return set()
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return set(value.split())
    return set()
