"""Kernels for NVIDIA GPUs: TVM's dlight schedules where they apply, one of our own where they leave a naive kernel.

A function made of tensor expressions becomes one kernel: large products and convolutions tile by tile through shared
memory (dlight's Matmul takes a convolution as a product of gathered patches), products with a vector and reductions
over rows by a block of threads each (GEMV, Reduction, GeneralReduction), all else by a thread for each element.
dlight leaves two naive, which have schedules here. Windows - pooling, depthwise and grouped convolutions: it gives a
block of threads to every single output for a sum of nine terms; here each output is a thread's, summed in a register.
Short rows - softmax, normalization: it gives 256 threads to each row, be it of 24 elements; here a row has as many
threads as it needs, a warp at least, and a block several rows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm_ffi

from ...ir.errors import BackendError
from ...passes.target import Target
from .api import tirx, tvm

_ffi: Any = tvm_ffi
THREADS = 256
"""In a block, for kernels of independent elements: enough blocks a multiprocessor for every register budget."""
WINDOW = 1024
"""Terms that one thread may sum alone."""
FEW, OUTPUTS = 64, 1 << 12
"""So few terms are always one thread's; more only where there are outputs enough to fill a GPU."""
ROW = 1024
"""Longest row that shares its block with others: every thread has up to four elements of it."""


def device(target: Target) -> Any:
    """TVM's target for a GPU, and for the processor beside it. Without a GPU to ask, what all architectures have."""
    words = {
        "kind": "cuda",
        "arch": target.mcpu or "sm_75",
        "max_threads_per_block": 1024,
        "max_shared_memory_per_block": 48 << 10,
        "thread_warp_size": 32,
    }
    host = {"kind": "llvm"} | ({"mtriple": target.triple} if target.triple else {})
    return tvm.target.Target(words, host=host)


def schedule(function: Any, target: Target) -> Any:
    """The function with its loops on blocks and threads. Raises ``BackendError`` where no schedule applies."""
    on = device(target)
    function = function.with_attr("target", on)
    gpu = tvm.s_tir.dlight.gpu
    with on:
        for rule in (gpu.Matmul, gpu.GEMV):
            if (made := rule().apply(function, on, False)) is not None:
                return _main(made)
        # Threads can only share reductions that TVM knows by what they begin with.
        alone = _begins_at_infinity(function)
        if (made := thread_for_output(function, windows_only=not alone)) is not None:
            return _main(made)
        if not alone and (made := warps_for_rows(function)) is not None:
            return _main(made)
        for rule in (gpu.Fallback,) if alone else (gpu.Reduction, gpu.GeneralReduction, gpu.Transpose, gpu.Fallback):
            if (made := rule().apply(function, on, False)) is not None:
                return _main(made)
    raise BackendError(
        "no schedule for GPUs takes this function", where="tvm", help="planish is at fault: report the model"
    )


def _begins_at_infinity(function: Any) -> bool:
    """Whether a reduction does: the largest or smallest of all elements."""
    found: list[float] = []

    def number(node: Any) -> None:
        found.append(float(node.value))

    def block(node: Any) -> None:
        if node.init is not None:
            _ffi.structural_walk(node.init, (tirx.FloatImm, number))

    _ffi.structural_walk(function.body, (tvm.s_tir.SBlock, block))
    return any(map(math.isinf, found))


def _main(made: Any) -> Any:
    return made.mod["main"].with_attr("tirx.is_scheduled", True)


def thread_for_output(function: Any, *, windows_only: bool = True) -> Any | None:
    """The schedule of a function with one sum for each of many outputs, a small one where ``windows_only``; ``None``
    for others."""
    dlight = tvm.s_tir.dlight
    sch = tvm.s_tir.Schedule(function)
    infos = dlight.analysis.normalize_prim_func(sch)
    if infos is None:
        return None
    infos = dlight.base.try_inline(sch, infos)
    sums = [i for i in infos if i.is_reduction()]
    if len(sums) != 1 or len(infos) > 2 or (windows_only and not _is_window(sums[0])):
        return None
    block = sums[0].block_rv
    if len(infos) == 1:
        last = sch.cache_write(block, 0, "local")  # the sum grows in a register
    elif infos[1].is_injective():
        last = infos[1].block_rv
    else:
        return None
    blocks, threads = sch.split(sch.fuse(*sch.get_loops(last)), [None, THREADS])
    sch.bind(blocks, "blockIdx.x")
    sch.bind(threads, "threadIdx.x")
    sch.compute_at(block, threads, preserve_unit_loops=True)
    sch.set_scope(block, 0, "local")
    inner = _summed_loops(sch, block)
    sch.decompose_reduction(block, inner[0])
    if _extent(sch, inner) <= 64:
        for loop in inner:
            sch.unroll(loop)
    return sch


def warps_for_rows(function: Any) -> Any | None:
    """The schedule of reductions over the last axis and what follows them elementwise; ``None`` for others."""
    dlight = tvm.s_tir.dlight
    sch = tvm.s_tir.Schedule(function)
    infos = dlight.analysis.normalize_prim_func(sch)
    if infos is None:
        return None
    *sums, last = dlight.base.common_schedules.try_inline_contiguous_spatial(sch, infos)
    if not sums or not last.is_injective() or any(i.dom_kind() != sums[0].dom_kind() for i in sums):
        return None
    extents = [_number(i.dom) for i in sums[0].iters]
    leading, columns = math.prod(extents[:-1]), extents[-1]
    whole = sums[0].dom_kind() == "S" * (len(extents) - 1) + "R" and [_number(i.dom) for i in last.iters] == extents
    if not whole or len(extents) < 2 or not 0 < columns <= ROW or leading == 0:
        return None
    width = 32 << max(0, (columns - 1).bit_length() - 7)
    # Rows that do not fill the last block would need a guard around its barriers.
    together = max(n for n in range(1, THREADS // width + 1) if leading % n == 0)
    loops = sch.get_loops(last.block_rv)
    blocks, rows = sch.split(sch.fuse(*loops[:-1]), [None, together])
    sch.bind(blocks, "blockIdx.x")
    sch.bind(rows, "threadIdx.y")
    _spread(sch, loops[-1], width)
    for info in reversed(sums):
        sch.compute_at(info.block_rv, rows, preserve_unit_loops=True)
        # Each thread gets the row's sum in a register. In shared memory TVM 0.27 sets no barrier between the thread
        # that writes it and the others of its warp.
        sch.set_scope(info.block_rv, 0, "local")
        _spread(sch, sch.get_loops(info.block_rv)[-1], width)
    return sch


def _spread(sch: Any, loop: Any, width: int) -> None:
    """Neighbouring elements to neighbouring threads."""
    serial, threads = sch.split(loop, [None, width])
    sch.reorder(threads, serial)
    sch.bind(threads, "threadIdx.x")


def _is_window(info: Any) -> bool:
    terms = math.prod(_number(i.dom) for i in info.iters if i.kind == "R")
    outputs = math.prod(_number(i.dom) for i in info.iters if i.kind == "S")
    return 0 < terms <= FEW or (0 < terms <= WINDOW and outputs >= OUTPUTS)


def _number(extent: Any) -> int:
    """An extent; 0 where it is not known."""
    return int(extent) if isinstance(extent, int | tirx.IntImm) else 0


def _summed_loops(sch: Any, block: Any) -> list[Any]:
    loops = sch.get_loops(block)
    kinds = [int(v.iter_type) for v in sch.get(block).iter_vars]
    count = sum(kind == tirx.IterVar.CommReduce for kind in kinds)
    return loops[-count:]


def _extent(sch: Any, loops: Sequence[Any]) -> int:
    return math.prod(int(sch.get(loop).extent) for loop in loops)


@dataclass(frozen=True)
class GpuKernel:
    """One kernel of CUDA source."""

    name: str
    parameters: tuple[str, ...]
    body: str


def source(executable: Any) -> str:
    """The CUDA source inside what ``relax.build`` or ``tvm.compile`` gave; empty where nothing runs on a GPU."""
    queue: list[Any] = [executable.mod if hasattr(executable, "mod") else executable]
    found: list[str] = []
    while queue:
        module = queue.pop()
        if module.kind == "cuda":
            found.append(str(module.inspect_source()))
        queue.extend(module.imports)
    return "\n".join(found)


def kernels_of(text: str) -> list[GpuKernel]:
    """The kernels that CUDA source defines, in its order."""
    parts = re.split(r'^extern "C" __global__ void (?:__launch_bounds__\(\d+\) )?', text, flags=re.M)
    found: list[GpuKernel] = []
    for part in parts[1:]:
        head, brace, body = part.partition("{")
        if brace and ";" not in head:
            name, _, parameters = head.partition("(")
            names = re.findall(r"(\w+)\s*[,)]", parameters)
            found.append(GpuKernel(name, tuple(names), body))
    return found
