"""Every model of onnx's own backend tests, with its inputs and expected outputs.

Source: ``onnx.backend.test`` of the installed package: generated cases (``node``, ``model``) and stored ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

NEWEST_IR, NEWEST_OPSET = 13, 26
"""What ONNX Runtime 1.31 loads."""
SUITES = ("node", "model", "simple", "light", "pytorch-converted", "pytorch-operator")


@dataclass
class Case:
    """One model with its data sets of inputs and expected outputs."""

    suite: str
    name: str
    model: onnx.ModelProto
    folder: Path | None
    data: list[tuple[list[Any], list[Any] | None]]
    rtol: float = 1e-3
    atol: float = 1e-7


def cases(wanted: set[str]) -> Iterator[Case]:
    """All cases of the wanted suites, in a fixed order."""
    if "node" in wanted:
        from onnx.backend.test.case.node import collect_testcases

        yield from sorted((_generated("node", c) for c in collect_testcases(None)), key=lambda c: c.name)
    if "model" in wanted:
        from onnx.backend.test.case.model import collect_testcases as collect_models

        for c in sorted(collect_models(), key=lambda c: c.name):
            if c.model is not None:
                yield _generated("model", c)
    if "light" in wanted:
        yield from map(_light, sorted((_data() / "light").glob("*.onnx")))
    for suite in ("simple", "pytorch-converted", "pytorch-operator"):
        if suite in wanted:
            yield from (_stored(suite, f) for f in sorted((_data() / suite).iterdir()) if (f / "model.onnx").exists())


def _data() -> Path:
    return Path(onnx.__file__).parent / "backend" / "test" / "data"


def _generated(suite: str, case: Any) -> Case:
    data: list[tuple[list[Any], list[Any] | None]] = [(list(i), list(o)) for i, o in case.data_sets]
    return Case(suite, case.name, _loadable(case.model), None, data, case.rtol, case.atol)


def _loadable(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model as of the newest versions that ONNX Runtime loads, where it is valid under them.

    The generator stamps models with versions newer than any runtime's, mostly for operators that only got more types.
    """
    lowered = onnx.ModelProto()
    lowered.CopyFrom(model)
    lowered.ir_version = min(model.ir_version, NEWEST_IR)
    for entry in lowered.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = min(entry.version, NEWEST_OPSET)
    return lowered if passes_checker(lowered, types=True) else model


def _light(path: Path) -> Case:
    model = onnx.load(path)
    constants = {t.name for t in model.graph.initializer}
    inputs: list[Any] = []
    for info in model.graph.input:
        if info.name not in constants:
            shape = [d.dim_value or 1 for d in info.type.tensor_type.shape.dim]
            count = int(np.prod(shape))
            inputs.append((np.arange(count).reshape(shape) / count).astype(np.float32))
    return Case("light", path.stem, model, path.parent, [(inputs, None)])


def _stored(suite: str, folder: Path) -> Case:
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    data: list[tuple[list[Any], list[Any] | None]] = []
    for stored in sorted(folder.glob("test_data_set_*")):
        inputs = _tensors(stored, "input", model.graph.input)
        data.append((inputs, _tensors(stored, "output", model.graph.output)))
    return Case(suite, folder.name, model, folder, data)


def _tensors(folder: Path, stem: str, infos: Any) -> list[Any]:
    found: list[Any] = []
    for i in range(len(list(folder.glob(f"{stem}_*.pb")))):
        raw = (folder / f"{stem}_{i}.pb").read_bytes()
        kind = infos[i].type.WhichOneof("value")
        if kind == "sequence_type":
            found.append(numpy_helper.to_list(onnx.SequenceProto.FromString(raw)))
        elif kind == "optional_type":
            found.append(numpy_helper.to_optional(onnx.OptionalProto.FromString(raw)))
        else:
            found.append(onnx.TensorProto.FromString(raw))
    return found


def frozen(case: Case, keep: int) -> Case:
    """The case with its inputs made constants, but the first ``keep``: what constant folding gets to see."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    known = {t.name for t in model.graph.initializer}
    free = [i.name for i in model.graph.input if i.name not in known]
    (values, expected), *_ = case.data
    for name, value in list(zip(free, values, strict=False))[keep:]:
        tensor = model.graph.initializer.add()
        tensor.CopyFrom(_proto(value))
        tensor.name = name
        del model.graph.input[[i.name for i in model.graph.input].index(name)]
    model.ir_version = max(4, model.ir_version)
    return replace(case, model=model, data=[(values[:keep], expected)])


def _proto(value: Any) -> onnx.TensorProto:
    if isinstance(value, onnx.TensorProto):
        return value
    if not hasattr(value, "dtype"):
        raise ValueError("only tensors can be frozen")
    return numpy_helper.from_array(np.asarray(value))


def passes_checker(model: onnx.ModelProto, *, types: bool = False) -> bool:
    """Whether onnx's checker takes the model, with ``types`` its type inference as well."""
    try:
        onnx.checker.check_model(model, full_check=types)
    except Exception:
        return False
    return True
