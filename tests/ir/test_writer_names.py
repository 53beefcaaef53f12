"""Names of nodes in written files."""

from __future__ import annotations

from planish.ir import Builder
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
