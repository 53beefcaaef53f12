"""Kernels that take operands anywhere in an arena.

A kernel made from tensor expressions refuses operands with a byte offset: its buffers say that theirs is 0. Here each
parameter's buffer gets an offset that is a variable, bound when the kernel is called. There is no such mutator in
TVM's Python interface; the JSON form of a function is complete and says it in a line.
"""

from __future__ import annotations

import json
from typing import Any

from ..api import tvm


def with_offsets(function: Any) -> Any:
    """The function with parameters that may lie at an offset."""
    plain: dict[str, Any] = json.loads(tvm.ir.save_json(function))
    nodes: list[Any] = plain["nodes"]
    nodes.append({"type": "ir.PrimType", "data": {"span": 0, "dtype": "int64"}})
    index_type = len(nodes) - 1
    root: Any = nodes[plain["root_index"]]
    for parameter in nodes[root["data"]["params"]]["data"]:
        buffer = nodes[nodes[parameter]["data"]["ty"]]
        if buffer["type"] != "tirx.BufferType":
            continue
        name = nodes[nodes[parameter]["data"]["name"]]["data"]
        nodes.append({"type": "ffi.String", "data": f"{name}_offset"})
        nodes.append({"type": "ir.Var", "data": {"span": 0, "ty": index_type, "name": len(nodes) - 1}})
        buffer["data"]["elem_offset"] = len(nodes) - 1
    return tvm.ir.load_json(json.dumps(plain))
