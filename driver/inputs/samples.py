"""Samples: inputs of a model from an ``.npz`` file, a folder, or Python objects, checked against its interface."""

from __future__ import annotations

import difflib
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, cast

import numpy as np

from ...backends.core import Array, Sample
from ...ir.dims import dim_text
from ...ir.dtypes import DType, from_numpy
from ...ir.errors import UsageError
from ...ir.graph import Model, Value
from ...ir.limits import current_limits
from ...ir.types import TensorType, type_text
from .npz_stream import NpzStream, unpacked_bytes

_Mappings: TypeAlias = "Iterable[Mapping[str, Any]]"
Source: TypeAlias = "str | os.PathLike[str] | Mapping[str, Any] | _Mappings | Callable[[], _Mappings]"
MAX_SAMPLES = 64
"""More are not looked at: equality is proved or refuted by the first few."""


@dataclass(frozen=True)
class Samples:
    """Inputs of one model, checked."""

    items: list[Sample]
    origin: str
    """Where they come from, for the report."""
    ranges: dict[str, str] = field(default_factory=dict[str, str])
    """For generated ones: what each input was drawn from."""
    kinds: list[str] = field(default_factory=list[str])
    """For generated ones: which trouble each aims at (see ``trouble.py``), empty for ordinary ones."""

    @property
    def ordinary(self) -> Samples:
        """Those that aim at no trouble: for measuring, since subnormals and NaN change how long kernels take."""
        items = [s for i, s in enumerate(self.items) if i >= len(self.kinds) or not self.kinds[i]]
        return Samples(items, self.origin, self.ranges)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.items)


def load_samples(source: Source, model: Model, *, limit: int = MAX_SAMPLES) -> Samples:
    """At most ``limit`` samples of ``model``.

    ``source`` is an ``.npz`` file or a mapping (an array per input, whose first axis counts the samples and is
    stripped), a folder of such files or of ONNX test data sets (``input_0.pb``), or an iterable of samples
    (mappings without that axis), or a function that returns such an iterable. Raises ``UsageError`` for unknown or
    missing names, wrong types and shapes.
    """
    items = list(islice(_stream(source, model, whole=True), limit))
    origin = origin_of(source)
    if not items:
        _fail(f"{origin} holds no samples", "give at least one")
    return Samples(items, origin)


def stream_samples(source: Source, model: Model) -> Iterator[Sample]:
    """All samples of ``source``, one at a time: neither files nor iterables are ever held as a whole. Raises as
    :func:`load_samples` does, for a sample when it comes to it."""
    return _stream(source, model, whole=False)


def origin_of(source: Any) -> str:
    """Where samples come from, for reports."""
    if isinstance(source, Mapping):
        return "given arrays"
    return Path(cast("str", source)).name if isinstance(source, (str, os.PathLike)) else "given samples"


def _stream(source: Source, model: Model, *, whole: bool) -> Iterator[Sample]:
    """``whole``: files beyond the limit are refused as such, since their samples will be kept."""
    if isinstance(source, Mapping):
        found = _split(cast("Mapping[str, Any]", source), "samples")
    elif isinstance(source, (str, os.PathLike)):
        found = _from_path(Path(cast("str", source)), model, whole=whole)
    else:
        found = _mappings(source() if callable(source) else source)
    origin = origin_of(cast("Any", source))
    return (_checked(sample, model, i, origin) for i, sample in enumerate(found))


def _from_path(path: Path, model: Model, *, whole: bool) -> Iterator[Mapping[str, Any]]:
    if path.is_dir():
        return _folder(path, model, whole=whole)
    if not path.exists():
        _fail(f"there is no file {path}", "give an .npz file with an array for each input")
    return _npz(path, whole=whole)


def _folder(folder: Path, model: Model, *, whole: bool) -> Iterator[Mapping[str, Any]]:
    files = sorted(folder.glob("*.npz"))
    sets = sorted({p.parent for p in folder.rglob("input_0.pb")})
    if not files and not sets:
        _fail(f"folder {folder} holds no samples", "expected .npz files, or ONNX test data (input_0.pb, ...)")
    for file in files:
        yield from _npz(file, whole=whole)
    for data_set in sets:
        yield _test_data(data_set, model)


def _npz(path: Path, *, whole: bool) -> Iterator[Mapping[str, Any]]:
    try:
        if not zipfile.is_zipfile(path) and path.read_bytes()[:6] == b"\x93NUMPY":
            _fail(f"{path.name} holds one array, expected an array for each input", "write it with numpy.savez")
        if whole:
            _check_size(path, unpacked_bytes(path))
        stream = NpzStream(path, current_limits.get().sample_bytes)
        _check_axes(stream.shapes, path.name)
        yield from stream
    except (ValueError, OSError, zipfile.BadZipFile, EOFError, MemoryError, NotImplementedError) as error:
        _fail(
            f"cannot read samples from {path}: {error or type(error).__name__}",
            "write the file with numpy.savez; strings as a str array",
        )


def _check_size(path: Path, size: int) -> None:
    """Compressed zeros take no room in a file, and all of it once they are read."""
    limit = current_limits.get().sample_bytes
    if size > limit:
        _fail(
            f"{path.name} holds {size} bytes of samples, the limit is {limit}",
            "fewer samples, or --limit sample_bytes=N",
        )


def _test_data(folder: Path, model: Model) -> Mapping[str, Any]:
    """One sample in the layout of ONNX's backend tests."""
    import onnx
    import onnx.numpy_helper

    names = [v.name for v in model.graph.inputs if v not in model.graph.defaults]
    sample: dict[str, Any] = {}
    for i, name in enumerate(names):
        file = folder / f"input_{i}.pb"
        try:
            proto = onnx.TensorProto.FromString(file.read_bytes())
            sample[name] = onnx.numpy_helper.to_array(proto)
        except Exception as error:
            _fail(f"cannot read a tensor from {file}: {error}", "only tensors can be read from test data")
    return sample


def _split(arrays: Mapping[str, Any], origin: str) -> Iterator[Mapping[str, Any]]:
    """Strips the first axis."""
    stacked = {name: np.asarray(array) for name, array in arrays.items()}
    count = _check_axes({name: array.shape for name, array in stacked.items()}, origin)
    for i in range(count):
        yield {name: array[i] for name, array in stacked.items()}


def _check_axes(shapes: Mapping[str, tuple[int, ...]], origin: str) -> int:
    """How many samples arrays of these shapes hold."""
    for name, shape in shapes.items():
        if not shape:
            _fail(
                f"{origin}: array {name!r} has no axis that counts the samples",
                "the first axis of every array counts the samples; for a single one save array[None]",
            )
    counts = {name: shape[0] for name, shape in shapes.items()}
    if len(set(counts.values())) > 1:
        text = ", ".join(f"{name}: {count}" for name, count in counts.items())
        _fail(f"{origin}: arrays hold different numbers of samples ({text})", "the first axis counts the samples")
    return next(iter(counts.values()), 0)


def _mappings(source: Iterable[Any]) -> Iterator[Mapping[str, Any]]:
    for item in source:
        if not isinstance(item, Mapping):
            _fail(
                f"a sample is a {type(item).__name__}, expected a dict from input names to arrays",
                "see the documentation",
            )
        yield item  # pyright: ignore[reportUnknownVariableType]


# -- checks


def _checked(sample: Mapping[str, Any], model: Model, index: int, origin: str) -> Sample:
    inputs = {v.name: v for v in model.graph.inputs}
    optional = {v.name for v in model.graph.defaults}
    where = f"{origin}, sample {index}"
    for name in sample:
        if name not in inputs:
            near = difflib.get_close_matches(str(name), inputs, 1, 0.4)
            hint = f"did you mean {near[0]!r}? " if near else ""
            _fail(f"{where}: the model has no input {name!r}", f"{hint}its inputs: {', '.join(inputs) or 'none'}")
    missing = [name for name in inputs if name not in sample and name not in optional]
    if missing:
        _fail(f"{where}: input {', '.join(missing)} is missing", f"expected {_interface(inputs.values())}")
    return {name: _checked_array(np.asarray(array), inputs[name], where) for name, array in sample.items()}


def _checked_array(array: Array, value: Value, where: str) -> Array:
    tensor = value.tensor
    if tensor is None:
        return array
    array = _as_element_type(array, tensor.dtype)
    found = _element_type(array)
    if tensor.dtype is not None and found is not tensor.dtype:
        _fail(
            f"{where}: input {value.name!r} has elements of {found or array.dtype}, expected {tensor.dtype.text}",
            f"convert it with .astype({tensor.dtype.numpy_name!r})",
        )
    if not _fits(array.shape, tensor):
        shape = ",".join(map(str, array.shape))
        expected = ",".join(map(dim_text, tensor.shape or ()))
        _fail(
            f"{where}: input {value.name!r} has shape [{shape}], expected [{expected}]",
            "in an .npz file the first axis counts the samples; it comes in front of the model's own axes",
        )
    return array


def _as_element_type(array: Array, dtype: DType | None) -> Array:
    """Undoes what ``.npz`` files do to some types."""
    if dtype is DType.STRING and array.dtype.kind in "US":
        return array.astype(object)
    if dtype is not None and array.dtype.kind == "V" and array.dtype.itemsize == dtype.numpy.itemsize:
        return array.view(dtype.numpy)
    return array


def _element_type(array: Array) -> DType | None:
    try:
        return from_numpy(array.dtype)
    except TypeError:
        return None


def _fits(shape: Sequence[int], tensor: TensorType) -> bool:
    if tensor.shape is None:
        return True
    return len(shape) == len(tensor.shape) and all(
        not isinstance(want, int) or want == have for want, have in zip(tensor.shape, shape, strict=True)
    )


def _interface(values: Iterable[Value]) -> str:
    return ", ".join(f"{v.name}: {type_text(v.type)}" for v in values)


def _fail(message: str, help: str) -> NoReturn:
    raise UsageError(message, where="samples", help=help)
