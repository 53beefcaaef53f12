"""What a runtime demands of a quantized model, as data: types, granularity, the operators it runs on integers.

A *unit* is an operator with DequantizeLinear on its operands and QuantizeLinear on its results, which the runtime turns
into one integer kernel. Where a unit's form is not met the runtime computes in floats and the pairs only cost time.
``rules_for`` gives the rules of a target; the values come from the runtimes' sources and documents, those of ONNX
Runtime re-tested against version 1.31 (``tests/quantize/test_rules.py``, ``tests/backends/test_lint.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType

from ....ir.dtypes import DType
from ...target import Target

F8, F8_WIDE = DType.F8E4M3FN, DType.F8E5M2
U8, I8, U16, I16, U4, I4, I32 = DType.U8, DType.I8, DType.U16, DType.I16, DType.U4, DType.I4, DType.I32


class Output(Enum):
    """Whether a unit's result is quantized."""

    REQUIRED = "required"
    """Without a QuantizeLinear behind it the node stays in floats."""
    OPTIONAL = "optional"
    """An integer kernel exists with and without."""
    FLOAT = "float"
    """The result stays float: the runtime's kernel gives floats, or fuses best so."""


class Role(Enum):
    """What an operand of a unit is; operands beyond the listed ones repeat the last role of a variadic operator."""

    DATA = "data"
    """An activation (or a constant in its place), with the activation type, one scale for the tensor."""
    WEIGHT = "weight"
    """The weight: constant, with the weight type; per channel where ``channel_axis`` says."""
    BIAS = "bias"
    """int32 with scale ``s_x * s_w`` and zero point 0 where ``QuantRules.bias`` is int32, else float."""
    PLAIN = "plain"
    """Not quantized: indices, conditions, shapes, scales."""


@dataclass(frozen=True)
class UnitRule:
    """How one operator is quantized."""

    roles: tuple[Role, ...]
    output: Output = Output.REQUIRED
    equal: bool = False
    """Input and output must have the same type, scale and zero point: the node moves data."""
    variadic: bool = False
    channel_axis: int | None = None
    """Axis of the weight that may have a scale per channel; negative counts from the end; ``None``: per tensor only.
    Gemm with ``transB`` turns it: see ``weight_channel_axis``."""
    wide: bool = False
    """Whether 16-bit activations are computed on integers too."""
    narrow_weights: bool = False
    """Whether 4-bit weights are allowed beside integer activations."""
    since: int = 0
    """Standard opset from which the runtime forms the unit."""
    positive_scale: bool = False
    """Order matters (maxima): scale positive, constant, one per tensor."""
    weight_constant: bool = True
    """Whether the operand in the weight's place must be constant."""
    fixed: tuple[float, int, float, int] | None = None
    """Scale and zero point the runtime wants of an 16-bit result: unsigned pair, then signed pair."""


@dataclass(frozen=True)
class QuantRules:
    """The demands of one runtime on one kind of machine."""

    name: str
    activations: tuple[DType, ...] = ()
    """Types of activations the integer kernels take, best first; empty: activations stay float."""
    weights: tuple[DType, ...] = ()
    """Types of weights beside integer activations, best first."""
    pairs: frozenset[tuple[DType, DType]] = frozenset()
    """Types of (activation, weight) that have an integer kernel."""
    symmetric_activations: bool = False
    """Zero points of activations must be 0 (in the middle of an unsigned type)."""
    symmetric_weights: bool = True
    """Zero points of weights must be 0 (in the middle of an unsigned type): required, or much faster."""
    reduced_weights: bool = False
    """Kernels add pairs of u8 x s8 products in saturating 16 bits: s8 weights beside u8 activations keep to 7 bits,
    [-64, 64]; u8 x u8 and s8 x s8 are exact."""
    per_channel_activations: bool = False
    bias: DType | None = I32
    """int32 where a bias is an operand of the integer kernel, ``None`` where it stays float."""
    units: Mapping[str, UnitRule] = field(default_factory=lambda: MappingProxyType({}))
    """Operators of the default domain that run on integers."""
    fused_activations: frozenset[str] = frozenset()
    """Between an operator and its QuantizeLinear, absorbed by its range: no pair in front of them."""
    quantize_results: bool = True
    """Whether results of products are quantized by themselves; else only where the next consumer is a unit."""
    weight_only: frozenset[DType] = frozenset()
    """Types of weights beside float activations that the runtime computes without spreading them out."""
    weight_only_blocks: tuple[int, ...] = ()
    """Sizes of blocks along the inner dimension that such weights may have, best first; empty: per channel only."""
    native_opset: Mapping[DType, int] = field(default_factory=lambda: MappingProxyType({}))
    """Standard opset from which QuantizeLinear takes a type; older models need the ``com.microsoft`` form."""
    contrib_pairs: bool = False
    """Whether ``com.microsoft`` QuantizeLinear and DequantizeLinear exist for types the opset lacks."""
    static_shapes: bool = False
    """Every extent must be a number."""
    smallest_range: float = 0.0
    """Least real width of a quantized range."""
    takes_pairs: bool = True
    """Whether the model takes pairs of QuantizeLinear and DequantizeLinear at all; else weights only."""
    notes: tuple[str, ...] = ()

    def unit(self, op: str, opset: int = 26) -> UnitRule | None:
        """The rule of operator ``op`` of the default domain in a model of that opset; ``None``: it stays float."""
        rule = self.units.get(op)
        return rule if rule is not None and opset >= rule.since else None

    def takes(self, activation: DType, weight: DType) -> bool:
        """Whether a product of that activation and weight type has an integer kernel."""
        return (activation, weight) in self.pairs

    def is_movement(self, op: str) -> bool:
        """Whether parameters before and behind ``op`` must be equal."""
        rule = self.units.get(op)
        return rule is not None and rule.equal


def role_of(rule: UnitRule, index: int) -> Role:
    """The role of operand ``index``."""
    if index < len(rule.roles):
        return rule.roles[index]
    return rule.roles[-1] if rule.variadic else Role.PLAIN


def weight_channel_axis(op: str, rule: UnitRule, rank: int, *, transposed: bool = False) -> int | None:
    """Axis (0 <= axis < rank) along which the weight of ``op`` may have a scale per channel.

    ``transposed`` is Gemm's ``transB``.
    """
    axis = rule.channel_axis
    if axis is None:
        return None
    if op == "Gemm" and transposed:
        return 0
    return axis % rank


_D, _W, _B, _P = Role.DATA, Role.WEIGHT, Role.BIAS, Role.PLAIN

_MOVES = UnitRule((_D,), equal=True, wide=True)
_ORT_MOVEMENT = ("Expand", "Flatten", "Gather", "GatherElements", "Reshape", "Slice", "Squeeze", "Tile", "Transpose")
_ORT_CPU_UNITS: Mapping[str, UnitRule] = MappingProxyType(
    dict.fromkeys((*_ORT_MOVEMENT, "Unsqueeze", "Split"), _MOVES)
    | {
        "Resize": UnitRule((_D,), equal=True),
        "MaxPool": UnitRule((_D,), equal=True, since=12, positive_scale=True),
        "ReduceMax": UnitRule((_D,), equal=True, positive_scale=True),
        "ReduceMin": UnitRule((_D,), equal=True, positive_scale=True),
        "ArgMax": UnitRule((_D,), output=Output.FLOAT),
        "Conv": UnitRule((_D, _W, _B), channel_axis=0),
        "MatMul": UnitRule((_D, _W), output=Output.OPTIONAL, channel_axis=-1, weight_constant=False),
        "Gemm": UnitRule((_D, _W, _B), output=Output.OPTIONAL, channel_axis=-1, weight_constant=False),
        "Add": UnitRule((_D, _D)),
        "Mul": UnitRule((_D, _D)),
        "Where": UnitRule((_P, _D, _D)),
        "Concat": UnitRule((_D,), variadic=True),
        "AveragePool": UnitRule((_D,)),
        "GlobalAveragePool": UnitRule((_D,)),
        "LeakyRelu": UnitRule((_D,)),
        "Sigmoid": UnitRule((_D,)),
        "Softmax": UnitRule((_D,)),
    }
)
_OPSETS: Mapping[DType, int] = MappingProxyType(
    {U8: 10, I8: 10, U16: 21, I16: 21, U4: 21, I4: 21, DType.U2: 25, DType.I2: 25}
)
_ORT_X86 = QuantRules(
    "ort-x86",
    activations=(U8,),
    weights=(I8, U8),
    # s8 activations are rewritten to u8 by the runtime itself; s8 x s8 is several times slower than floats here.
    pairs=frozenset({(U8, I8), (U8, U8)}),
    reduced_weights=True,
    units=_ORT_CPU_UNITS,
    fused_activations=frozenset({"Relu", "Clip"}),
    weight_only=frozenset({U4, I4, U8, I8, DType.U2, DType.I2}),
    weight_only_blocks=(32, 64, 128, 16, 256),
    native_opset=_OPSETS,
    contrib_pairs=True,
)
_ORT_CUDA = replace(
    _ORT_X86,
    name="ort-cuda",
    activations=(),
    weights=(),
    pairs=frozenset(),
    reduced_weights=False,
    units=MappingProxyType({}),
    bias=None,
    weight_only=frozenset({U4, I4, U8, I8}),
    # Kernels by docs/OperatorKernels.md of ONNX Runtime: QuantizeLinear, DequantizeLinear, MatMulInteger, MatMulNBits,
    # GatherBlockQuantized; no QLinearConv, no QLinearMatMul, no QGemm.
    notes=(
        "the CUDA provider turns no pairs into integer products, so INT8 would only cost time there; quantize weights "
        "(MatMulNBits), or export for TensorRT, which does INT8 on such processors",
    ),
)

_TRT_PRODUCT = Output.FLOAT
_PRODUCT_UNITS = {
    "Conv": UnitRule((_D, _W, _P), output=_TRT_PRODUCT, channel_axis=0),
    "ConvTranspose": UnitRule((_D, _W, _P), output=_TRT_PRODUCT, channel_axis=1),
    "Gemm": UnitRule((_D, _W, _P), output=_TRT_PRODUCT, channel_axis=-1, weight_constant=False),
    "MatMul": UnitRule((_D, _W), output=_TRT_PRODUCT, channel_axis=-1, weight_constant=False),
}
_FLOAT8 = QuantRules(
    "float8",
    activations=(F8, F8_WIDE),
    weights=(F8, F8_WIDE),
    pairs=frozenset((a, w) for a in (F8, F8_WIDE) for w in (F8, F8_WIDE)),
    symmetric_activations=True,
    bias=None,
    units=MappingProxyType(_PRODUCT_UNITS),
    quantize_results=False,
    native_opset=MappingProxyType({F8: 19, F8_WIDE: 19}),
)
"""Operands of products in float8, as accelerators that multiply it want them; everything else stays as it is."""
_TENSORRT = QuantRules(
    "tensorrt",
    activations=(I8, F8),
    weights=(I8, F8),
    pairs=frozenset({(I8, I8), (F8, F8)}),
    symmetric_activations=True,
    bias=None,
    units=MappingProxyType(
        _PRODUCT_UNITS
        | {
            "Add": UnitRule((_P, _D), output=_TRT_PRODUCT),
            "Concat": UnitRule((_D,), output=_TRT_PRODUCT, equal=True, variadic=True),
        }
    ),
    fused_activations=frozenset({"Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSwish", "Tanh", "BatchNormalization"}),
    quantize_results=False,
    weight_only=frozenset({I4}),
    weight_only_blocks=(128, 64),
    native_opset=_OPSETS,
    notes=("zero points must be 0 and scales positive constants: the importer refuses the model otherwise",),
)

_OV_MOVEMENT = (
    *("DepthToSpace", "Flatten", "Gather", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"),
    *("MaxPool", "ReduceMax", "ReduceMin", "Resize"),
)
_OPENVINO = QuantRules(
    "openvino",
    activations=(U8, I8),
    weights=(I8,),
    pairs=frozenset({(U8, I8), (I8, I8)}),
    bias=None,
    units=MappingProxyType(
        dict.fromkeys(_OV_MOVEMENT, UnitRule((_D,), equal=True))
        | {
            "Conv": UnitRule((_D, _W, _P), output=Output.OPTIONAL, channel_axis=0),
            "ConvTranspose": UnitRule((_D, _W, _P), output=Output.OPTIONAL, channel_axis=1),
            "MatMul": UnitRule((_D, _W), output=Output.OPTIONAL, channel_axis=-1, weight_constant=False),
            "Gemm": UnitRule((_D, _W, _P), output=Output.OPTIONAL, channel_axis=-1, weight_constant=False),
            "Add": UnitRule((_D, _D), output=Output.OPTIONAL),
            "Mul": UnitRule((_D, _D), output=Output.OPTIONAL),
            "Concat": UnitRule((_D,), output=Output.OPTIONAL, variadic=True),
            "AveragePool": UnitRule((_D,), output=Output.OPTIONAL),
            "GlobalAveragePool": UnitRule((_D,), output=Output.OPTIONAL),
        }
    ),
    fused_activations=frozenset({"Relu", "Clip", "PRelu", "LeakyRelu"}),
    quantize_results=False,
    weight_only=frozenset({I8, U8, I4, U4}),
    weight_only_blocks=(128, 64, 32),
    native_opset=_OPSETS,
)

_QNN_MOVEMENT = (*_ORT_MOVEMENT, "Unsqueeze", "DepthToSpace", "SpaceToDepth", "MaxPool", "Resize", "Split")
_QNN_UNARY = (
    *("AveragePool", "GlobalAveragePool", "LeakyRelu", "Relu", "Softmax", "Sqrt", "ReduceMean", "ReduceSum"),
    *("ReduceMax", "ReduceMin", "HardSwish", "Gelu", "Elu", "Clip", "Pad"),
)
_QNN = QuantRules(
    "qnn",
    activations=(U8, U16),
    weights=(I8, U8, I4),
    pairs=frozenset({(U8, U8), (U8, I8), (U16, U8), (U16, I8), (U16, I4)}),
    bias=I32,
    units=MappingProxyType(
        dict.fromkeys(_QNN_MOVEMENT, _MOVES)
        | {
            "Conv": UnitRule((_D, _W, _B), channel_axis=0, wide=True, narrow_weights=True),
            "ConvTranspose": UnitRule((_D, _W, _B), channel_axis=1, wide=True),
            "MatMul": UnitRule((_D, _W), wide=True, weight_constant=False),
            "Gemm": UnitRule((_D, _W, _B), wide=True, weight_constant=False),
            "LayerNormalization": UnitRule((_D, _W, _B), wide=True),
            "InstanceNormalization": UnitRule((_D, _W, _B), wide=True),
            "BatchNormalization": UnitRule((_D, _W, _B, _D, _D), wide=True),
            "Where": UnitRule((_P, _D, _D), wide=True),
            "Concat": UnitRule((_D,), variadic=True, wide=True),
            "Sigmoid": UnitRule((_D,), wide=True, fixed=(1 / 65536, 0, 1 / 32768, 0)),
            "Tanh": UnitRule((_D,), wide=True, fixed=(1 / 32768, 32768, 1 / 32768, 0)),
        }
        | dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow"), UnitRule((_D, _D), wide=True))
        | dict.fromkeys(_QNN_UNARY, UnitRule((_D,), wide=True))
    ),
    fused_activations=frozenset({"Relu", "Clip"}),
    native_opset=_OPSETS,
    contrib_pairs=True,
    static_shapes=True,
    smallest_range=1e-4,
    notes=(
        "with 16-bit activations the constant operand of MatMul and LayerNormalization keeps 8 bits",
        "MatMul and Gemm have one scale for the whole weight",
    ),
)

_COREML = QuantRules(
    "coreml",
    bias=None,
    weights=(),
    weight_only=frozenset({I8, I4}),
    weight_only_blocks=(32, 64),
    native_opset=_OPSETS,
    takes_pairs=False,
    notes=("ONNX Runtime's Core ML provider takes no pairs: nodes with them run on the processor",),
)

RULES: Mapping[str, QuantRules] = MappingProxyType(
    {
        r.name: r
        for r in (
            _ORT_X86,
            replace(_ORT_X86, name="ort-x86-vnni", reduced_weights=False),
            replace(
                _ORT_X86,
                name="ort-arm",
                activations=(I8, U8),
                pairs=frozenset({(I8, I8), (U8, I8), (U8, U8)}),
                reduced_weights=False,
            ),
            _ORT_CUDA,
            _TENSORRT,
            _OPENVINO,
            _QNN,
            _COREML,
        )
    }
)


def rules_for(target: Target, storage: DType | None = None) -> QuantRules:
    """The rules of ``target``; machines of unknown kind get those of x86 without VNNI, right everywhere. ``storage``:
    of activations, where it is known: float8 has rules of its own."""
    if storage in (F8, F8_WIDE):
        return _FLOAT8
    if target.runtime != "ort":
        return RULES[target.runtime]
    if target.arch == "cuda":
        return RULES["ort-cuda"]
    if target.arch == "aarch64":
        return RULES["ort-arm"]
    return RULES["ort-x86-vnni" if "vnni" in target.features else "ort-x86"]
