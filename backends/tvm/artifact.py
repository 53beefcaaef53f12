"""A model built by TVM in a folder: ``lib.so``, ``params.bin``, ``manifest.json``, loaders, and ONNX pieces.

Weights lie in a file of their own, each at a multiple of 64 bytes, and are mapped when the artifact is loaded.
Loading and running take TVM's runtime alone.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ...ir.dims import dim_text
from ...ir.errors import BackendError, UsageError
from ...ir.graph import Model, Value
from ...passes.target import Target, get_target
from .. import folder as folders
from ..core import Array, Outputs, Sample
from ..feeds import check_names
from ..load import runner
from ..measure import Measurement, measure
from .loader import write_loaders
from .loader.planish_model import (
    EXTENTS,
    Processor,
    Run,
    Values,
    clear_pool,
    device_of,
    fits,
    kernel_step,
    load_params,
    sequence,
    steps_of,
)

LIBRARY, PARAMS = "lib.so", "params.bin"
_PACKAGES = ("planish", "apache-tvm", "apache-tvm-ffi", "onnx", "numpy")
_ALIGNMENT = 64


def piece_name(number: int) -> str:
    """The file of a piece of ONNX Runtime."""
    return f"piece{number}.onnx"


@dataclass
class Built:
    """What is not yet in a folder."""

    executable: Any
    """Of ``relax.build``; ``None`` where ONNX Runtime runs everything."""
    weights: list[Array]
    models: list[Model]
    """Pieces of ONNX Runtime."""
    target: Target

    def write(self, folder: Path, manifest: dict[str, Any]) -> None:
        """All files but the manifest."""
        from ...ir.onnx_writer import write_model
        from .cuda_compile import write_cubin
        from .link import export_library

        if self.executable is not None:
            export_library(self.executable, folder / LIBRARY, self.target)
            if self.target.arch == "cuda":
                write_cubin(self.executable, folder, self.target)
        with open(folder / PARAMS, "wb") as file:
            for array, spec in zip(self.weights, manifest["params"], strict=True):
                file.write(bytes(spec["offset"] - file.tell()))
                file.write(np.ascontiguousarray(array).tobytes())
        for i, model in enumerate(self.models):
            write_model(model, folder / piece_name(i), value_info=True)
        write_loaders(folder)


class Artifact:
    """A model for TVM. Made by ``TvmBackend.lower`` or loaded from a folder."""

    def __init__(self, manifest: dict[str, Any], built: Built | Path) -> None:
        """``built`` is a folder where the artifact was loaded from one."""
        self._manifest = manifest
        self._built = built
        self._folder: TemporaryDirectory[str] | None = None
        self._run: Run | None = None
        self._extents: dict[str, int] = {}
        """Open extents of the last run."""
        self._lock = threading.Lock()

    @property
    def manifest(self) -> dict[str, Any]:
        """Format, pipeline, versions, target, interface, weights, pieces, planned memory."""
        return self._manifest

    @property
    def executable(self) -> Any:
        """What ``relax.build`` gave, to look at; ``None`` where the artifact was loaded, or all is ONNX Runtime's."""
        return None if isinstance(self._built, Path) else self._built.executable

    def save(self, folder: str | Path) -> None:
        """Links and writes the artifact, replacing one that is there; all or nothing.

        Raises ``UsageError`` when ``folder`` holds something that is no artifact, or cannot be written, and
        ``BackendError`` where no linker for the target is there.
        """
        built = self._built
        if isinstance(built, Path):
            raise UsageError("this artifact was loaded from a folder; copy the folder instead", where="artifact")
        folders.write_folder(folder, lambda path: built.write(path, self._manifest), self._manifest)

    @classmethod
    def load(cls, folder: str | Path) -> Artifact:
        """Reads an artifact and checks its files against the manifest. Raises ``BackendError`` when they differ."""
        folder = Path(folder)
        return cls(folders.read_manifest(folder, backend="tvm"), folder)

    def run(self, inputs: Sample) -> Outputs:
        """All outputs for one sample. Raises ``BackendError`` for inputs that are not what the model takes."""
        specs = self._manifest["inputs"]
        names = [spec["name"] for spec in specs]
        check_names(inputs, names, names, where="tvm")
        extents: dict[str, int] = {}
        values: Values = {spec["name"]: checked(spec, inputs[spec["name"]], extents) for spec in specs}
        values |= {EXTENTS: extents}
        with self._lock:  # the virtual machine and its arena serve one caller at a time
            if extents != self._extents:
                self._extents = extents
                clear_pool()
            if self._run is None:
                self._run = self._load(self._path())
            return list(self._run(values))

    def benchmark(self, samples: Sequence[Sample], *, seconds: float = 1.0) -> Measurement:
        """Time of one run, over ``samples`` in turn."""
        if not samples:
            raise UsageError("a benchmark needs at least one sample", where="bench")
        self.run(samples[0])
        return measure(lambda turn: self.run(samples[turn % len(samples)]), seconds=seconds)

    def _path(self) -> Path:
        """The folder; an artifact that was not saved is written into a temporary one."""
        if isinstance(self._built, Path):
            return self._built
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="planish-")
            self._built.write(Path(self._folder.name), self._manifest)
        return Path(self._folder.name)

    def _load(self, folder: Path) -> Run:
        """What runs the model. Raises ``BackendError``."""
        manifest = self._manifest
        require_machine(manifest["target"])
        try:
            device = device_of(manifest["target"])
        except ValueError as error:
            raise BackendError(
                str(error), where="tvm", help="run it where there is one, or build it for -t native"
            ) from None
        params = load_params(folder / PARAMS, manifest["params"], device)

        def load(step: Mapping[str, Any]) -> Run:
            if step["backend"] == "ort":
                return _ort_piece(folder, step, device)
            return _tvm_piece(folder, step, params, device)

        run = sequence(steps_of(manifest), [spec["name"] for spec in manifest["outputs"]], load, device)
        return lambda values: [device.array(found) for found in run(values)]


def require_machine(target: dict[str, Any]) -> None:
    """Raises ``BackendError`` where this processor lacks what the code takes for granted: it would die of it."""
    if target["arch"] in ("any", "cuda"):
        return
    here = get_target("native")
    if target["arch"] != here.arch:
        raise BackendError(
            f"the model was built for {target['arch']} ({target['name']}), this machine is {here.arch}",
            where="tvm",
            help="build it for this machine: planish optimize MODEL -t native --backend tvm -o FOLDER",
        )
    missing = sorted(set(target["features"]) - here.features)
    if missing:
        raise BackendError(
            f"the model was built for processors with {', '.join(missing)} ({target['name']}), this one has none",
            where="tvm",
            help=f"build it for this processor: -t {here.name}, or -t native on this machine",
        )


def _tvm_piece(folder: Path, step: Mapping[str, Any], params: Sequence[Any], device: Processor) -> Run:
    try:
        call = kernel_step(folder / LIBRARY, step, params, device)
    except (RuntimeError, OSError, FileNotFoundError) as error:
        raise BackendError(
            f"cannot load {folder / LIBRARY}: {error}", where="tvm", help="it runs on the target it was built for"
        ) from None

    def run(values: Values) -> Sequence[Any]:
        try:
            return call(values)
        except (RuntimeError, ValueError) as error:
            said = ", ".join(f"{name} = {values[EXTENTS][name]}" for name in step.get("symbols", []))
            help_ = f"with {said} two extents differ that have to be the same, or nothing is left of one"
            raise BackendError(
                f"cannot run the model: {error}", where="tvm", help=help_ if "match_cast" in str(error) else None
            ) from error

    return run


def _ort_piece(folder: Path, step: Mapping[str, Any], device: Processor) -> Run:
    run = runner("ort", folder / step["file"])
    return lambda values: run({name: device.array(values[name]) for name in step["inputs"]})


def checked(spec: dict[str, Any], given: Any, extents: dict[str, int]) -> Array:
    """An input as an array of the type that the model takes; ``extents`` get the values of symbols in its shape, or
    have them. Raises ``BackendError``."""
    array = np.asarray(given)
    if array.dtype != np.dtype(spec["dtype"]) or not fits(spec["shape"], array.shape, extents):
        said = ", ".join(f"{name} = {extent}" for name, extent in sorted(extents.items()))
        open_ = any(isinstance(want, str) for want in spec["shape"])
        raise BackendError(
            f"input {spec['name']} is {array.dtype}{list(array.shape)}, the model takes {spec['dtype']}{spec['shape']}"
            + (f" with {said}" if said else ""),
            where="tvm",
            help="open extents are 1 and more: of nothing there is nothing to compute"
            if open_ and 0 in array.shape
            else "inputs have to agree on extents of one name; numbers are fixed: build it again for others"
            if open_
            else "the artifact was built for these extents: build it again with --dim for others",
        )
    return array


def make_manifest(
    model: Model,
    target: Target,
    weights: Sequence[Array],
    steps: list[dict[str, Any]],
    *,
    pipeline: str,
    source: str | None,
) -> dict[str, Any]:
    """The manifest of an unsaved artifact."""
    manifest = folders.make_manifest(model, target, "tvm", _PACKAGES, pipeline=pipeline, source=source)
    for entry, value in zip(manifest["inputs"], model.graph.inputs, strict=True):
        entry.update(_spec(value))
    for entry, value in zip(manifest["outputs"], model.graph.outputs, strict=True):
        entry.update(_spec(value))
    params: list[dict[str, Any]] = []
    offset = 0
    for i, array in enumerate(weights):
        offset = -(-offset // _ALIGNMENT) * _ALIGNMENT
        params.append({"name": f"p{i}", "dtype": str(array.dtype), "shape": list(array.shape), "offset": offset})
        offset += array.nbytes
    return manifest | {"function": "main", "params": params, "steps": steps}


def _spec(value: Value) -> dict[str, Any]:
    dtype = value.dtype
    return {
        "dtype": "unknown" if dtype is None else dtype.numpy_name,
        "shape": [d if isinstance(d, int) else dim_text(d) for d in value.shape or ()],
    }
