"""Runs a model that planish built with TVM. Needs numpy, ``tvm_ffi`` and TVM's runtime library: nothing of planish,
no compiler.

    from planish_model import Model
    outputs = Model("out").run({"x": array})          # a list of arrays, in the model's order

On a board: ``pip install numpy apache-tvm==0.27.0.post1 apache-tvm-ffi==0.1.14.post0`` (of the first only
``libtvm_runtime.so`` is loaded), then ``python planish_model.py samples.npz outputs.npz``. ``TVM_NUM_THREADS`` says how
many threads run it.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import json
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm_ffi

ALIGNMENT = 64
"""Kernels take for granted that arrays lie at multiples of so many bytes."""
_CPU, _POOLED = 1, 2
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_X86_FLAGS = {"sse42": "sse4_2", "avx512": "avx512f", "vnni": "avx512_vnni"}
_FLAGS = {**_X86_FLAGS, "neon": "asimd", "dotprod": "asimddp", "fp16": "asimdhp"}
"""How Linux calls what planish calls otherwise."""
_RUNTIME: list[ctypes.CDLL] = []
_CUBINS: dict[str, bytes] = {}
EXTENTS = ""
"""Where open extents lie among the values of a run: no value has this name."""
Values = dict[str, Any]
"""By name: arrays, tensors of TVM, and under ``EXTENTS`` the open extents."""
Run = Callable[[Values], Sequence[Any]]
"""What runs a step: its results, in order."""


class Model:
    """A loaded model. Not for several threads at once: give each its own."""

    def __init__(self, folder: str | Path | None = None) -> None:
        """``folder`` is the one that planish wrote; by default the one this file lies in.

        Raises ``FileNotFoundError`` where a file or TVM's runtime is missing, ``ValueError`` for another artifact or
        one for another processor.
        """
        folder = Path(__file__).parent if folder is None else Path(folder)
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        if manifest.get("backend") != "tvm":
            raise ValueError(f"{folder} was built for {manifest.get('backend')}, not for TVM")
        require_processor(manifest.get("target", {}))
        self.inputs: list[dict[str, Any]] = manifest["inputs"]
        self.outputs: list[dict[str, Any]] = manifest["outputs"]
        self._extents: dict[str, int] = {}
        self._device = device_of(manifest.get("target", {}))
        params = load_params(folder / "params.bin", manifest["params"], self._device)

        def load(step: Mapping[str, Any]) -> Run:
            if step["backend"] == "ort":
                return onnx_step(folder / step["file"], step, self._device)
            return kernel_step(folder / "lib.so", step, params, self._device)

        names = [spec["name"] for spec in self.outputs]
        self._steps = sequence(steps_of(manifest), names, load, self._device)

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """All outputs for one array per input. Raises ``ValueError`` where the arrays are not what the model takes."""
        names = [spec["name"] for spec in self.inputs]
        if set(feeds) != set(names):
            raise ValueError(f"inputs {sorted(feeds)} are given, the model takes {sorted(names)}")
        extents: dict[str, int] = {}
        values: Values = {spec["name"]: _checked(spec, feeds[spec["name"]], extents) for spec in self.inputs}
        if extents != self._extents:
            self._extents = extents
            clear_pool()
        return [self._device.array(found) for found in self._steps(values | {EXTENTS: extents})]


def steps_of(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What runs one after the other: where the manifest names no steps, its one function."""
    whole = {
        "backend": "tvm",
        "function": manifest.get("function", "main"),
        "params": list(range(len(manifest["params"]))),
        "symbols": manifest.get("symbols", []),
        "inputs": [spec["name"] for spec in manifest["inputs"]],
        "outputs": [spec["name"] for spec in manifest["outputs"]],
    }
    return manifest.get("steps") or [whole]


def sequence(
    steps: Sequence[Mapping[str, Any]],
    outputs: Sequence[str],
    load: Callable[[Mapping[str, Any]], Run],
    device: Processor,
) -> Run:
    """Runs steps one after the other; ``load`` makes what runs a step of a library. Values are dropped when no step
    behind reads them."""
    last = {name: i for i, step in enumerate(steps) for name in _reads(step)}
    made: list[tuple[Run, Sequence[str], list[str]]] = []
    for i, step in enumerate(steps):
        run = flow_step(step, load, device) if step["backend"] == "flow" else load(step)
        known = {*_reads(step), *step["outputs"]} - {*outputs, ""}
        made.append((run, step["outputs"], [name for name in known if last.get(name, i) == i]))

    def run_all(values: Values) -> list[Any]:
        for run, names, dropped in made:
            values.update(zip(names, run(values), strict=True))
            for name in dropped:
                del values[name]
        return [values[name] for name in outputs]

    return run_all


def _reads(step: Mapping[str, Any]) -> list[str]:
    return [*step["inputs"], *(name for body in step.get("bodies", []) for name in body["captured"])]


def kernel_step(library: Path, step: Mapping[str, Any], params: Sequence[Any], device: Processor) -> Run:
    """A function of the library."""
    function = device.function(library, step["function"])
    own = [params[i] for i in step["params"]]
    names, symbols = step["inputs"], step.get("symbols", [])

    def run(values: Values) -> list[Any]:
        return invoke(
            function, [values[name] for name in names], own, device, [values[EXTENTS][name] for name in symbols]
        )

    return run


def onnx_step(path: Path, step: Mapping[str, Any], device: Processor) -> Run:
    """A piece that TVM cannot compute, on ONNX Runtime where that is installed."""
    try:
        runtime: Any = importlib.import_module("onnxruntime")
    except ImportError:
        why = ", ".join(f"{op}: {reason}" for op, reason in step["reasons"].items())
        raise ValueError(f"{path} runs on ONNX Runtime ({why}): pip install onnxruntime") from None
    session = _session(runtime, path)
    return lambda values: session.run(step["outputs"], {name: device.array(values[name]) for name in step["inputs"]})


def _session(runtime: Any, path: Path) -> Any:
    """On the caller's thread; with less optimization where ONNX Runtime's own fails on the file."""
    first: Exception | None = None
    for level in ("ORT_ENABLE_ALL", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_BASIC", "ORT_DISABLE_ALL"):
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        options.graph_optimization_level = getattr(runtime.GraphOptimizationLevel, level)
        try:
            return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            first = first or error
    raise ValueError(f"{path} cannot be loaded: {first}") from first


def flow_step(step: Mapping[str, Any], load: Callable[[Mapping[str, Any]], Run], device: Processor) -> Run:
    """An If, Loop or Scan of ONNX, whose bodies are steps."""
    bodies = [_body(spec, load, device) for spec in step["bodies"]]
    inputs: list[str] = step["inputs"]
    if step["op"] == "If":
        return lambda values: bodies[0 if _is_true(values[inputs[0]], device) else 1](values, [])
    return {"Loop": _loop, "Scan": _scan}[step["op"]](step, bodies[0], device)


_Body = Callable[[Values, Sequence[Any]], list[Any]]
"""Runs a body: what is known around it, its own arguments; its results."""


def _body(spec: Mapping[str, Any], load: Callable[[Mapping[str, Any]], Run], device: Processor) -> _Body:
    inner = sequence(spec["steps"], spec["outputs"], load, device)

    def run(values: Values, arguments: Sequence[Any]) -> list[Any]:
        captured = (values[name] for name in spec["captured"])
        own: Values = dict(zip(spec["inputs"], (*arguments, *captured), strict=True))
        return list(inner(own | {EXTENTS: values[EXTENTS]}))

    return run


def _loop(step: Mapping[str, Any], body: _Body, device: Processor) -> Run:
    trips, condition, *carried = step["inputs"]
    number_shape, condition_shape = step["first"]
    stacked: list[Mapping[str, Any]] = step["stacked"]

    def run(values: Values) -> list[Any]:
        most = int(device.array(values[trips]).reshape(())) if trips else sys.maxsize
        going = not condition or _is_true(values[condition], device)
        state, turn = [values[name] for name in carried], 0
        rows: list[list[np.ndarray]] = [[] for _ in stacked]
        while going and turn < most:
            first = [np.full(number_shape, turn, np.int64), np.ones(condition_shape, np.bool_)]
            again, *found = body(values, [*first, *state])
            state = found[: len(state)]
            _add(rows, found[len(state) :], device)
            going, turn = _is_true(again, device), turn + 1
        return [*state, *(_stacked(r, spec, 0) for r, spec in zip(rows, stacked, strict=True))]

    return run


def _scan(step: Mapping[str, Any], body: _Body, device: Processor) -> Run:
    count = len(step["inputs"]) - len(step["input_axes"])
    specs = list(zip(step["stacked"], step["output_axes"], step["output_directions"], strict=True))

    def run(values: Values) -> list[Any]:
        state = [values[name] for name in step["inputs"][:count]]
        arrays = [device.array(values[name]) for name in step["inputs"][count:]]
        given = [np.moveaxis(array, axis, 0) for array, axis in zip(arrays, step["input_axes"], strict=True)]
        given = [array[::-1] if back else array for array, back in zip(given, step["input_directions"], strict=True)]
        rows: list[list[np.ndarray]] = [[] for _ in specs]
        for turn in range(len(given[0])):
            found = body(values, [*state, *(array[turn, ...] for array in given)])
            state = found[:count]
            _add(rows, found[count:], device)
        ordered = [r[::-1] if back else r for r, (_, _, back) in zip(rows, specs, strict=True)]
        return [*state, *(_stacked(r, spec, axis) for r, (spec, axis, _) in zip(ordered, specs, strict=True))]

    return run


def _add(rows: list[list[np.ndarray]], found: Sequence[Any], device: Processor) -> None:
    for row, one in zip(rows, found, strict=True):
        row.append(device.array(one))


def _stacked(rows: list[np.ndarray], spec: Mapping[str, Any], axis: int) -> np.ndarray:
    """Results of all turns along an axis more; of none, an array without elements."""
    if rows:
        return np.stack(rows, axis)
    shape: list[int] = spec["shape"]
    return np.empty((*shape[:axis], 0, *shape[axis:]), spec["dtype"])


def _is_true(value: Any, device: Processor) -> bool:
    return bool(device.array(value).reshape(()))


class Processor:
    """Where kernels run: here, on this machine's processor."""

    def tensor(self, value: Any) -> Any:
        """An array as kernels take it; what kernels gave stays as it is."""
        return value if isinstance(value, tvm_ffi.Tensor) else tensor(value)

    def array(self, value: Any) -> np.ndarray:
        """A copy of what kernels gave; an array stays as it is."""
        return np.array(np.from_dlpack(value)) if isinstance(value, tvm_ffi.Tensor) else value

    def function(self, library: Path, name: str) -> Any:
        """A function of a library that runs on TVM's virtual machine."""
        load_runtime()
        if not library.exists():
            raise FileNotFoundError(f"{library} is missing")
        machine = tvm_ffi.load_module(str(library))["vm_load_executable"]()
        machine["vm_initialization"](_CPU, 0, _POOLED)
        return machine[name]


class Gpu(Processor):
    """An NVIDIA GPU, through the whole ``tvm`` package. Weights are copied to it once, inputs at every run.

    Beside the library may lie its kernels compiled, in a file named by their source; else TVM compiles them when they
    are first used, with NVRTC (``pip install cuda-bindings nvidia-cuda-nvrtc``).
    """

    def __init__(self, device: Any = None) -> None:
        """``device`` is TVM's; by default the first GPU. Raises ``ValueError`` where there is none."""
        self._tvm: Any = importlib.import_module("tvm")
        self._device: Any = self._tvm.cuda(0) if device is None else device
        if not self._device.exist:
            raise ValueError("the model was built for an NVIDIA GPU: TVM finds none on this machine")

    def tensor(self, value: Any) -> Any:
        if isinstance(value, tvm_ffi.Tensor):
            return value
        return self._tvm.runtime.tensor(np.ascontiguousarray(value), self._device)

    def array(self, value: Any) -> np.ndarray:
        numpy = getattr(value, "numpy", None)
        return value if numpy is None else numpy()

    def function(self, library: Path, name: str) -> Any:
        for cubin in library.parent.glob("*.cubin"):
            use_cubin(cubin.stem, cubin.read_bytes())
        vm = importlib.import_module("tvm.runtime.vm")
        return vm.VirtualMachine(self._tvm.runtime.load_module(str(library)), self._device)[name]


def use_cubin(source_hash: str, code: bytes) -> None:
    """Lets TVM take ``code`` where it would compile the CUDA source of that SHA-256."""
    if not _CUBINS:
        compile_source: Any = tvm_ffi.get_global_func("tvm_callback_cuda_compile", allow_missing=True)

        def known(source: str, *more: Any) -> Any:
            found = _CUBINS.get(hashlib.sha256(source.encode()).hexdigest())
            return compile_source(source, *more) if found is None else found

        tvm_ffi.register_global_func("tvm_callback_cuda_compile", known, override=True)
    _CUBINS[source_hash] = code


def device_of(target: Mapping[str, Any]) -> Processor:
    """Where a model for the manifest's target runs. Raises ``ValueError`` where this machine has no such thing."""
    return Gpu() if target.get("arch") == "cuda" else Processor()


def invoke(
    function: Any, values: Sequence[Any], params: Sequence[Any], device: Processor, extents: Sequence[int] = ()
) -> list[Any]:
    """Calls a device's function on arrays or tensors; its results are tensors. ``extents`` are the values of what it
    has as symbols."""
    result = function(*map(device.tensor, values), *params, *([tvm_ffi.Shape(tuple(extents))] if extents else []))
    return [result] if isinstance(result, tvm_ffi.Tensor) else list(result)


def call(
    function: Any, arrays: Sequence[np.ndarray], params: Sequence[Any], device: Processor, extents: Sequence[int] = ()
) -> list[np.ndarray]:
    """The same with copies of the results."""
    return [device.array(found) for found in invoke(function, arrays, params, device, extents)]


def clear_pool() -> None:
    """Gives back memory that TVM keeps for the next run, which will ask for other sizes: it would keep every size."""
    clear: Any = tvm_ffi.get_global_func("vm.builtin.memory_manager.clear", allow_missing=True)
    if clear is not None:
        clear()


def fits(wanted: Sequence[int | str], shape: Sequence[int], extents: dict[str, int]) -> bool:
    """Whether an array of this shape is what is wanted; symbols take their value from the first array that has one, and
    are at least 1."""
    if len(wanted) != len(shape):
        return False
    return all(
        have > 0 and have == extents.setdefault(want, have) if isinstance(want, str) else want == have
        for want, have in zip(wanted, shape, strict=True)
    )


def tensor(array: np.ndarray) -> Any:
    """The array as TVM takes it; copied only where it does not lie at a multiple of 64 bytes or is read-only."""
    array = np.asarray(array)
    if array.ctypes.data % ALIGNMENT or not array.flags.c_contiguous or not array.flags.writeable:
        room = np.empty(array.nbytes + ALIGNMENT, np.uint8)
        start = -room.ctypes.data % ALIGNMENT
        aligned = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        aligned[...] = array
        array = aligned
    if not array.size:  # whose strides in numpy are none of a dense tensor
        strides = [array.itemsize * int(np.prod(array.shape[i + 1 :])) for i in range(array.ndim)]
        array = np.lib.stride_tricks.as_strided(array, strides=strides)
    return tvm_ffi.from_dlpack(array)


def load_params(path: Path, specs: Sequence[Mapping[str, Any]], device: Processor) -> list[Any]:
    """The parameters in their file, read page by page when touched; what is written to them stays in memory."""
    data = np.memmap(path, np.uint8, "c") if path.stat().st_size else np.empty(0, np.uint8)
    found: list[Any] = []
    for spec in specs:
        dtype, shape, offset = np.dtype(spec["dtype"]), tuple(spec["shape"]), int(spec["offset"])
        size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        if offset < 0 or offset + size > data.size:
            raise ValueError(f"{path} ends before the parameter {spec.get('name')} of {size} bytes at {offset}")
        found.append(device.tensor(data[offset : offset + size].view(dtype).reshape(shape)))
    return found


def require_processor(target: Mapping[str, Any], cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Raises ``ValueError`` where the code would die of an instruction that this processor lacks."""
    machine = _MACHINES.get(platform.machine().lower(), platform.machine().lower())
    arch = target.get("arch", "any")
    if arch not in ("any", "cuda", machine):
        raise ValueError(f"the model was built for {arch}, this machine is {machine}")
    lines = [line.partition(":") for line in (cpuinfo.read_text().splitlines() if cpuinfo.exists() else [])]
    flags = next((words.split() for key, _, words in lines if key.strip() in ("flags", "Features")), None)
    if arch != machine or flags is None:
        return
    missing = [f for f in sorted(target.get("features", ())) if _FLAGS.get(f, f) not in flags]
    if missing:
        raise ValueError(f"the model was built for {target['name']}: this processor has no {', '.join(missing)}")


def load_runtime() -> None:
    """Loads ``libtvm_runtime.so``: of the ``tvm`` package (which is not imported), or where the system finds it."""
    if _RUNTIME or tvm_ffi.get_global_func("runtime.RuntimeEnabled", allow_missing=True) is not None:
        return
    name = "libtvm_runtime.so"
    package = importlib.util.find_spec("tvm")
    folders = [Path(p) / "lib" for p in (package.submodule_search_locations or [])] if package else []
    places = [str(f / name) for f in folders if (f / name).exists()]
    try:
        _RUNTIME.append(ctypes.CDLL((places or [name])[0], ctypes.RTLD_GLOBAL))
    except OSError as error:
        raise FileNotFoundError(f"TVM's runtime cannot be loaded ({error}): pip install apache-tvm") from None


def _checked(spec: Mapping[str, Any], given: Any, extents: dict[str, int]) -> np.ndarray:
    array = np.asarray(given)
    if not fits(spec["shape"], array.shape, extents) or array.dtype != np.dtype(spec["dtype"]):
        said = ", ".join(f"{name} = {extent}" for name, extent in sorted(extents.items()))
        want = (
            f"{spec['dtype']}{spec['shape']}"
            + (f" with {said}" if said else "")
            + (", none empty" if 0 in array.shape else "")
        )
        raise ValueError(f"input {spec['name']} is {array.dtype}{list(array.shape)}, the model takes {want}")
    return array


def main() -> None:
    """Runs the model beside this file: on one array for each input, or on many, with an axis more in front."""
    if len(sys.argv) != 3:
        raise SystemExit("usage: python planish_model.py INPUTS.npz OUTPUTS.npz")
    model = Model()
    with np.load(sys.argv[1]) as file:
        feeds: dict[str, np.ndarray] = {name: file[name] for name in file.files}
    ranks: dict[str, int] = {spec["name"]: len(spec["shape"]) for spec in model.inputs}
    if feeds and all(name in ranks and array.ndim == ranks[name] + 1 for name, array in feeds.items()):
        runs = [model.run(dict(zip(feeds, one, strict=True))) for one in zip(*feeds.values(), strict=True)]
        outputs = [np.stack(arrays) for arrays in zip(*runs, strict=True)]
    else:
        outputs = model.run(feeds)
    named: dict[str, Any] = {spec["name"]: array for spec, array in zip(model.outputs, outputs, strict=True)}
    np.savez(sys.argv[2], **named)


if __name__ == "__main__":
    main()
