"""Type rules of elementwise operators, and of all others whose result is like their first operand."""

from __future__ import annotations

from ..dims import Shape
from ..dtypes import BY_CODE, DType
from ..graph import Node
from ..types import TensorType, Type
from .rules import Types, axis_of, broadcast, common_dtype, dtype_of, fail, plain, row, shape_of, tensor, version

_SAME = (
    "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Ceil Celu Clip Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid "
    "HardSwish LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign "
    "Sqrt Swish Tan Tanh ThresholdedRelu LRN MeanVarianceNormalization InstanceNormalization GroupNormalization Trilu "
    "ReverseSequence Scatter ScatterElements ScatterND CumSum CumProd RotaryEmbedding"
)


@row(*_SAME.split())
def like_first(node: Node) -> Types:
    """All outputs are like the first operand."""
    value = node.inputs[0]
    return [plain(value.type) if value is not None else None] * len(node.outputs)


@row("Softmax", "LogSoftmax", "Hardmax", "LpNormalization")
def like_first_along_axis(node: Node) -> Types:
    found = tensor(node, 0)
    axis = node.attrs.get("axis")
    if found is not None and found.shape is not None and isinstance(axis, int) and (found.shape or axis not in (0, -1)):
        axis_of(node, axis, len(found.shape) + (version(node) < 13 and node.op != "LpNormalization"))
    return [found] * len(node.outputs)


@row("Identity")
def identity(node: Node) -> Types:
    value = node.inputs[0]
    if value is None:
        return [None]
    return [plain(value.type) if type(value.type) is TensorType else value.type]


@row("IsInf", "IsNaN")
def predicate(node: Node) -> Types:
    return [TensorType(DType.BOOL, shape_of(node, 0))]


def _result(node: Node, dtype: DType | None) -> Types:
    """A binary operator's result with broadcasting, which before version 7 only the second operand took part in."""
    a = shape_of(node, 0)
    shape = a if version(node) < 7 else broadcast(node, a, shape_of(node, 1))
    return [TensorType(dtype, shape)]


@row("Add", "Sub", "Mul", "Div", "And", "Or", "Xor", "Mod", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitShift")
def binary(node: Node) -> Types:
    a, b = node.inputs
    first = plain(a.type) if a is not None else None
    second = plain(b.type) if b is not None else None
    if first is not None and second is not None and first.dtype is second.dtype and first.shape is not None:
        # The common cases, without making a new type.
        if first.shape == second.shape or second.shape == () or version(node) < 7:
            return [first]
        if first.shape == ():
            return [second]
    return _result(node, common_dtype(node, 0, 1))


@row("Pow")
def power(node: Node) -> Types:
    return _result(node, dtype_of(node, 0))


@row("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
def comparison(node: Node) -> Types:
    common_dtype(node, 0, 1)
    return _result(node, DType.BOOL)


@row("PRelu")
def prelu(node: Node) -> Types:
    """The slope broadcasts one way: the result is like the data."""
    common_dtype(node, 0, 1)
    return [tensor(node, 0)]


@row("Max", "Min", "Sum", "Mean")
def variadic(node: Node) -> Types:
    shape = shape_of(node, 0)
    for i in range(1, len(node.inputs)):
        shape = broadcast(node, shape, shape_of(node, i))
    return [TensorType(common_dtype(node, *range(len(node.inputs))), shape)]


@row("Where")
def where(node: Node) -> Types:
    condition = dtype_of(node, 0)
    if condition is not None and condition is not DType.BOOL:
        fail(node, f"condition has element type {condition.text}, expected bool")
    shape: Shape | None = broadcast(node, shape_of(node, 1), shape_of(node, 2))
    return [TensorType(common_dtype(node, 1, 2), broadcast(node, shape_of(node, 0), shape))]


_ALIASES = {"FLOAT": DType.F32, "DOUBLE": DType.F64, "STRING": DType.STRING}
_OLD_NAMES = {**{d.numpy_name.upper(): d for d in DType}, **_ALIASES}
"""Element types by name, as version 1 of Cast spells them."""


def dtype_attr(node: Node, name: str, default: DType | None = None) -> DType | None:
    """The element type that attribute ``name`` states (a code; a name in version 1), else ``default``."""
    code = node.attrs.get(name)
    if code is None:
        return default
    found = _OLD_NAMES.get(code) if isinstance(code, str) else BY_CODE.get(code) if isinstance(code, int) else None
    if found is None and code != 0 and isinstance(code, (int, str)):
        fail(node, f"attribute {name} is {code!r}, expected the code of an element type")
    return found if found is not None else default


@row("Cast")
def cast(node: Node) -> Types:
    return [TensorType(dtype_attr(node, "to"), shape_of(node, 0))]


@row("CastLike")
def cast_like(node: Node) -> Types:
    return [TensorType(dtype_of(node, 1), shape_of(node, 0))]


@row("RandomNormalLike", "RandomUniformLike", "Bernoulli", "EyeLike")
def like_with_dtype(node: Node) -> Types:
    return [TensorType(dtype_attr(node, "dtype", dtype_of(node, 0)), shape_of(node, 0))]


@row("Dropout")
def dropout(node: Node) -> Types:
    """The mask is boolean since version 10, before it was like the data."""
    data = tensor(node, 0)
    mask: Type | None = data
    if data is not None and version(node) >= 10:
        mask = TensorType(DType.BOOL, data.shape)
    return [data, mask]
