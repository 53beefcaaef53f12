"""Other optimizers, each run in a process of its own with a time limit: for benchmarks/fusion.py.

python benchmarks/fusion_peers.py TOOL SOURCE.onnx OUT.onnx
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

FAILED = "failed: "


def onnxslim(source: str, out: str) -> None:
    import onnxslim

    onnxslim.slim(source, out)


def onnxsim(source: str, out: str) -> None:
    import onnx
    import onnxsim

    onnx.save(onnxsim.simplify(onnx.load(source))[0], out)


def onnxscript(source: str, out: str) -> None:
    """The optimizer with its ONNX Runtime fusions."""
    import onnx
    import onnx_ir
    from onnxscript import optimizer
    from onnxscript.rewriter.ort_fusions import optimize_for_ort

    model = onnx_ir.serde.deserialize_model(onnx.load(source))
    optimizer.optimize(model)
    fused: Any = optimize_for_ort(model)
    model = fused[0] if isinstance(fused, tuple) else fused
    onnx.save(onnx_ir.serde.serialize_model(model), out)


def transformers(source: str, out: str) -> None:
    """ONNX Runtime's offline optimizer for transformers."""
    from onnxruntime.transformers.optimizer import optimize_model

    optimize_model(source, model_type="bert", opt_level=0).save_model_to_file(out)


PEERS = {tool.__name__: tool for tool in (onnxslim, onnxsim, onnxscript, transformers)}


def run_peer(tool: str, source: Path, out: Path, timeout: float, python: str) -> str:
    """Why there is no result; empty where there is one."""
    command = [python, __file__, tool, str(source), str(out)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return f"{FAILED}more than {timeout:.0f} s"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["?"])[-1]
        return "not installed" if "ModuleNotFoundError" in last else f"{FAILED}{last[:70]}"
    return "" if out.exists() else f"{FAILED}wrote nothing"


if __name__ == "__main__":
    PEERS[sys.argv[1]](*sys.argv[2:4])
