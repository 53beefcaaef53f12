"""Kernels for NVIDIA GPUs: TVM's dlight schedules where they apply, one of our own where they leave a naive kernel.

A function made of tensor expressions becomes one kernel: large products and convolutions tile by tile through shared
memory (dlight's Matmul takes a convolution as a product of gathered patches), products with a vector and reductions
over rows by a block of threads each (GEMV, Reduction, GeneralReduction), all else by a thread for each element.
Windows - pooling, depthwise and grouped convolutions - are in between: dlight would give a block of threads to every
single output for a sum of nine terms, so they get a thread for each output, which sums in a register.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...ir.errors import BackendError
from ...passes.target import Target
from .api import tirx, tvm

THREADS = 256
"""In a block, for kernels of independent elements: enough blocks a multiprocessor for every register budget."""
WINDOW = 1024
"""Terms that one thread may sum alone."""
OUTPUTS = 1 << 12
"""From so many outputs on a thread for each fills a GPU; fewer are better summed by several threads each."""


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
        if (made := thread_for_output(function)) is not None:
            return _main(made)
        for rule in (gpu.Reduction, gpu.GeneralReduction, gpu.Transpose, gpu.Fallback):
            if (made := rule().apply(function, on, False)) is not None:
                return _main(made)
    raise BackendError(
        "no schedule for GPUs takes this function", where="tvm", help="planish is at fault: report the model"
    )


def _main(made: Any) -> Any:
    found = made[0] if isinstance(made, list) else made
    return found.mod["main"].with_attr("tirx.is_scheduled", True)


def thread_for_output(function: Any) -> Any | None:
    """The schedule of a function with one small sum for each of many outputs; ``None`` for others."""
    dlight = tvm.s_tir.dlight
    sch = tvm.s_tir.Schedule(function)
    infos = dlight.analysis.normalize_prim_func(sch)
    if infos is None:
        return None
    infos = dlight.base.try_inline(sch, infos)
    sums = [i for i in infos if i.is_reduction()]
    if len(sums) != 1 or len(infos) > 2 or not _is_window(sums[0]):
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


def _is_window(info: Any) -> bool:
    terms = math.prod(_number(i.dom) for i in info.iters if i.kind == "R")
    outputs = math.prod(_number(i.dom) for i in info.iters if i.kind == "S")
    return 0 < terms <= WINDOW and outputs >= OUTPUTS


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
