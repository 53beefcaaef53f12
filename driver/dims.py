"""Fixing symbolic dimensions of a model's inputs."""

from __future__ import annotations

from collections.abc import Mapping

from ..ir.clone import clone_model
from ..ir.dims import Dim, SymDim
from ..ir.errors import UsageError
from ..ir.graph import Model
from ..ir.infer import infer_model
from ..ir.types import substitute_dims


def input_symbols(model: Model) -> list[str]:
    """Names of the symbols in the shapes of the main graph's inputs, sorted."""
    dims = (d for v in model.graph.inputs for d in v.shape or ())
    return sorted({name for d in dims if isinstance(d, SymDim) for name in d.symbols()})


def with_dims(model: Model, dims: Mapping[str, int]) -> Model:
    """A copy of ``model`` in which the symbols ``dims`` have these sizes, with types inferred anew.

    Raises ``UsageError`` for a symbol that no input has.
    """
    symbols = input_symbols(model)
    unknown = [name for name in dims if name not in symbols]
    if unknown:
        raise UsageError(
            f"the inputs have no dimension named {', '.join(unknown)}",
            where="dims",
            help=f"they have {', '.join(symbols) or 'fixed dimensions only'}",
        )
    fixed = clone_model(model)
    values: dict[str, Dim] = dict(dims)
    for value in fixed.graph.inputs:
        value.type = substitute_dims(value.type, values)
    for port in fixed.graph.ports:
        port.declared = substitute_dims(port.declared, values)
    infer_model(fixed)
    return fixed
