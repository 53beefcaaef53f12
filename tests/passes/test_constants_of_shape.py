"""The classic networks of onnx's own test data, whose weights are ConstantOfShape nodes: weights like any others."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from planish.ir import model_to_bytes, read_model
from planish.models.zoo import get
from planish.passes.core import Context
from planish.passes.manager import Pipeline
from planish.passes.target import TARGETS


@pytest.mark.parametrize(
    ("name", "nodes", "left"),
    [
        ("resnet50", 123, {"Conv": 53}),
        ("shufflenet", 154, {"Conv": 49}),
        ("densenet121", 367, {"Conv": 121, "BatchNormalization": 62}),  # behind a Concat none can be folded
    ],
)
def test_fusions_take_them_and_files_do_not_grow(name: str, nodes: int, left: dict[str, int]) -> None:
    path = get(f"light_{name}").path()
    model = read_model(path)
    Pipeline("default").run(model, Context(target=TARGETS["x86-64-v3"]))
    ops = Counter(node.op for node in model.graph)
    assert ops["ConstantOfShape"] == ops["Unsqueeze"] == 0
    assert {op: ops[op] for op in ("Conv", "BatchNormalization") if ops[op]} == left
    assert len(model.graph) <= nodes
    written = model_to_bytes(model)
    assert len(written) < path.stat().st_size
    back = read_model(written)
    Pipeline("clean").run(back)
    assert len(back.graph) == len(model.graph)  # what was written as nodes are constants again
    for a, b in zip(model.graph, back.graph, strict=True):
        for x, y in zip(a.inputs, b.inputs, strict=True):
            if x is not None and x.data is not None:
                assert y is not None
                assert y.data is not None
                assert np.array_equal(x.data.numpy(), y.data.numpy())
