"""Runs an unmodified model in ONNX Runtime, on one thread so that results repeat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .zoo_model import Runner, Sample


def ort_runner(model: Path | bytes) -> Runner:
    """A runner for a file or a serialized model: CPU, one thread, no messages."""
    import onnxruntime

    runtime: Any = onnxruntime
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    source = model if isinstance(model, bytes) else str(model)
    session = runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    def run(sample: Sample) -> list[Any]:
        return session.run(None, sample)

    return run
