"""Decompositions of ONNX Runtime's attention operators against its kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planish.backends.ort.session import Session
from planish.ir.builder import Builder
from planish.ir.dtypes import DType
from planish.ir.graph import Model
from planish.ir.verify import verify
from planish.passes.manager import Pipeline

MS = "com.microsoft"
F, INT = DType.F32, DType.I32


def weights(*shape: int, seed: int = 1) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * np.float32(0.5)


def multi_head(bias: bool, keep: bool, added: bool, cache: bool, scale: float | None) -> Model:
    b = Builder(opsets={"": 17, MS: 1})
    q, k, v = (b.input(n, F, (2, length, 8)) for n, length in (("q", 3), ("k", 5), ("v", 5)))
    past = [b.input(n, F, (2, 2, 4, 4)) for n in ("pk", "pv")] if cache else [None, None]
    total = 9 if cache else 5
    operands: list[Any] = [q, k, v, weights(24) if bias else None]
    operands += [b.input("keep", INT, (2, total)) if keep else None]
    operands += [b.input("mask", F, (2, 1, 3, total)) if added else None, *past]
    while operands[-1] is None:
        operands.pop()
    attrs: dict[str, Any] = {} if scale is None else {"scale": scale}
    outputs = 3 if cache else 1
    made = b.op("MultiHeadAttention", *operands, _domain=MS, num_heads=2, _outputs=outputs, **attrs)
    for i, value in enumerate(made if cache else [made]):
        b.output(value, f"y{i}")
    return b.model()


def packed(keep: bool) -> Model:
    b = Builder(opsets={"": 17, MS: 1})
    x = b.input("x", F, (2, 3, 6))
    operands = [x, weights(6, 24), weights(24), *([b.input("keep", INT, (2, 3))] if keep else [])]
    b.output(b.op("Attention", *operands, _domain=MS, num_heads=2), "y")
    return b.model()


def rotary(rank: int) -> Model:
    b = Builder(opsets={"": 17, MS: 1})
    x = b.input("x", F, (2, 3, 16) if rank == 3 else (2, 4, 3, 4))
    operands = [x, b.input("positions", DType.I64, (2, 3)), weights(10, 2), weights(10, 2, seed=2)]
    b.output(b.op("RotaryEmbedding", *operands, _domain=MS), "y")
    return b.model()


def embeddings(segments: bool) -> Model:
    b = Builder(opsets={"": 17, MS: 1})
    ids = b.input("ids", INT, (2, 3))
    kinds = [b.input("segments", INT, (2, 3)), weights(4, 8)] if segments else [None, None]
    operands = [ids, kinds[0], weights(10, 8), weights(6, 8, seed=2), kinds[1], weights(8, seed=3), weights(8, seed=4)]
    y, _ = b.op("EmbedLayerNormalization", *operands, _domain=MS, _outputs=2, epsilon=1e-5)
    b.output(y, "y")
    return b.model()


CASES: dict[str, Any] = {
    "multi-head": lambda: multi_head(False, False, False, False, None),
    "multi-head with bias": lambda: multi_head(True, False, False, False, 0.3),
    "multi-head with padding": lambda: multi_head(True, True, False, False, None),
    "multi-head with a mask": lambda: multi_head(False, False, True, False, None),
    "multi-head with a cache": lambda: multi_head(False, False, True, True, None),
    "packed": lambda: packed(False),
    "packed with padding": lambda: packed(True),
    "rotary, heads last": lambda: rotary(3),
    "rotary, heads first": lambda: rotary(4),
    "embeddings": lambda: embeddings(False),
    "embeddings with segments": lambda: embeddings(True),
}


def feeds(model: Model) -> dict[str, Any]:
    draw = np.random.default_rng(3)
    made: dict[str, Any] = {}
    for v in model.graph.inputs:
        shape = tuple(int(d) for d in v.shape or () if isinstance(d, int))
        if v.dtype is F:
            made[v.name] = draw.standard_normal(shape).astype(np.float32)
        elif v.name == "keep":
            made[v.name] = (np.arange(shape[1]) < np.array([[shape[1]], [shape[1] - 1]])).astype(np.int32)
        else:
            assert v.dtype is not None
            made[v.name] = draw.integers(0, 4, shape).astype(v.dtype.numpy)
    return made


@pytest.mark.parametrize("name", CASES)
def test_equation_agrees_with_the_kernel(name: str) -> None:
    before, after = CASES[name](), CASES[name]()
    Pipeline("expand-fused").run(after)
    verify(after)
    assert not any(node.domain for node in after.all_nodes()), str(after)
    given = feeds(before)
    for a, b in zip(Session(before).run(given), Session(after).run(given), strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= 64 * np.finfo(np.float32).eps * max(1.0, float(np.abs(a).max()))
