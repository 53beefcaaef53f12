"""Fix named dimensions of the inputs to numbers the user gives.

    x: f32[batch,length,8]  ->  x: f32[1,length,8]            bind-dims{dims=["batch=1"]}

**Why** shapes that are known let shape arithmetic fold, and layouts and memory be planned. It is a promise of the
caller, so the pass is in no pipeline by itself.
**Needs** the exact names that the inputs' shapes use.
**Leaves** names that no input has (it says so).
**Numbers** exact for inputs of the promised shape; others are refused at run time.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.dims import Dim, SymDim
from ...ir.errors import PipelineError
from ...ir.graph import Model
from ...ir.infer import infer_model
from ...ir.types import substitute_dims
from ..core import Pass
from ..rewrite import Rewriter


@dataclass
class BindDims(Pass):
    """See the module."""

    dims: tuple[str, ...] = ()
    """``name=number`` each."""

    def run(self, model: Model, r: Rewriter) -> None:
        values = dict(_parsed(item) for item in self.dims)
        used = {n for v in model.graph.inputs for d in v.shape or () if isinstance(d, SymDim) for n in d.symbols()}
        missing = sorted(values.keys() - used)
        if missing:
            r.ctx.note(f"no input has a dimension named {', '.join(missing)}; they have {', '.join(sorted(used))}")
        bound: dict[str, Dim] = {name: size for name, size in values.items() if name in used}
        if not bound or not r.allow(next(iter(model.graph), model.graph.ret)):
            return
        for value in model.graph.inputs:
            value.type = substitute_dims(value.type, bound)
        for port in model.graph.ports:
            port.declared = substitute_dims(port.declared, bound)
        infer_model(model)
        r.changes += 1


def _parsed(item: str) -> tuple[str, int]:
    name, _, size = item.rpartition("=")
    if not name or not size.isdecimal():
        raise PipelineError(f"{item!r} is not name=number", where="bind-dims", help="for example: dims=[batch=1]")
    return name, int(size)
