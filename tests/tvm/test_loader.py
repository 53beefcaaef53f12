"""The Python loader that artifacts carry: alone, without planish and without TVM's compiler."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm")

import tvm_ffi

from planish.backends.tvm.api import tvm
from planish.backends.tvm.loader import planish_model
from planish.backends.tvm.loader.planish_model import (
    Gpu,
    Model,
    Processor,
    call,
    load_params,
    require_processor,
    tensor,
    use_cubin,
)

from ..arm.subjects import FLOAT, INTEGER, Subject, save


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(FLOAT, "native", tmp_path_factory.mktemp("artifact") / "float")


def test_it_runs_without_planish_and_without_the_compiler(folder: Path, tmp_path: Path) -> None:
    """As on a board: in a process of its own, where importing planish or tvm would be an error."""
    np.savez(tmp_path / "in.npz", x=FLOAT.arrays()[0])
    forbid = "import sys; sys.modules['planish'] = sys.modules['tvm.relax'] = sys.modules['tvm.tirx'] = None; "
    program = f"{forbid}sys.argv[1:] = {[str(tmp_path / 'in.npz'), str(tmp_path / 'out.npz')]}; "
    program += f"import runpy; runpy.run_path({str(folder / 'planish_model.py')!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out.npz") as outputs:
        assert (abs(outputs["y"] - FLOAT.expected()) <= FLOAT.tolerance()).all()


@pytest.mark.parametrize("subject", [FLOAT, INTEGER], ids=["float", "int8"])
def test_results(subject: Subject, tmp_path: Path) -> None:
    model = Model(save(subject, "native", tmp_path / "model"))
    first = model.run({"x": subject.arrays()[0]})[0]
    assert (abs(first - subject.expected()) <= subject.tolerance()).all()
    model.run({"x": subject.arrays()[0] * 0})
    assert (abs(first - subject.expected()) <= subject.tolerance()).all(), "a later run wrote over an output"


def test_wrong_inputs_are_refused(folder: Path) -> None:
    model = Model(folder)
    x = FLOAT.arrays()[0]
    for feeds, why in (
        ({}, r"inputs \[\] are given, the model takes \['x'\]"),
        ({"x": x[:2]}, r"input x is float32\[2, 64\], the model takes float32\[5, 64\]"),
        ({"x": x.astype(np.float64)}, "the model takes float32"),
        ({"x": x, "y": x}, "are given"),
    ):
        with pytest.raises(ValueError, match=why):
            model.run(feeds)


def test_processors_that_lack_something_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    cpuinfo.write_text("processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp\n")
    board = {"name": "cortex-a76", "arch": "aarch64", "features": ["dotprod", "fp16", "neon"]}
    require_processor(board, cpuinfo)
    require_processor({}, cpuinfo)
    with pytest.raises(ValueError, match="neoverse-v1: this processor has no i8mm, sve"):
        require_processor({"name": "neoverse-v1", "arch": "aarch64", "features": ["dotprod", "i8mm", "sve"]}, cpuinfo)
    with pytest.raises(ValueError, match="built for x86_64, this machine is aarch64"):
        require_processor({"name": "x86-64-v3", "arch": "x86_64", "features": []}, cpuinfo)
    require_processor(board, tmp_path / "not_linux")


def test_arrays_wherever_they_lie() -> None:
    """TVM wants 64-byte alignment, rows in order, and memory that it may write to: what is not so is copied."""
    plain = np.arange(100, dtype=np.float32)
    frozen = plain.copy()
    frozen.flags.writeable = False
    for array in (plain[1:], plain[::2], plain.reshape(10, 10).T, frozen, np.zeros((0, 3), np.float32), np.array(2.0)):
        found = np.from_dlpack(tensor(array))
        assert found.ctypes.data % 64 == 0 or found.size == 0
        assert np.array_equal(found, array)


def test_parameters_outside_their_file_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "params.bin").write_bytes(bytes(64))
    specs = [{"name": "w", "dtype": "float32", "shape": [16], "offset": 0}]
    assert len(load_params(tmp_path / "params.bin", specs, Processor())) == 1
    for change in ({"offset": 4}, {"offset": -64}, {"shape": [17]}):
        with pytest.raises(ValueError, match="ends before the parameter w"):
            load_params(tmp_path / "params.bin", [specs[0] | change], Processor())


def test_other_artifacts_are_refused(folder: Path, tmp_path: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text()) | {"backend": "ort"}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"built for ort"):
        Model(tmp_path)


def test_models_for_gpus_say_that_there_is_none(folder: Path, tmp_path: Path) -> None:
    if tvm.cuda(0).exist:
        pytest.skip("there is a GPU")
    manifest = json.loads((folder / "manifest.json").read_text()) | {"target": {"name": "cuda-sm_90", "arch": "cuda"}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="TVM finds none on this machine"):
        Model(tmp_path)


def test_the_way_of_gpus_on_the_processor(folder: Path, tmp_path: Path) -> None:
    """What copies tensors and loads through the whole package, with this processor as the device."""
    device = Gpu(tvm.cpu(0))
    specs = json.loads((folder / "manifest.json").read_text())["params"]
    params = load_params(folder / "params.bin", specs, device)
    (found,) = call(device.function(folder / "lib.so", "main"), [FLOAT.arrays()[0]], params, device)
    assert (abs(found - FLOAT.expected()) <= FLOAT.tolerance()).all()


def test_compiled_kernels_are_found_by_their_source() -> None:
    """Two models in one process: each gets its own, and what nobody compiled goes to TVM's compiler."""
    one, other = ("__global__ void one() {}", b"1"), ("__global__ void other() {}", b"2")
    before = tvm_ffi.get_global_func("tvm_callback_cuda_compile")
    try:
        for source, code in (one, other):
            use_cubin(hashlib.sha256(source.encode()).hexdigest(), code)
        compile_source = tvm_ffi.get_global_func("tvm_callback_cuda_compile")
        assert [compile_source(source) for source, _ in (one, other)] == [b"1", b"2"]
    finally:
        tvm_ffi.register_global_func("tvm_callback_cuda_compile", before, override=True)
        planish_model._CUBINS.clear()
