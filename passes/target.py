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
    """``x86_64``, ``aarch64``, ``riscv64``, ``cuda``, or ``any``: only what every machine has."""
    description: str = ""
    vector_bits: int = 128
    features: frozenset[str] = field(default_factory=frozenset[str])
    """Instruction sets beyond the base: ``avx2``, ``fma``, ``avx512``, ``vnni``, ``dotprod``, ``i8mm``, ``fp16``."""
    vector_registers: int = 32
    """Vector registers of ``vector_bits`` each."""
    cores: int = 1
    l1_bytes: int = 32 << 10
    l2_bytes: int = 512 << 10
    memory_bytes: int | None = None
    """Limit on what the model may use; ``None`` where it does not matter."""
    memories: tuple[tuple[str, int | None], ...] = ()
    """Memories for intermediates, the fastest first, with their bytes (``("tcm", 262144), ("dram", None)``);
    ``plan-memory`` spreads values over them. Empty: one without a limit."""
    runtime: str = "ort"
    """Backend that runs it."""
    newest_opset: int = 26
    """Standard opset up to which a pass may raise a model by itself; 0: the model's own stays."""
    value_info: bool = True
    """Whether files carry the types of intermediates: proven equal extents let ONNX Runtime fuse residual sums (3 to
    5 % on small models), but also let it form SkipLayerNormalization (7 % slower where no pass prevents it)."""
    contrib: bool = True
    """Whether the runtime takes ``com.microsoft`` operators; ``generic`` output stays within the ONNX standard."""
    triple: str = ""
    """LLVM's triple of the machine that runs the compiled library; empty: this one's."""
    mcpu: str = ""
    """Processor as LLVM names it; for CUDA the architecture, ``sm_90``."""
    mattr: tuple[str, ...] = ()
    """What the processor has beyond ``mcpu``, as LLVM names it: ``+dotprod``."""
    abi: str = ""
    """Calling convention where LLVM's default is not the system's."""
    emulated: str = ""
    """``-cpu`` of QEMU's user emulation that has these instructions and as few others as QEMU knows."""


_X86 = "x86-64 processors at"
_X86_LINUX, _ARM_LINUX = "x86_64-linux-gnu", "aarch64-linux-gnu"
_DOTPROD = frozenset({"neon", "dotprod", "fp16"})
_I8MM = _DOTPROD | {"i8mm", "bf16"}

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
        Target(
            "x86-64-v2",
            "x86_64",
            f"{_X86} level v2 (SSE4.2)",
            128,
            frozenset({"sse42"}),
            16,
            triple=_X86_LINUX,
            mcpu="x86-64-v2",
        ),
        Target(
            "x86-64-v3",
            "x86_64",
            f"{_X86} level v3 (AVX2, FMA)",
            256,
            frozenset({"sse42", "avx2", "fma"}),
            16,
            triple=_X86_LINUX,
            mcpu="x86-64-v3",
        ),
        Target(
            "x86-64-v4",
            "x86_64",
            f"{_X86} level v4 (AVX-512)",
            512,
            frozenset({"sse42", "avx2", "fma", "avx512"}),
            l2_bytes=1 << 20,
            triple=_X86_LINUX,
            mcpu="x86-64-v4",
        ),
        Target(
            "x86-64-v4-vnni",
            "x86_64",
            f"{_X86} level v4 with VNNI",
            512,
            frozenset({"sse42", "avx2", "fma", "avx512", "vnni"}),
            l2_bytes=1 << 20,
            triple=_X86_LINUX,
            mcpu="x86-64-v4",
            mattr=("+avx512vnni",),
        ),
        Target(
            "aarch64",
            "aarch64",
            "64-bit ARM (NEON), as Cortex-A72",
            128,
            frozenset({"neon"}),
            triple=_ARM_LINUX,
            mcpu="generic",
            emulated="cortex-a72",
        ),
        Target(
            "aarch64-dotprod",
            "aarch64",
            "64-bit ARM with int8 dot products, as Cortex-A76",
            128,
            _DOTPROD,
            triple=_ARM_LINUX,
            mcpu="generic",
            mattr=("+v8.2a", "+dotprod", "+fullfp16"),
            emulated="cortex-a76",
        ),
        Target(
            "aarch64-i8mm",
            "aarch64",
            "64-bit ARM with int8 matrix products, as Neoverse V1",
            128,
            _I8MM,
            l2_bytes=1 << 20,
            triple=_ARM_LINUX,
            mcpu="generic",
            mattr=("+v8.4a", "+dotprod", "+fullfp16", "+i8mm", "+bf16"),
            emulated="max",
        ),
        Target("cuda", "cuda", "NVIDIA GPUs through ONNX Runtime's CUDA provider", 1024, frozenset({"fp16", "bf16"})),
    )
}
"""What passes tell apart: families of machines."""


def _arm(mcpu: str, description: str, features: frozenset[str], l1_kib: int, l2_kib: int, emulated: str = "") -> Target:
    return Target(
        mcpu,
        "aarch64",
        description,
        128,
        features,
        l1_bytes=l1_kib << 10,
        l2_bytes=l2_kib << 10,
        triple=_ARM_LINUX,
        mcpu=mcpu,
        emulated=emulated or mcpu,
    )


def _gpu(number: int, description: str, features: frozenset[str], triple: str = "") -> Target:
    """``triple`` is that of the processor beside the GPU; empty: like this one."""
    return Target(
        f"cuda-sm_{number}",
        "cuda",
        f"NVIDIA {description}",
        1024,
        features,
        runtime="tvm",
        triple=triple,
        mcpu=f"sm_{number}",
    )


PROCESSORS: dict[str, Target] = {
    t.name: t
    for t in (
        _arm("cortex-a53", "Raspberry Pi 3 (rpi3)", frozenset({"neon"}), 32, 512),
        _arm("cortex-a72", "Raspberry Pi 4 (rpi4)", frozenset({"neon"}), 32, 1024),
        _arm("cortex-a76", "Raspberry Pi 5 (rpi5)", _DOTPROD, 64, 512),
        _arm("neoverse-n1", "Neoverse N1: Ampere Altra, Graviton 2", _DOTPROD, 64, 1024),
        _arm("neoverse-v1", "Neoverse V1: Graviton 3", _I8MM | {"sve"}, 64, 1024, emulated="max"),
        # Base instructions only, no vectors: LLVM splits what is four wide, so 32 registers hold eight of them.
        Target(
            "riscv64",
            "riscv64",
            "64-bit RISC-V (RV64GC), no vectors",
            128,
            vector_registers=8,
            runtime="tvm",
            triple="riscv64-linux-gnu",
            mcpu="generic-rv64",
            mattr=("+m", "+a", "+f", "+d", "+c"),
            abi="lp64d",
            emulated="rv64",
        ),
        _gpu(75, "Turing: T4, RTX 20", frozenset({"fp16"})),
        _gpu(80, "Ampere: A100", frozenset({"fp16", "bf16"})),
        _gpu(86, "Ampere: RTX 30, A10, A40", frozenset({"fp16", "bf16"})),
        _gpu(87, "Ampere: Jetson Orin", frozenset({"fp16", "bf16"}), _ARM_LINUX),
        _gpu(89, "Ada: L4, L40, RTX 40", frozenset({"fp16", "bf16"})),
        _gpu(90, "Hopper: H100, H200", frozenset({"fp16", "bf16"})),
    )
}
"""Single processors that libraries are compiled for; to passes they are what their features say."""

BOARDS = {"rpi3": "cortex-a53", "rpi4": "cortex-a72", "rpi5": "cortex-a76"}
"""Other names of targets: the boards that carry the processors."""


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


FIRMWARE_TARGETS: dict[str, Target] = {
    t.name: t
    for t in (
        Target(
            "stm32h743",
            "any",
            "Cortex-M7 with 128 KiB of DTCM and 512 KiB of AXI SRAM (ST RM0433)",
            32,
            l1_bytes=16 << 10,
            l2_bytes=0,
            memories=(("dtcm", 128 << 10), ("axi_sram", 512 << 10)),
            runtime="firmware",
            newest_opset=0,
            contrib=False,
        ),
        Target(
            "imxrt1062",
            "any",
            "Cortex-M7 with 128 KiB of DTCM, 768 KiB of OCRAM and 32 MiB of SDRAM on the board (NXP IMXRT1060RM)",
            32,
            l1_bytes=32 << 10,
            l2_bytes=0,
            memories=(("dtcm", 128 << 10), ("ocram", 768 << 10), ("sdram", 32 << 20)),
            runtime="firmware",
            newest_opset=0,
            contrib=False,
        ),
    )
}
"""Microcontrollers whose engines take a model in our order and our plan: nothing runs here, ``plan-memory`` and
``planish plan -t NAME`` spread values over their memories."""


def get_target(name: str) -> Target:
    """The target of that name; ``native`` is this machine's, ``rpi4`` that board's.

    Raises ``UsageError`` with the nearest names.
    """
    known = TARGETS | PROCESSORS | EXPORT_TARGETS | FIRMWARE_TARGETS
    found = known.get(native() if name == "native" else BOARDS.get(name, name))
    if found is None:
        near = difflib.get_close_matches(name, [*known, *BOARDS], 3, 0.3)
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
