"""Wrong rules of the kinds that optimizers have shipped, one fault each: what validation catches and bisecting finds.

Each is a node rule with a line of code where a careful author has a guard or another sign. ``MUTANTS`` maps the name
of the pass that holds it to the rule.
"""

# The rules look at nothing before they act, which is what is wrong with them.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalIterable=false
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import numpy as np

from planish.ir.dtypes import DType
from planish.ir.graph import Node, Value
from planish.passes.core import Numbers, RewritePass
from planish.passes.rewrite.rewriter import Rewriter
from planish.passes.rewrite.rule import MODIFIED, NodeRule, NoMatch

MUTANTS: dict[str, type[NodeRule]] = {}


def mutant(*roots: str) -> Callable[[Callable[[Rewriter, Node], Any]], type[NodeRule]]:
    """Makes a rule of a function that raises ``NoMatch`` or returns a replacement."""

    def made(function: Callable[[Rewriter, Node], Any]) -> type[NodeRule]:
        title = "".join(part.title() for part in function.__name__.split("_"))
        rule = type(title, (NodeRule,), {"roots": roots, "apply": lambda self, r, node: function(r, node)})
        MUTANTS[function.__name__.replace("_", "-")] = rule
        return rule

    return made


def pass_of(name: str) -> type[RewritePass]:
    """A pass with that one rule."""
    rule = MUTANTS[name]

    class Mutated(RewritePass):
        numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

        def rules(self) -> Iterable[NodeRule]:
            yield rule()

    Mutated.name = name
    return Mutated


def need(condition: object) -> None:
    if not condition:
        raise NoMatch("not this one")


def constant(value: Value | None) -> np.ndarray[Any, Any]:
    need(value is not None and value.data is not None)
    assert value is not None
    return value.numpy()


def producer(value: Value | None, op: str) -> Node:
    node = value.producer if value is not None else None
    need(node is not None and node.op == op and not node.domain)
    assert node is not None
    return node


def is_float(value: Value | None) -> bool:
    return value is not None and value.dtype is DType.F32


# -- dropped guards


@mutant("Mul")
def drop_factor_near_one(r: Rewriter, node: Any) -> Any:
    c = constant(node.input(1))
    need(c.size == 1 and is_float(node.input(0)) and c.item() != 1 and abs(c.item() - 1) < 0.6)
    need(node.inputs[0].type == node.output.type)
    return node.inputs[0]


@mutant("Add")
def drop_small_summand(r: Rewriter, node: Any) -> Any:
    c = constant(node.input(1))
    need(c.size == 1 and is_float(node.input(0)) and 0 < abs(c.item()) <= 1)
    need(node.inputs[0].type == node.output.type)
    return node.inputs[0]


@mutant("Relu")
def drop_relu(r: Rewriter, node: Any) -> Any:
    return node.inputs[0]


@mutant("Transpose")
def cancel_any_transposes(r: Rewriter, node: Any) -> Any:
    inner = producer(node.input(0), "Transpose")
    need(inner.inputs[0].type == node.output.type and inner.attr("perm") is not None)
    perms = inner.attr("perm"), node.attr("perm")
    need(perms[1] is not None and [perms[0][p] for p in perms[1]] != sorted(perms[0]))
    return inner.inputs[0]


@mutant("Cast")
def merge_narrowing_casts(r: Rewriter, node: Any) -> Any:
    inner = producer(node.input(0), "Cast")
    need(inner.inputs[0].dtype is node.output.dtype and is_float(node.output))
    need(inner.output.dtype in (DType.I64, DType.I32, DType.BOOL))
    return inner.inputs[0]


@mutant("Add")
def reuse_shared_weights(r: Rewriter, node: Any) -> Any:
    """Folds a shift into the bias of a Gemm in place, although others see its result."""
    inner = producer(node.input(0), "Gemm")
    c = constant(node.input(1))
    need(c.size == 1 and len(inner.output.uses) > 1 and inner.input(2) is not None and inner.inputs[2].data is not None)
    need(inner.attr("beta") == 1)
    r.at(inner)
    r.set_input(inner, 2, r.const(inner.inputs[2].numpy() + c.reshape(-1)[0]))
    return inner.output


# -- wrong axes, permutations, orders


@mutant("Softmax")
def softmax_over_the_first_axis(r: Rewriter, node: Any) -> Any:
    need(node.inputs[0].rank and node.attr("axis") % node.inputs[0].rank != 0)
    return r.Softmax(node.inputs[0], axis=0)


@mutant("ReduceMean", "ReduceSum", "ReduceMax")
def reduce_another_axis(r: Rewriter, node: Any) -> Any:
    x = node.inputs[0]
    axes = node.attr("axes")
    axes = list(constant(node.input(1))) if axes is None and node.input(1) is not None else axes
    need(axes is not None and len(axes) == 1 and node.attr("keepdims") == 1 and x.shape is not None)
    axis = int(axes[0]) % len(x.shape)
    other = next((i for i, d in enumerate(x.shape) if i != axis and d == x.shape[axis]), None)
    need(other is not None and not (node.extra or {}).get("seen"))
    node.extra = {"seen": True}
    if node.input(1) is not None:
        r.set_input(node, 1, r.const(np.asarray([other], np.int64)))
    else:
        r.set_attr(node, "axes", (other,))
    return MODIFIED


@mutant("Concat")
def reverse_concat(r: Rewriter, node: Any) -> Any:
    a, b = node.inputs[0], node.inputs[-1]
    need(len(node.inputs) == 2 and a is not b and a.type == b.type and is_float(a) and a.data is None)
    need(not (node.extra or {}).get("seen"))
    return _once(r.Concat(b, a, axis=node.attr("axis")))


def _once(made: Value) -> Value:
    assert made.producer is not None
    made.producer.extra = {"seen": True}
    return made


@mutant("Transpose")
def compose_permutations_backwards(r: Rewriter, node: Any) -> Any:
    inner = producer(node.input(0), "Transpose")
    p, q = inner.attr("perm"), node.attr("perm")
    need(p is not None and q is not None)
    right, wrong = [p[i] for i in q], [q[i] for i in p]
    shape = inner.inputs[0].shape
    need(shape is not None and right != wrong and [shape[i] for i in right] == [shape[i] for i in wrong])
    return r.Transpose(inner.inputs[0], perm=tuple(wrong))


@mutant("Gather")
def gather_along_the_first_axis(r: Rewriter, node: Any) -> Any:
    x = node.inputs[0]
    axis = node.attr("axis")
    need(x.shape is not None and axis % len(x.shape) != 0 and x.shape[0] == x.shape[axis] and is_float(x))
    need(node.inputs[1].rank == 1 and node.inputs[1].shape == (x.shape[0],))
    return r.Gather(x, node.inputs[1], axis=0)


@mutant("Split")
def swap_parts(r: Rewriter, node: Any) -> Any:
    a, b = node.outputs[0], node.outputs[-1]
    need(len(node.outputs) == 2 and a.type == b.type and is_float(a) and not (node.extra or {}).get("seen"))
    node.extra = {"seen": True}
    uses_a, uses_b = list(a.uses), list(b.uses)
    for user, i in uses_a:
        user.set_input(i, b)
    for user, i in uses_b:
        user.set_input(i, a)
    return MODIFIED


# -- wrong signs, wrong arithmetic


@mutant("Sub")
def swap_difference(r: Rewriter, node: Any) -> Any:
    x, y = node.inputs
    need(x is not y and is_float(x) and not (node.extra or {}).get("seen"))
    return _once(r.Sub(y, x))


@mutant("Neg")
def double_negation_negates(r: Rewriter, node: Any) -> Any:
    inner = producer(node.input(0), "Neg")
    return inner.output


@mutant("Div")
def divide_as_multiply(r: Rewriter, node: Any) -> Any:
    c = constant(node.input(1))
    need(is_float(node.input(0)) and (np.abs(np.abs(c) - 1) > 0.1).any())
    return r.Mul(*node.inputs)


@mutant("Pow")
def square_becomes_cube(r: Rewriter, node: Any) -> Any:
    need(constant(node.input(1)).size == 1 and constant(node.input(1)).item() == 2 and is_float(node.input(0)))
    return r.Mul(r.Mul(node.inputs[0], node.inputs[0]), node.inputs[0])


@mutant("Sqrt")
def drop_epsilon(r: Rewriter, node: Any) -> Any:
    inner = producer(node.input(0), "Add")
    c = constant(inner.input(1))
    need(c.size == 1 and c.item() > 1e-4 and is_float(inner.input(0)) and inner.inputs[0].type == node.output.type)
    return r.Sqrt(inner.inputs[0])


@mutant("Where")
def swap_branches_of_where(r: Rewriter, node: Any) -> Any:
    need(is_float(node.output) and not (node.extra or {}).get("seen") and node.inputs[1] is not node.inputs[2])
    return _once(r.Where(node.inputs[0], node.inputs[2], node.inputs[1]))


@mutant("ReduceMean")
def sum_for_mean(r: Rewriter, node: Any) -> Any:
    axes = node.attr("axes")
    need(axes is not None and node.version < 13)
    return r.ReduceSum(node.inputs[0], axes=axes, keepdims=node.attr("keepdims"))


@mutant("Greater")
def greater_or_equal(r: Rewriter, node: Any) -> Any:
    need(node.version >= 12)
    return r.GreaterOrEqual(*node.inputs)


@mutant("Sigmoid")
def rough_sigmoid(r: Rewriter, node: Any) -> Any:
    need(is_float(node.output))
    return r.HardSigmoid(node.inputs[0], alpha=0.2)


@mutant("Erf")
def tanh_for_erf(r: Rewriter, node: Any) -> Any:
    return r.Tanh(r.Mul(node.inputs[0], 1.1283792))


# -- lost operands and attributes


@mutant("Gemm", "Conv")
def lose_bias(r: Rewriter, node: Any) -> Any:
    need(node.input(2) is not None and node.version >= 11)
    return r.op(node.op, node.inputs[0], node.inputs[1], **node.attrs)


@mutant("Gemm")
def lose_alpha(r: Rewriter, node: Any) -> Any:
    need(node.attr("alpha") != 1)
    attrs = {k: v for k, v in node.attrs.items() if k != "alpha"}
    return r.Gemm(*node.inputs, **attrs)


@mutant("LeakyRelu", "Elu", "Celu")
def lose_slope(r: Rewriter, node: Any) -> Any:
    need("alpha" in node.attrs and node.attrs["alpha"] not in (0.01, 1.0))
    return r.op(node.op, node.inputs[0])


@mutant("AveragePool")
def forget_count_of_padding(r: Rewriter, node: Any) -> Any:
    need(node.attr("count_include_pad") and any(node.attr("pads", ())))
    attrs = {k: v for k, v in node.attrs.items() if k != "count_include_pad"}
    return r.AveragePool(node.inputs[0], **attrs)


@mutant("Clip")
def lose_upper_bound(r: Rewriter, node: Any) -> Any:
    need(node.input(1) is not None and node.input(2) is not None and is_float(node.input(0)))
    return r.Clip(node.inputs[0], node.inputs[1])


@mutant("BatchNormalization")
def lose_epsilon(r: Rewriter, node: Any) -> Any:
    need(node.attr("epsilon") > 1e-4)
    return r.BatchNormalization(*node.inputs)


@mutant("Conv")
def swap_begin_and_end_of_pads(r: Rewriter, node: Any) -> Any:
    pads = node.attr("pads")
    need(pads is not None)
    half = len(pads) // 2
    need(pads[:half] != pads[half:] and not (node.extra or {}).get("seen"))
    r.set_attr(node, "pads", (*pads[half:], *pads[:half]))
    node.extra = {"seen": True}
    return MODIFIED


@mutant("Pad")
def lose_fill(r: Rewriter, node: Any) -> Any:
    need(node.version >= 11 and node.input(2) is not None and constant(node.input(2)).item() != 0)
    need(node.attr("mode") == "constant")
    return r.Pad(node.inputs[0], node.inputs[1])


@mutant("MaxPool")
def average_for_maximum(r: Rewriter, node: Any) -> Any:
    need(len(node.outputs) == 1 and "dilations" not in node.attrs)
    return r.AveragePool(node.inputs[0], **node.attrs)


@mutant("Max")
def keep_the_first_operand(r: Rewriter, node: Any) -> Any:
    need(len(node.inputs) == 2 and node.inputs[0].type == node.output.type and node.inputs[1] is not node.inputs[0])
    return node.inputs[0]


# -- off by one, stale shapes


@mutant("Slice")
def slice_one_off(r: Rewriter, node: Any) -> Any:
    starts, ends = constant(node.input(1)), constant(node.input(2))
    need(starts.size == 1 and 1 <= starts[0] < 100 and 1 < ends[0] < 100 and node.input(4) is None)
    need(is_float(node.input(0)) and node.inputs[0].shape is not None and node.output.type is not None)
    axis = int(constant(node.input(3))[0]) if node.input(3) is not None else 0
    extent = node.inputs[0].shape[axis]
    need(isinstance(extent, int) and ends[0] <= extent)
    rest = [] if node.input(3) is None else [node.inputs[3]]
    return r.Slice(node.inputs[0], r.const(starts - 1), r.const(ends - 1), *rest)


@mutant("Gather")
def gather_one_off(r: Rewriter, node: Any) -> Any:
    index = constant(node.input(1))
    need((index > 0).any() and is_float(node.input(0)) and index.size < 20)
    return r.Gather(node.inputs[0], r.const(np.where(index > 0, index - 1, index)), axis=node.attr("axis"))


@mutant("Reshape")
def stale_batch(r: Rewriter, node: Any) -> Any:
    """The target as it was for a batch of two, although the batch is a symbol."""
    shape = node.output.shape
    need(shape is not None and node.input(1) is not None and node.inputs[1].data is not None)
    need(any(str(d) == "N" for d in shape) and all(isinstance(d, int) or str(d) == "N" for d in shape))
    return r.Reshape(node.inputs[0], np.asarray([d if isinstance(d, int) else 2 for d in shape], np.int64))


@mutant("Shape")
def stale_shape(r: Rewriter, node: Any) -> Any:
    shape = node.inputs[0].shape
    need(shape is not None and any(str(d) == "N" for d in shape) and node.output.shape == (len(shape),))
    need(all(isinstance(d, int) or str(d) == "N" for d in shape))
    return r.const(np.asarray([d if isinstance(d, int) else 2 for d in shape], np.int64))


@mutant("Expand")
def drop_expand(r: Rewriter, node: Any) -> Any:
    """A broadcast that the operand's other dimension needed: another shape, which is a type error."""
    need(node.inputs[0].type != node.output.type and node.inputs[0].rank == node.output.rank)
    return node.inputs[0]


# -- merging what differs


@mutant("Softmax", "Transpose", "LeakyRelu", "Elu", "ReduceMean", "HardSigmoid", "Concat", "Cast", "Gather")
def merge_ignoring_attributes(r: Rewriter, node: Any) -> Any:
    """Equal operator and operands, whatever the attributes say."""
    first = node.inputs[0]
    for other in first.users:
        same = other.graph is node.graph and other.op == node.op and other.inputs == node.inputs
        if same and other.output.type == node.output.type and other.attrs != node.attrs and _before(other, node):
            return other.output
    raise NoMatch("no equal node")


def _before(a: Node, b: Node) -> bool:
    node = b.prev
    while node is not None:
        if node is a:
            return True
        node = node.prev
    return False


@mutant("If")
def take_the_other_branch(r: Rewriter, node: Any) -> Any:
    value = constant(node.input(0))
    need(not (node.extra or {}).get("seen"))
    r.set_input(node, 0, r.at(node).const(np.logical_not(value)))
    node.extra = {"seen": True}
    return MODIFIED


# -- failures that are no wrong numbers


@mutant("Tanh")
def crash_on_tanh(r: Rewriter, node: Any) -> Any:
    return {}["no such key"]


@mutant("Sigmoid")
def wrong_element_type(r: Rewriter, node: Any) -> Any:
    return r.Cast(r.Sigmoid(r.Identity(node.inputs[0])), to=DType.F64.code)


@mutant("Abs")
def operator_that_does_not_exist(r: Rewriter, node: Any) -> Any:
    return r.Absolute(node.inputs[0])


@mutant("Identity", "Relu")
def edit_around_the_rewriter(r: Rewriter, node: Any) -> Any:
    """Forgets to enter the use."""
    user = next(iter(node.output.users), None)
    need(user is not None and user.op != "return" and node.inputs[0].type == node.output.type)
    assert user is not None
    user.inputs[list(user.inputs).index(node.output)] = node.inputs[0]
    r.changes += 1
    return MODIFIED


@mutant("Tanh")
def type_that_is_not_so(r: Rewriter, node: Any) -> Any:
    """Records a shape that inference does not confirm."""
    t = node.output.tensor
    need(t is not None and t.shape and isinstance(t.shape[-1], int) and not (node.extra or {}).get("seen"))
    assert t is not None
    assert t.shape is not None
    node.output.type = t.with_shape((*t.shape[:-1], t.shape[-1] + 1))  # type: ignore[operator]
    node.extra = {"seen": True}
    return MODIFIED
