"""What a schedule has to know of a processor: vectors, registers, caches, and how TVM names it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ....passes.target import Target


@dataclass(frozen=True)
class Machine:
    """A target seen as vectors and registers."""

    processor: Target
    choose: Callable[[Any], Any] | None = None
    """The tile of a convolution or product, where somebody knows more than the best guess."""
    known: Callable[[Any], Any | None] | None = None
    """The schedule of any other function, where somebody knows a faster one than ours."""

    @property
    def registers(self) -> int:
        """Vector registers: 16 up to AVX2, 32 for AVX-512 and NEON."""
        return self.processor.vector_registers

    def lanes(self, bits: int = 32) -> int:
        """Elements of ``bits`` bits in one vector register."""
        return max(1, self.processor.vector_bits // bits)

    @property
    def block(self) -> int:
        """Channels that lie side by side in the blocked layout ``NCHW[block]c``: 16 for 512-bit vectors, else 8. On
        GPUs 1: neighbouring threads read neighbouring pixels."""
        return 1 if self.is_gpu else max(8, self.lanes())

    @property
    def is_gpu(self) -> bool:
        """Whether kernels run on a GPU: none of the templates here is for it, see ``cuda.py``."""
        return self.processor.arch == "cuda"

    def has(self, feature: str) -> bool:
        """Whether the processor has an instruction set, as ``Target.features`` names it."""
        return feature in self.processor.features

    def target(self) -> Any:
        """TVM's target of it."""
        import tvm

        t = self.processor
        if self.is_gpu:
            from ..cuda import device

            return device(t)
        said = {"mtriple": t.triple, "mcpu": t.mcpu, "mattr": list(t.mattr), "mabi": t.abi}
        return tvm.target.Target({"kind": "llvm", **{key: value for key, value in said.items() if value}})


def block_of(channels: int, machine: Machine) -> int:
    """The block in which ``channels`` are stored: the largest of 16, 8, 4 that divides them and is not beyond the
    machine's own; 1, plain NCHW, where none does."""
    return next((b for b in (16, 8, 4) if b <= machine.block and channels % b == 0), 1)
