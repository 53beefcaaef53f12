"""The values inside a model for one sample: what a part of the model needs to run on its own."""

from __future__ import annotations

import numpy as np

from ...backends.core import Array, Sample
from ...backends.ort.session import Session
from ...ir.clone import clone_model
from ...ir.errors import BackendError
from ...ir.graph import Model, Port, Value
from ...ir.types import TensorType

CHUNK = 400
"""Values that are asked for in one run, so that a large model's fit into memory."""


def record(model: Model, sample: Sample) -> dict[Value, Array]:
    """The tensors that the main graph's nodes compute for ``sample``. Raises ``BackendError``.

    What is no tensor, or nothing uses, is left out.
    """
    wanted = [v for node in model.graph for v in node.outputs if v.uses and isinstance(v.type, TensorType)]
    found: dict[Value, Array] = {}
    for start in range(0, len(wanted), CHUNK):
        found.update(_record(model, sample, wanted[start : start + CHUNK]))
    return found


def _record(model: Model, sample: Sample, wanted: list[Value]) -> dict[Value, Array]:
    copy = clone_model(model)
    places = {v: (i, v.index) for i, node in enumerate(model.graph) for v in node.outputs}
    nodes = list(copy.graph)
    inner = [nodes[i].outputs[k] for i, k in (places[v] for v in wanted)]
    copy.graph.ret.set_inputs(inner)
    copy.graph.ports = [Port(f"inner{i}", v.type) for i, v in enumerate(inner)]
    outputs = Session(copy).run(sample)
    return {v: np.asarray(array) for v, array in zip(wanted, outputs, strict=True) if array is not None}


def try_record(model: Model, sample: Sample) -> dict[Value, Array]:
    """:func:`record`, or nothing where the runtime refuses so many outputs."""
    try:
        return record(model, sample)
    except BackendError:
        return {}
