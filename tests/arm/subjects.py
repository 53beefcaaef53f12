"""Small programs for TVM, saved as planish saves models: a float network and a product of integers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from planish.backends.tvm.api import relax, te, tvm
from planish.backends.tvm.link import export_library
from planish.backends.tvm.loader import write_loaders
from planish.passes.target import Target, get_target

ROWS, INNER, COLUMNS = 5, 64, 16


@dataclass(frozen=True)
class Subject:
    """A function of two arrays, of which the second is the parameter."""

    dtype: str
    result: str

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        draw = np.random.default_rng(7)
        shapes = ((ROWS, INNER), (COLUMNS, INNER))
        if self.dtype == "int8":
            x, w = (draw.integers(-128, 128, shape, dtype=np.int8) for shape in shapes)
        else:
            x, w = (draw.standard_normal(shape, np.float32) / 4 for shape in shapes)
        return x, w

    def compute(self, x: Any, w: Any) -> Any:
        k = te.reduce_axis((0, INNER), "k")
        wide = self.result
        product = te.compute(
            (ROWS, COLUMNS), lambda i, j: te.sum(x[i, k].astype(wide) * w[j, k].astype(wide), axis=k), name="product"
        )
        if wide == "int32":
            return product
        return te.compute((ROWS, COLUMNS), lambda i, j: te.exp(product[i, j]), name="result")

    def expected(self) -> np.ndarray:
        x, w = self.arrays()
        if self.dtype == "int8":
            return x.astype(np.int32) @ w.astype(np.int32).T
        return np.exp(x.astype(np.float64) @ w.astype(np.float64).T)

    def tolerance(self) -> np.ndarray | int:
        """Of each element: the sum in any order, its exponential, and four roundings of that."""
        if self.dtype == "int8":
            return 0
        x, w = (a.astype(np.float64) for a in self.arrays())
        epsilon = float(np.finfo(np.float32).eps)
        return self.expected() * (INNER * epsilon * (abs(x) @ abs(w).T) + 4 * epsilon)


FLOAT, INTEGER = Subject("float32", "float32"), Subject("int8", "int32")


def module(subject: Subject) -> Any:
    """The Relax module of one function, ``main``."""
    builder = relax.BlockBuilder()
    x, w = (
        relax.Var(name, relax.TensorType(shape, subject.dtype))
        for name, shape in (("x", (ROWS, INNER)), ("w", (COLUMNS, INNER)))
    )
    with builder.function("main", [x, w]):
        with builder.dataflow():
            y = builder.emit_output(builder.emit_te(subject.compute, x, w))
        builder.emit_func_output(y)
    return builder.get()


def executable(subject: Subject, target: Target) -> Any:
    """Built for a target."""
    words: dict[str, Any] = {"kind": "llvm", "mtriple": target.triple, "mcpu": target.mcpu, "mattr": [*target.mattr]}
    if target.abi:
        words["mabi"] = target.abi
    return relax.build(module(subject), tvm.target.Target(words))


def save(subject: Subject, target: str, folder: Path) -> Path:
    """The folder of an artifact. Its manifest does not say for which processor: no loader refuses it."""
    folder.mkdir()
    chosen = get_target(target)
    export_library(executable(subject, chosen), folder / "lib.so", chosen)
    write_loaders(folder)
    x, w = subject.arrays()
    (folder / "params.bin").write_bytes(w.tobytes())
    manifest = {
        "backend": "tvm",
        "function": "main",
        "inputs": [{"name": "x", "dtype": subject.dtype, "shape": [*x.shape]}],
        "outputs": [{"name": "y", "dtype": subject.result, "shape": [ROWS, COLUMNS]}],
        "params": [{"name": "w", "dtype": subject.dtype, "shape": [*w.shape], "offset": 0}],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
