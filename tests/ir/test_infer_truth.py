"""Inference against the truth: ONNX's own test models, ONNX's C++ rules, and every tensor of real models."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from planish.ir.constants import ArrayConstant
from planish.ir.dims import Dim, SymDim, evaluate, symbol
from planish.ir.dtypes import from_numpy
from planish.ir.errors import ModelError
from planish.ir.graph import Graph, Model
from planish.ir.infer import infer_model
from planish.ir.infer.families import ROWS
from planish.ir.infer.onnx_rules import infer_with_onnx
from planish.ir.onnx_proto import tensor_from_proto
from planish.ir.onnx_reader import read_model
from planish.ir.types import OptionalType, SequenceType, TensorType, Type, type_text

MODES = ("as declared", "constant inputs", "symbolic inputs", "symbolic inputs, constant vectors")
KNOWN_SHARE = {"as declared": 0.83, "constant inputs": 0.95, "symbolic inputs": 0.81, MODES[3]: 0.92}
"""Least share of outputs known in full (measured, rounded down): less is a rule lost."""


@cache
def cases() -> list[Any]:
    from onnx.backend.test.case.node import collect_testcases

    return collect_testcases(None)


def array(item: Any) -> np.ndarray[Any, Any]:
    return tensor_from_proto(item).numpy() if isinstance(item, onnx.TensorProto) else np.asarray(item)


def complaint(t: Type | None, item: Any, sizes: dict[str, int]) -> tuple[str, bool]:
    """What the type says that is not so (empty: nothing), and whether it says everything."""
    if t is None or item is None:
        return "", False
    if isinstance(t, SequenceType):
        found = [complaint(t.element, x, sizes) for x in item]
        return "; ".join(c for c, _ in found if c), all(full for _, full in found)
    if isinstance(t, OptionalType):
        return complaint(t.element, item, sizes)
    assert isinstance(t, TensorType)
    if isinstance(item, list):
        return f"{t} is a list", False
    actual = array(item)
    if t.dtype is not None and from_numpy(actual.dtype) is not t.dtype:
        return f"{t} is {actual.dtype}", False
    if t.shape is None:
        return "", False
    dims = [evaluate(d, sizes) for d in t.shape]
    if len(dims) != actual.ndim or any(d not in (None, e) for d, e in zip(dims, actual.shape, strict=True)):
        return f"{t} is {list(actual.shape)}", False
    return "", None not in dims and t.dtype is not None


def prepare(model: Model, inputs: list[Any], mode: str) -> dict[str, int]:
    """Makes inputs constant or symbolic; returns what the symbols stand for."""
    sizes: dict[str, int] = {}
    for value, item in zip(model.graph.inputs, inputs, strict=False):
        if value.tensor is None or isinstance(item, list) or item is None:
            continue
        actual = array(item)
        if mode == MODES[1] or (mode == MODES[3] and actual.ndim <= 1):
            value.data = ArrayConstant(actual)
            value.type = value.data.type
        elif mode in MODES[2:]:
            value.type = TensorType(value.dtype, tuple(symbol(f"s{d}") if d > 1 else d for d in actual.shape))
            sizes |= {f"s{d}": d for d in actual.shape}
    return sizes


@pytest.mark.parametrize("mode", MODES)
def test_node_tests(mode: str) -> None:
    """No contradiction is seen in any of ONNX's models, and what is inferred is what comes out."""
    wrong: list[str] = []
    full: list[bool] = []
    for case in cases():
        model = read_model(case.model, infer=False)
        inputs, outputs = case.data_sets[0]
        sizes = prepare(model, inputs, mode)
        wrong += [f"{case.name}: {e.message}" for e in infer_model(model)]
        for value, item in zip(model.graph.outputs, outputs, strict=True):
            found, all_known = complaint(value.type, item, sizes)
            full.append(all_known)
            if found:
                wrong.append(f"{case.name}: {found}")
            if value.known is not None:
                items = array(item).reshape(-1).tolist()
                known = [evaluate(d, sizes) for d in value.known]
                if any(k not in (None, i) for k, i in zip(known, items, strict=True)):
                    wrong.append(f"{case.name}: {known} is {items}")
    assert not wrong, "\n".join(wrong)
    assert sum(full) / len(full) >= KNOWN_SHARE[mode]


# Where ONNX's rule is wrong: STFT ignores that one-sided is the default.
WRONG_IN_ONNX = {"STFT"}


def test_rows_agree_with_onnx() -> None:
    """Where a rule of ours and ONNX's both know an element type or an extent, they agree; ours knows as much."""
    wrong: list[str] = []
    for case in cases():
        model = read_model(case.model, infer=False)
        prepare(model, case.data_sets[0][0], MODES[1])
        infer_model(model)
        for node in model.graph:
            if (node.domain, node.op) not in ROWS or node.op in WRONG_IN_ONNX:
                continue
            try:
                theirs = infer_with_onnx(node) or []
            except ModelError:
                continue  # it wants Range's operands to be scalars, where every runtime takes one element
            for value, other in zip(node.outputs, theirs, strict=False):
                ours = value.type
                if isinstance(other, TensorType) and not at_least(ours, other):
                    wrong.append(f"{case.name}: {node.op}: ours {type_text(ours)}, ONNX's {other}")
    assert not wrong, "\n".join(wrong)


def at_least(ours: Type | None, theirs: TensorType) -> bool:
    """Whether ours says all that theirs says."""
    if not isinstance(ours, TensorType) or (theirs.dtype is not None and ours.dtype is not theirs.dtype):
        return False
    if theirs.shape is None:
        return True
    if ours.shape is None or len(ours.shape) != len(theirs.shape):
        return False
    return all(not isinstance(t, int) or o == t for o, t in zip(ours.shape, theirs.shape, strict=True))


# -- real models, every tensor


def packaged(package: str, path: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    found = Path(next(iter(spec.submodule_search_locations))) / path
    return found if found.exists() else None


REAL = [
    ("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx", [(2, 3, 48, 192)], 0.95),
    ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx", [(1, 3, 96, 64)], 0.9),
    ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx", [(2, 3, 48, 160)], 0.9),
    ("magika", "models/standard_v3_3/model.onnx", [(3, 2048)], 0.95),
    ("nudenet", "320n.onnx", [(1, 3, 320, 320)], 0.8),
    ("basic_pitch", "saved_models/icassp_2022/nmp.onnx", [(2, 43844, 1)], 0.95),
    ("onnx", "backend/test/data/light/light_shufflenet.onnx", [(1, 3, 224, 224)], 0.95),
]


@pytest.mark.parametrize(("package", "path", "shapes", "least"), REAL, ids=[Path(r[1]).stem for r in REAL])
def test_every_tensor_of_real_models(
    package: str, path: str, shapes: list[tuple[int, ...]], least: float, record_property: Any
) -> None:
    """Types and known elements against what ONNX Runtime computes, for inputs of one size."""
    file = packaged(package, path)
    if file is None:
        pytest.skip(f"{package} is not installed")
    model = read_model(file)
    assert infer_model(model) == []
    feeds: dict[str, Any] = {}
    sizes: dict[str, int] = {}
    for value, shape in zip(model.graph.inputs, shapes, strict=True):
        assert value.dtype is not None
        assert value.shape is not None
        feeds[value.name] = np.ones(shape, value.dtype.numpy)
        sizes |= {d.name: n for d, n in zip(value.shape, shape, strict=True) if isinstance(d, SymDim) and d.name}
    actual = run_all(file, feeds, model.graph)
    wrong: list[str] = []
    full = 0
    for node in model.graph:
        for value in node.outputs:
            if value.name not in actual:
                continue
            found, all_known = complaint(value.type, actual[value.name], sizes)
            full += all_known
            known: list[Dim] = [evaluate(d, sizes) for d in value.known or ()]
            items = actual[value.name].reshape(-1).tolist()
            if value.known is not None and any(k not in (None, i) for k, i in zip(known, items, strict=True)):
                found = f"{known} is {items}"
            if found:
                wrong.append(f"{node.op} %{value.name}: {found}")
    assert not wrong, "\n".join(wrong)
    record_property("share_known", full / len(actual))
    assert full / len(actual) >= least


def run_all(file: Path, feeds: dict[str, Any], graph: Graph) -> dict[str, Any]:
    """All tensors of the main graph, without optimizations."""
    import onnxruntime

    proto = onnx.load(file)
    names = [v.name for n in graph for v in n.outputs if v.name]
    stated = {o.name for o in proto.graph.output}
    proto.graph.output.extend([onnx.ValueInfoProto(name=n) for n in names if n not in stated])
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    produced = {n for node in proto.graph.node for n in node.output}
    wanted = [n for n in names if n in produced]
    return dict(zip(wanted, session.run(wanted, feeds), strict=True))
