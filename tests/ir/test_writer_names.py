"""Names of nodes in written files."""

from __future__ import annotations

from planish.ir import Builder
from planish.ir.dims import anonymous
from planish.ir.dtypes import DType
from planish.ir.onnx_writer import model_to_proto


def test_equal_node_names_become_different() -> None:
    """Hints of emitted nodes repeat; ONNX Runtime refuses two nodes of one name."""
    b = Builder()
    x = b.input("x", DType.F32, (2,))
    for name in ("a", "a", "a_2", "a"):
        x = b.op("Relu", x, _name=name)
    b.output(x, "y")
    names = [n.name for n in model_to_proto(b.model()).graph.node]
    assert names[0] == "a"
    assert len(set(names)) == 4


def test_open_extents_get_names_that_say_which_are_equal() -> None:
    b = Builder()
    x = b.input("x", DType.F32, (1, 4, anonymous("x.2"), anonymous("x.3")))
    y = b.Relu(b.MaxPool(x, kernel_shape=(2, 2), strides=(2, 2)))
    b.output(b.Neg(y), "y")
    proto = model_to_proto(b.model(), value_info=True)
    names = [[d.dim_param or d.dim_value for d in info.type.tensor_type.shape.dim] for info in proto.graph.value_info]
    assert names[0] == names[1]
    assert names[0][2] != names[0][3]
    assert [d.dim_param for d in proto.graph.input[0].type.tensor_type.shape.dim[2:]] == ["", ""]
