"""Every operator that fuses others: schema, types, cost, and a decomposition that computes what the kernel computes."""

from __future__ import annotations

import importlib
import random
from typing import Any

import numpy as np
import pytest

from planish.backends.ort.session import Session
from planish.ir.cost import bytes_moved, flops
from planish.ir.dims import evaluate
from planish.ir.dtypes import DType, from_numpy
from planish.ir.graph import Model, Node
from planish.ir.infer import infer_model
from planish.ir.infer.families import ROWS
from planish.ir.schema import schema
from planish.ir.types import TensorType
from planish.ir.verify import verify
from planish.passes.core import Context
from planish.passes.manager import Pipeline
from planish.passes.rewrite import NoMatch
from planish.passes.rewrite.rewriter import Rewriter
from planish.passes.shared.decompose import decompose
from planish.passes.shared.decompose_contrib import CONTRIB_EQUATIONS
from planish.passes.shared.whole_operators import CUDA_KERNELS, SINGLE, WHOLE

from .fused_cases import CASES, MS, Case

MOVES = ("Trilu", "GatherND", "Range", "Pad", "ExpandDims")
"""Operators that compute nothing."""
WITH_KERNEL = [case for case in CASES if case.want is None]


def node_of(model: Model, case: Case) -> Node:
    (node,) = (n for n in model.all_nodes() if n.op == case.op)
    return node


def expanded(case: Case, *, symbolic: bool = False) -> Model:
    model = case.model(symbolic=symbolic)
    Pipeline(f'expand-fused{{ops=["{case.key}"]}},expand-fused').run(model)
    return model


@pytest.mark.parametrize("case", CASES, ids=str)
def test_schema_and_cost(case: Case) -> None:
    node = node_of(case.model(), case)
    assert schema(node.domain, node.op, node.version) is not None
    operations = flops(node)
    assert isinstance(operations, int), "the number of operations is unknown although all extents are known"
    assert operations > 0 or case.op in MOVES
    assert isinstance(bytes_moved(node), int)


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("case", WITH_KERNEL, ids=str)
def test_types_are_those_of_the_runtime(case: Case, symbolic: bool) -> None:
    model = case.model(symbolic=symbolic)
    sizes = {f"s{d}": d for x in case.feeds().values() for d in x.shape}
    for value, actual in zip(model.graph.outputs, Session(case.model()).run(case.feeds()), strict=True):
        assert value.dtype is from_numpy(actual.dtype)
        assert value.shape is not None
        known = [evaluate(d, sizes) for d in value.shape]
        assert [k if k is not None else a for k, a in zip(known, actual.shape, strict=True)] == list(actual.shape)
        assert symbolic or None not in known, f"known only as {value.type}"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_decomposition_computes_the_same(case: Case) -> None:
    model = expanded(case)
    verify(model)
    assert all(not n.domain and (n.op != case.op or case.domain) for n in model.all_nodes()), str(model)
    want = case.want if case.want is not None else Session(case.model()).run(case.feeds())
    for a, b, value in zip(want, Session(model).run(case.feeds()), model.graph.outputs, strict=True):
        assert a.shape == b.shape
        assert value.shape == a.shape
        _same(case, np.asarray(a), np.asarray(b))


def _same(case: Case, a: Any, b: Any) -> None:
    if a.dtype.kind in "iu":
        assert np.abs(a.astype(np.int64) - b.astype(np.int64)).max() <= case.steps
    else:
        eps = float(np.finfo(np.float32).eps)
        assert np.abs(a - b).max() <= 64 * case.loose * eps * max(1.0, float(np.abs(a).max()))


# -- complete?

NAMED = (
    "FusedConv FusedMatMul FusedGemm Gelu BiasGelu FastGelu QuickGelu SkipLayerNormalization "
    "SkipSimplifiedLayerNormalization EmbedLayerNormalization Attention MultiHeadAttention GroupQueryAttention "
    "RotaryEmbedding NhwcFusedConv"
).split()


def cpu_kernels() -> set[str]:
    runtime: Any = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    rows: Any = runtime.get_all_opkernel_def()
    return {str(row.op_name) for row in rows if row.domain == MS}


def test_every_kernel_is_decomposed_or_listed_with_a_reason() -> None:
    equations = {op for domain, op in CONTRIB_EQUATIONS if domain == MS}
    known = equations | WHOLE.keys() | SINGLE
    assert {*cpu_kernels(), *CUDA_KERNELS, *NAMED} - known == set()
    assert set(NAMED) <= equations
    assert not equations & (WHOLE.keys() | SINGLE)
    assert not WHOLE.keys() & SINGLE
    assert {op for op in known if schema(MS, op, 1) is None} == set()


def test_every_equation_has_a_case_against_the_kernel() -> None:
    assert {(c.domain, c.op) for c in CASES} >= CONTRIB_EQUATIONS.keys()
    kernels = cpu_kernels()
    assert all(c.op not in kernels for c in CASES if c.want is not None and c.domain == MS)


@pytest.mark.parametrize("op", sorted(WHOLE))
def test_operators_that_stay_whole_have_types_or_a_default(op: str) -> None:
    """A rule where the number and size of results follow from operands; else element types by the schema."""
    untyped = {"AttnLSTM", "BeamSearch", "GreedySearch", "Sampling", "WhisperBeamSearch", "WordConvEmbedding"}
    if op in cpu_kernels() and op not in untyped:
        assert (MS, op) in ROWS
    with pytest.raises(NoMatch, match="stays whole"):
        decompose(Rewriter(Context()), Node(op, (), {}, domain=MS, outputs=1))


ODD: list[Any] = [0, -1, 7, 10**12, -(2**63), 1.5, "x", (), (1,), (0, 0, 0), (1.5,), (-1, -1, 5)]
ODD_TYPES = [
    None,
    TensorType(None),
    TensorType(DType.I64, ()),
    TensorType(DType.F32, (0,)),
    TensorType(DType.F32, (3,) * 9),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_broken_nodes_end_in_a_message(case: Case) -> None:
    """Types and costs of damaged nodes: an error of ours or nothing, never another one."""
    draw = random.Random(str(case))
    for _ in range(12):
        model = case.model(symbolic=draw.random() < 0.5)
        node = node_of(model, case)
        kind = draw.randrange(4)
        if kind == 0 and node.attrs:
            node.attrs[draw.choice(list(node.attrs))] = draw.choice(ODD)
        elif kind == 1 and node.attrs:
            node.attrs.pop(draw.choice(list(node.attrs)))
        elif kind == 2 and model.graph.inputs:
            draw.choice(model.graph.inputs).type = draw.choice(ODD_TYPES)
        else:
            node.set_input(draw.randrange(len(node.inputs)), None)
        for error in infer_model(model):
            assert error.help
        flops(node)
        bytes_moved(node)
