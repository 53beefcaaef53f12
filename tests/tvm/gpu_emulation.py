"""A model's GPU kernels, run on this machine's processor: see ``cuda_on_cpu.hpp``."""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from planish.backends.tvm import cuda
from planish.backends.tvm.api import tvm
from planish.backends.tvm.groups import Group, groups_of
from planish.backends.tvm.layout import assign_layouts
from planish.backends.tvm.lower.kernels import Kernel, plain_kernel
from planish.backends.tvm.rules.core import numbers
from planish.ir.graph import Model, Value
from planish.passes.target import Target

HEADER = Path(__file__).with_name("cuda_on_cpu.hpp")


@dataclass
class Kernels:
    """A graph's groups with their functions, each under a name of its own; views have none."""

    model: Model
    target: Target
    groups: list[Group] = field(default_factory=list[Group])
    kernels: dict[str, Kernel] = field(default_factory=dict[str, Kernel])
    functions: dict[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        self.groups = groups_of(self.model.graph)
        layouts = assign_layouts(self.groups, lambda channels: 1, self.model.graph.outputs)
        for i, group in enumerate(self.groups):
            if not group.is_view:
                kernel = plain_kernel(group, layouts, lambda function: cuda.schedule(function, self.target))
                self.kernels[f"{kernel.name}_{i}"] = kernel
        for name, kernel in self.kernels.items():
            self.functions[name] = kernel.make().with_attr("global_symbol", name)

    @cached_property
    def source(self) -> str:
        """CUDA C of all kernels."""
        return cuda.source(tvm.compile(tvm.IRModule(self.functions), target=cuda.device(self.target)))


class EmulatedGpu:
    """Kernels compiled for the processor."""

    def __init__(self, kernels: Kernels, folder: Path) -> None:
        self.kernels = kernels
        source = kernels.source
        self.arguments = {k.name: k.parameters for k in cuda.kernels_of(source)}
        launchers = [
            f'extern "C" void launch_{name}(void** a) {{ emulated::launch({name}_kernel, {_extents(f)}, a); }}'
            for name, f in kernels.functions.items()
        ]
        for header in ("cuda.h", "math_constants.h"):
            (folder / header).write_text("")
        (folder / "kernels.cc").write_text("\n".join([f'#include "{HEADER}"', source, *launchers]))
        made = folder / "kernels.so"
        options = ["-std=c++17", "-O1", "-w", "-shared", "-fPIC", f"-I{folder}"]
        subprocess.run(["g++", *options, str(folder / "kernels.cc"), "-o", str(made)], check=True)
        self.library = ctypes.CDLL(str(made))

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The model's outputs."""
        graph = self.kernels.model.graph
        values: dict[Value, np.ndarray] = {v: np.ascontiguousarray(feeds[v.name]) for v in graph.inputs}
        for i, group in enumerate(self.kernels.groups):
            if group.is_view:
                source, out = group.last.inputs[0], group.last.output
                assert source is not None
                values[out] = self._value(source, values).reshape([int(str(d)) for d in out.shape or ()])
                continue
            name = next(n for n in self.kernels.kernels if n.endswith(f"_{i}"))
            self._launch(name, self.kernels.kernels[name], values)
        return [self._value(v, values) for v in graph.outputs]

    def _launch(self, name: str, kernel: Kernel, values: dict[Value, np.ndarray]) -> None:
        arrays = {f"p{i}": self._value(o.source, values) for i, o in enumerate(kernel.operands)}
        for i, (value, form) in enumerate(kernel.results):
            # What a kernel forgets to write stays NaN.
            values[value] = arrays[f"out{i}"] = np.full(numbers(form.shape), -77, form.dtype)
            if form.dtype.startswith("float"):
                values[value].fill(np.nan)
        wanted = [arrays[p.removesuffix("_ptr")] for p in self.arguments[f"{name}_kernel"]]
        pointers = (ctypes.c_void_p * len(wanted))(*(a.ctypes.data for a in wanted))
        getattr(self.library, f"launch_{name}")(pointers)

    @staticmethod
    def _value(source: Value | np.ndarray, values: dict[Value, np.ndarray]) -> np.ndarray:
        if isinstance(source, Value):
            return np.ascontiguousarray(values[source] if source.data is None else source.data.numpy())
        return np.ascontiguousarray(source)


def _extents(function: Any) -> str:
    """Grid and block of a scheduled function, as C++ writes them."""
    found = re.findall(r'T\.thread_binding\((?:T\.int64\()?(\d+)\)?, thread="(\w+\.\w)"', function.script())
    assert found
    sizes = {tag: extent for extent, tag in found}
    grid, block = ([sizes.get(f"{kind}.{axis}", "1") for axis in "xyz"] for kind in ("blockIdx", "threadIdx"))
    return f"dim3{{{', '.join(grid)}}}, dim3{{{', '.join(block)}}}"
