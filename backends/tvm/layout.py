"""Layouts: which values lie in blocks of channels.

Convolutions give blocked results where their channels can be blocked; what works channel by channel or element by
element keeps its operands' blocks; all else is plain. Kernels that move elements read either, so that a change of
layout costs nothing of its own where a movement follows, and is a kernel where a convolution or a view does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ...ir.graph import Value
from .groups import Group
from .lower.extents import Extents, count
from .lower.forms import Form
from .lower.integers import integers_of
from .rules.core import Kind, dtype_of, kind_of, numbers, shape_of

BlockOf = Callable[[int], int]
BYTES = 4
"""Channels that products of bytes take at once: of images with fewer, the rest is filled up."""


@dataclass
class Layouts:
    """The block of every value's axis 1; 1 where it is plain."""

    blocks: dict[Value, int] = field(default_factory=dict[Value, int])

    def form(self, value: Value) -> Form:
        """How a value lies in memory."""
        return Form(shape_of(value), dtype_of(value), self.blocks.get(value, 1))


def assign_layouts(groups: Sequence[Group], block_of: BlockOf, outputs: Sequence[Value]) -> Layouts:
    """Blocks for the results of all groups; ``outputs`` of the graph are plain where they cost nothing more."""
    found = Layouts()
    for group in groups:
        block = _block(group, found, block_of)
        for value in group.outputs:
            shape = shape_of(value)
            flat = len(shape) < 3 or count(shape[2:]) == 1  # blocks of single pixels are plain
            found.blocks[value] = 1 if flat else block
    return found


def _block(group: Group, layouts: Layouts, block_of: BlockOf) -> int:
    first, last = group.nodes[0], group.last
    shape = shape_of(last.outputs[0])
    channels = shape[1] if len(shape) == 4 else None
    if not isinstance(channels, int) or len(last.outputs) > 1:
        return 1
    if group.anchor is not None:
        if first.op not in ("Conv", "ConvTranspose") or dtype_of(first.output) not in ("float32", "float16"):
            return 1
        groups = int(first.attr("group", 1))
        return block_of(channels if groups == channels else channels // groups)  # blocks do not reach over groups
    if any(v in last.graph.outputs for v in last.outputs if last.graph is not None):
        return 1
    if last.op == "Concat" and len(group.nodes) == 1 and int(last.attr("axis", 0)) % 4 == 1:
        return _of_parts([layouts.form(v) for v in last.inputs if v is not None], block_of(channels))
    if last.op == "QuantizeLinear" and channels < BYTES and _feeds_products(last.output):
        return BYTES
    if all(kind_of(node) in (Kind.ELEMENTWISE, Kind.CHANNELWISE) for node in group.nodes):
        return max((layouts.blocks.get(v, 1) for v in group.inputs if _spatial(v, shape)), default=1)
    return 1


def _feeds_products(value: Value) -> bool:
    """Whether only convolutions of bytes over all channels read it."""
    readers = [user for user, _ in value.uses]
    convs = [user for r in readers if r.op == "DequantizeLinear" for user, _ in r.output.uses]
    every = all(c.op == "Conv" and int(c.attr("group", 1)) == 1 and integers_of(c) is not None for c in convs)
    return bool(convs) and every and all(r.op == "DequantizeLinear" for r in readers)


def _spatial(value: Value, shape: Extents) -> bool:
    own = shape_of(value)
    return len(own) == 4 and own[1] == shape[1]


def _of_parts(parts: list[Form], most: int) -> int:
    """The block of parts one after the other: each begins at a block."""
    if any(part.block == 1 for part in parts):
        return 1
    block = min(most, *(part.block for part in parts))
    return block if all(numbers(part.shape[1:2])[0] % block == 0 for part in parts) else 1
