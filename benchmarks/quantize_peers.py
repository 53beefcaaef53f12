"""Other quantizers, each run in a process of its own with limits on time and memory: for benchmarks/quantize.py.

    python benchmarks/quantize_peers.py TOOL SOURCE.onnx OUT.onnx SAMPLES_FOLDER

``SAMPLES_FOLDER`` holds one ``.npz`` for each sample, with an array for each input. The last line on standard output is
the peak of resident memory in bytes.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FAILED = "failed: "
MEMORY_BYTES = 12 << 30


def _samples(folder: str) -> Iterator[dict[str, Any]]:
    import numpy as np

    for path in sorted(Path(folder).glob("*.npz")):
        with np.load(path) as file:
            yield dict(file)


class _Reader:
    """What ONNX Runtime's calibrators take."""

    def __init__(self, folder: str) -> None:
        self.left = _samples(folder)

    def get_next(self) -> dict[str, Any] | None:
        return next(self.left, None)


def _prepared(source: str, folder: str) -> str:
    """As ONNX Runtime's guide asks: shapes inferred, the model optimized. The source where that fails."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    out = str(Path(folder) / "prepared.onnx")
    try:
        quant_pre_process(source, out, skip_symbolic_shape=True)
    except Exception:  # a tool that fails here may still quantize the model as it is
        return source
    return out


def _static(
    activations: str, weights: str, *, method: str = "MinMax", per_channel: bool = False, reduced: bool = False
) -> Callable[[str, str, str], None]:
    def run(source: str, out: str, samples: str) -> None:
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

        with tempfile.TemporaryDirectory() as folder:
            quantize_static(
                _prepared(source, folder),
                out,
                _Reader(samples),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType[activations],
                weight_type=QuantType[weights],
                per_channel=per_channel,
                reduce_range=reduced,
                calibrate_method=CalibrationMethod[method],
            )

    return run


def _dynamic(per_channel: bool) -> Callable[[str, str, str], None]:
    def run(source: str, out: str, samples: str) -> None:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        with tempfile.TemporaryDirectory() as folder:
            quantize_dynamic(_prepared(source, folder), out, per_channel=per_channel, weight_type=QuantType.QInt8)

    return run


def _nncf(source: str, out: str, samples: str) -> None:
    import nncf
    import onnx

    onnx.save(nncf.quantize(onnx.load(source), nncf.Dataset(list(_samples(samples)))), out)


def _nbits(bits: int) -> Callable[[str, str, str], None]:
    def run(source: str, out: str, samples: str) -> None:
        import onnx
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        quantizer = MatMulNBitsQuantizer(onnx.load(source), bits=bits, block_size=32, accuracy_level=4)
        quantizer.process()
        quantizer.model.save_model_to_file(out)

    return run


PEERS: dict[str, Callable[[str, str, str], None]] = {
    "ort u8s8": _static("QUInt8", "QInt8"),
    "ort u8s8 channel": _static("QUInt8", "QInt8", per_channel=True),
    "ort u8s8 channel 7 bit": _static("QUInt8", "QInt8", per_channel=True, reduced=True),
    "ort u8u8": _static("QUInt8", "QUInt8"),
    "ort s8s8": _static("QInt8", "QInt8"),
    "ort s8s8 channel": _static("QInt8", "QInt8", per_channel=True),
    "ort entropy": _static("QUInt8", "QInt8", method="Entropy", per_channel=True),
    "ort percentile": _static("QUInt8", "QInt8", method="Percentile", per_channel=True),
    "ort distribution": _static("QUInt8", "QInt8", method="Distribution", per_channel=True),
    "ort dynamic": _dynamic(per_channel=False),
    "ort dynamic channel": _dynamic(per_channel=True),
    "ort 4 bit": _nbits(4),
    "nncf": _nncf,
}


def run_peer(tool: str, source: Path, out: Path, samples: Path, timeout: float, python: str) -> tuple[str, int]:
    """Why there is no result (empty where there is one), and the peak of memory in bytes."""
    command = [python, __file__, tool, str(source), str(out), str(samples)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return f"{FAILED}more than {timeout:.0f} s", 0
    lines = done.stdout.split()
    peak = int(lines[-1]) if lines and lines[-1].isdigit() else 0
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"killed by signal {-done.returncode}"])[-1]
        return "not installed" if "ModuleNotFoundError" in last else f"{FAILED}{last[:70]}", peak
    return "" if out.exists() else f"{FAILED}wrote nothing", peak


def main() -> None:
    tool, source, out, samples = sys.argv[1:5]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    try:
        PEERS[tool](source, out, samples)
    finally:
        sys.stdout.write(f"\n{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}\n")


if __name__ == "__main__":
    main()
