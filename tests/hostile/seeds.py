"""The corpus's first files: small models that use every part of the format. ``python -P tests/hostile/seeds.py``"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FOLDER = Path(__file__).parent / "corpus"
F32 = TensorProto.FLOAT
"""Texts beside the ones that the golden suites hold."""
TEXTS = {
    "types": """graph @main(%a: seq<f32[N]>, %b: optional<i64[*]>, %c: map<i64,f32[?]>, %d: sparse<f32[3,4]>) {
  return %a, %b as "other \\u00e9"
}
""",
    "constants": """graph @main(%x: f32[2] = dense<[1, 2]>) {
  %a: f16[2] = const dense<[0.5, -inf]>
  %b: i4[3] = const dense<[1, -8, 7]>
  %c: f32[1000,1000] = const splat<nan:0x7fc00001>
  %d: f32[4,4] = const rand<7, uniform, scale=0.1>
  %e: f32[8] = const sparse<dense<f32[2] [1, 2]>, dense<i64[2] [3, 5]>>
  %f: string[2] = const dense<["a\\n", b"\\xff"]>
  %g: c64[1] = const dense<[(1, -0.0)]>
  %y = Add(%x, %x)
  return %y, %a, %b, %c, %d, %e, %f, %g
}
""",
    "control": """model ir=10 opset {"" = 21, "f" = 1} {producer = "p", metadata = {"k" = "v"}}
graph @main(%c: bool[], %x: f32[N,4]) -> (%y: f32[N,4]) {
  %y: f32[N,4] = If(%c) {then_branch = graph @t() { %p = Neg(%x) return %p }, else_branch = graph @e() {
    %q = f::twice(%x) {k = 2} // "name" from "origin"
    return %q
  }}
  return %y
}
function @f::twice(%a) -> (%b) opset {"" = 21} attributes [k] {
  %i = Constant() {value_int = ref<k, int>}
  %j = CastLike(%i, %a)
  %b = Mul(%a, %j)
  return %b
}
""",
    "dims": """graph @main(%x: f32[2*N+1,floordiv(M,2),'odd name',max(1,N-M)]@NCHW<u8 scale=0.1 zero=3>) {
  %s = Shape(%x)
  %k: i64[1] = const dense<[2]>
  %g = Gather(%s, %k)
  %y = ConstantOfShape(%g) {value = dense<i8[1] [1]>}
  return %y, %s
}
""",
    "resources": """graph @main(%x: i64[4]) {
  return %x
}
resources {
  #00: "AAAA"
}
""",
}


def _info(name: str, *shape: int | str | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, F32, list(shape))


def _model(nodes: list[onnx.NodeProto], tensors: dict[str, np.ndarray], opset: int = 21) -> onnx.ModelProto:
    weights = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = helper.make_graph(nodes, "main", [_info("x", "N", 4)], [_info("y", "N", None)], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def models() -> dict[str, onnx.ModelProto]:
    """Models by file name."""
    node = helper.make_node
    ints = np.array([0, 2], np.int64)
    dense = _model(
        [node("MatMul", ["x", "w"], ["h"], name="mm"), node("Add", ["h", "b"], ["y"])],
        {"w": np.ones((4, 2), np.float32), "b": np.zeros(2, np.float32)},
    )
    shapes = _model(
        [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "i"], ["g"], axis=0),
            node("ConstantOfShape", ["g"], ["z"], value=numpy_helper.from_array(np.array([2], np.float32))),
            node("Slice", ["x", "from", "to"], ["y"]),
        ],
        {"i": np.array([0]), "from": np.array([0]), "to": np.array([2])},
    )
    body = helper.make_graph([node("Neg", ["x"], ["o"])], "b", [], [_info("o")])
    control = _model([node("If", ["c"], ["y"], then_branch=body, else_branch=body)], {"c": np.array(True)})
    loop_body = helper.make_graph(
        [node("Identity", ["k"], ["k2"]), node("Add", ["v", "x"], ["v2"]), node("Neg", ["v"], ["row"])],
        "body",
        [
            helper.make_tensor_value_info("n", TensorProto.INT64, []),
            helper.make_tensor_value_info("k", TensorProto.BOOL, []),
            _info("v"),
        ],
        [helper.make_tensor_value_info("k2", TensorProto.BOOL, []), _info("v2"), _info("row")],
    )
    loop = _model(
        [node("Loop", ["n", "", "x"], ["y", "rows"], body=loop_body)], {"n": np.array(3), "c": np.array(True)}
    )
    function = _model([node("f", ["x"], ["y"], domain="f", k=2)], {})
    function.opset_import.add(domain="f", version=1)
    inner = [node("Constant", [], ["i"]), node("CastLike", ["i", "a"], ["j"]), node("Mul", ["a", "j"], ["b"])]
    inner[0].attribute.add(name="value_int", ref_attr_name="k", type=onnx.AttributeProto.INT)
    imports = [helper.make_opsetid("", 21)]
    function.functions.append(helper.make_function("f", "f", ["a"], ["b"], inner, imports, attributes=["k"]))
    odd = _model([node("Identity", ["x"], ["y"])], {"s": np.array(["a", "b"], object), "h": np.ones(2, np.float16)})
    odd.graph.initializer.append(TensorProto(name="n", data_type=TensorProto.INT4, dims=[3], int32_data=[1, 2]))
    odd.graph.initializer.append(TensorProto(name="t", data_type=1, dims=[2], float_data=[1, 2]))
    values = numpy_helper.from_array(np.ones(2, np.float32), "sp")
    odd.graph.sparse_initializer.append(helper.make_sparse_tensor(values, numpy_helper.from_array(ints), [4]))
    odd.graph.value_info.append(_info("y", 7, 7))
    odd.metadata_props.add(key="k", value="v")
    quantized = _model(
        [
            node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
        ],
        {"scale": np.array(0.1, np.float32), "zero": np.array(3, np.uint8)},
    )
    conv = helper.make_model(
        helper.make_graph(
            [
                node("Conv", ["x", "w"], ["h"], pads=[1, 1, 1, 1], strides=[2, 2]),
                node("MaxPool", ["h"], ["p"], kernel_shape=[2, 2]),
                node("Resize", ["p", "", "scales"], ["y"], mode="nearest"),
            ],
            "main",
            [_info("x", "N", 3, 8, 8)],
            [_info("y", "N", 2, None, None)],
            [
                numpy_helper.from_array(np.ones((2, 3, 3, 3), np.float32), "w"),
                numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"),
            ],
        ),
        opset_imports=[helper.make_opsetid("", 19)],
        ir_version=9,
    )
    return {
        "dense": dense,
        "shapes": shapes,
        "if": control,
        "loop": loop,
        "function": function,
        "odd": odd,
        "quantized": quantized,
        "conv": conv,
    }


def main() -> None:
    for name, model in models().items():
        (FOLDER / "model" / f"seed-{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))
    for name, text in TEXTS.items():
        (FOLDER / "text" / f"seed-{name}.ir").write_text(text)


if __name__ == "__main__":
    main()
