"""The way to ONNX's own C++ rules, for operators that have no rule of ours (about 80 us a call, cached)."""

from __future__ import annotations

from collections import OrderedDict
from functools import cache
from typing import TYPE_CHECKING, Any

from ..constants import ArrayConstant, Constant
from ..dims import Dim, SymDim
from ..errors import ModelError
from ..graph import Attr, Graph, Node, Value
from ..onnx_proto import attr_to_proto, tensor_to_proto, type_from_proto, type_to_proto
from ..schema import STANDARD
from ..types import TensorType, Type
from .rules import Types, elements_of, mismatch

if TYPE_CHECKING:
    from onnx import TensorProto, TypeProto
    from onnx.defs import OpSchema

MAX_DATA = 1024
"""Constants of more elements are not shown to the rules: no shape depends on them."""
_CACHE: OrderedDict[Any, Types] = OrderedDict()
_CACHE_SIZE = 4096


@cache
def _schema(domain: str, op: str, version: int) -> tuple[OpSchema, int] | None:
    import onnx.defs

    version = version or onnx.defs.onnx_opset_version()
    try:
        return onnx.defs.get_schema(op, version, domain), version
    except onnx.defs.SchemaError:
        return None


def infer_with_onnx(node: Node) -> Types:
    """Types of the outputs by ONNX's rule; ``None`` where ONNX does not know the operator.

    Fails where the rule does and all operands' types are known and static: else a failure may only say that.
    """
    if node.domain not in STANDARD:
        return None
    found = _schema(node.domain, node.op, node.version)
    if found is None or any(_holds_body(a) for a in node.attrs.values()):
        return None
    key = _key(node)
    if key is not None:
        try:
            cached = _CACHE.get(key)
        except TypeError:
            key, cached = None, None
        if cached is not None:
            return cached
    types = _ask(node, *found)
    if key is not None:
        _CACHE[key] = types
        if len(_CACHE) > _CACHE_SIZE:
            _CACHE.popitem(last=False)
    return types


def _holds_body(attr: Attr) -> bool:
    return isinstance(attr, Graph) or (isinstance(attr, tuple) and any(isinstance(a, Graph) for a in attr))


def _data_of(value: Value) -> Constant | None:
    """The constant to show for an operand: its data, or its elements where all are plain integers."""
    if value.data is not None:
        return value.data if value.data.count <= MAX_DATA else None
    found = elements_of(value)
    if found is None or value.tensor is None or value.dtype is None or not all(type(d) is int for d in found):
        return None
    return ArrayConstant(_array(found, value))


def _array(found: tuple[Dim, ...], value: Value) -> Any:
    import numpy as np

    assert value.dtype is not None
    return np.array(found if value.rank else found[0], value.dtype.numpy)


def _key(node: Node) -> Any:
    """What the answer depends on; ``None`` where that is not cheap to compare."""
    attrs = node.attrs.values()
    if any(isinstance(a, Constant) or (isinstance(a, tuple) and a and isinstance(a[0], Constant)) for a in attrs):
        return None
    operands: list[Any] = []
    for value in node.inputs:
        data = _data_of(value) if value is not None else None
        operands.append(None if value is None else (value.type, None if data is None else data.digest()))
    return node.domain, node.op, node.version, tuple(sorted(node.attrs.items())), tuple(operands), len(node.outputs)


def _ask(node: Node, schema: OpSchema, version: int) -> Types:
    import onnx
    from onnx.checker import ValidationError
    from onnx.shape_inference import InferenceError, infer_node_outputs

    spelled: dict[str, Dim] = {}
    by_dim: dict[SymDim, str] = {}

    def spell(d: Dim) -> int | str | None:
        if not isinstance(d, SymDim):
            return d
        if d not in by_dim:
            by_dim[d] = f"planish.{len(by_dim)}"
            spelled[by_dim[d]] = d
        return by_dim[d]

    proto = onnx.NodeProto(op_type=node.op, domain=node.domain)
    types: dict[str, TypeProto] = {}
    data: dict[str, TensorProto] = {}
    complete = True
    for i, value in enumerate(node.inputs):
        name = "" if value is None else f"i{i}"
        proto.input.append(name)
        if value is None:
            continue
        known = value.type is not None and (value.tensor is None or value.dtype is not None)
        # Rules that count elements read a symbolic extent as 0 and then complain without reason.
        complete = complete and known and (value.tensor is None or value.tensor.is_static)
        # Rules take an empty message for "unknown" but refuse a tensor without element type.
        types[name] = type_to_proto(value.type if known else None, spell)
        constant = _data_of(value)
        if constant is not None:
            data[name] = tensor_to_proto(constant, name)
    proto.output.extend([f"o{i}" for i in range(len(node.outputs))])
    try:
        proto.attribute.extend([attr_to_proto(name, attr) for name, attr in node.attrs.items()])
    except ModelError as error:
        raise mismatch(node, error.message) from error
    imports = [onnx.OperatorSetIdProto(domain=node.domain, version=version)]
    try:
        found = infer_node_outputs(schema, proto, types, data, opset_imports=imports, ir_version=10)
    except (InferenceError, ValidationError, ValueError) as error:
        if not complete:
            return []
        text = str(error).replace("[ShapeInferenceError]", "").replace("[TypeInferenceError]", "")
        raise mismatch(node, " ".join(text.split())) from None
    out = [found.get(f"o{i}") for i in range(len(node.outputs))]
    return [None if p is None else _sound(node, type_from_proto(p, spelled.get)) for p in out]


def _sound(node: Node, t: Type | None) -> Type | None:
    """Some rules multiply extents and take a symbolic one for 0: such a 0 is believed only where all are integers."""
    if not isinstance(t, TensorType) or t.shape is None or 0 not in t.shape:
        return t
    if all(v is None or (v.tensor is not None and v.tensor.is_static) for v in node.inputs):
        return t
    return t.with_shape(tuple([None if d == 0 else d for d in t.shape]))
