"""planish: a compiler-style optimizer for neural networks that checks what it does.

    result = planish.optimize("model.onnx", samples="samples.npz")
    print(result.report)
    result.save("optimized.onnx")

Names load when they are first used, so that ``import planish`` costs little.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .backends.load import load_artifact as load_artifact
    from .driver.bench import bench as bench
    from .driver.bisect import bisect as bisect
    from .driver.budget import Budget as Budget
    from .driver.calibrate import calibrate as calibrate
    from .driver.checks.validate import validate as validate
    from .driver.compile import compile as compile
    from .driver.diff import diff as diff
    from .driver.explain import explain as explain
    from .driver.inspect import inspect as inspect
    from .driver.optimize import Result as Result
    from .driver.optimize import optimize as optimize
    from .driver.select import Goal as Goal
    from .driver.tune import tune as tune
    from .ir.errors import PlanishError as PlanishError
    from .ir.graph import Graph as Graph
    from .ir.graph import Model as Model
    from .ir.onnx_reader import read_model as load
    from .ir.onnx_writer import write_model as save
    from .passes.core import Context as Context
    from .passes.manager import Pipeline as Pipeline
    from .passes.target import Target as Target

_NAMES = {
    "Budget": ("driver.budget", "Budget"),
    "Context": ("passes.core", "Context"),
    "Goal": ("driver.select", "Goal"),
    "Graph": ("ir.graph", "Graph"),
    "Model": ("ir.graph", "Model"),
    "Pipeline": ("passes.manager", "Pipeline"),
    "PlanishError": ("ir.errors", "PlanishError"),
    "Result": ("driver.optimize", "Result"),
    "Target": ("passes.target", "Target"),
    "bench": ("driver.bench", "bench"),
    "bisect": ("driver.bisect", "bisect"),
    "calibrate": ("driver.calibrate", "calibrate"),
    "compile": ("driver.compile", "compile"),
    "diff": ("driver.diff", "diff"),
    "explain": ("driver.explain", "explain"),
    "inspect": ("driver.inspect", "inspect"),
    "load": ("ir.onnx_reader", "read_model"),
    "load_artifact": ("backends.load", "load_artifact"),
    "optimize": ("driver.optimize", "optimize"),
    "save": ("ir.onnx_writer", "write_model"),
    "tune": ("driver.tune", "tune"),
    "validate": ("driver.checks.validate", "validate"),
}

__all__ = [
    "Budget",
    "Context",
    "Goal",
    "Graph",
    "Model",
    "Pipeline",
    "PlanishError",
    "Result",
    "Target",
    "__version__",
    "bench",
    "bisect",
    "calibrate",
    "compile",
    "diff",
    "explain",
    "inspect",
    "load",
    "load_artifact",
    "optimize",
    "save",
    "tune",
    "validate",
]


def __getattr__(name: str) -> Any:
    found = _NAMES.get(name)
    if found is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{found[0]}", __name__), found[1])
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
