"""Lossy passes, and passes that break their promise, for the tests of the error budget."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from planish.ir.graph import Model, Node
from planish.passes.core import Numbers, Pass, RewritePass
from planish.passes.rewrite import Match, Rewriter, Rule
from planish.passes.rewrite.rule import MODIFIED, NodeRule, NoMatch
from planish.passes.shared.quant.statistics import Want, value_names


@dataclass
class Nudge(Pass):
    """Adds to every constant called ``part...``: one unit each."""

    numbers: ClassVar[Numbers] = Numbers.APPROXIMATES
    proposes: ClassVar[bool] = True
    by: float = 1.0

    def run(self, model: Model, r: Rewriter) -> None:
        for graph in model.all_graphs():
            for value in list(graph.constants):
                data = value.data
                if data is None or not value.name.startswith("part") or np.all(data.numpy() >= self.by):
                    continue
                if r.take("nudge", value, saved_bytes=data.nbytes):
                    r.begin(next(iter(value.uses))[0])
                    r.replace_value(value, r.const(data.numpy() + np.float32(self.by), name=value.name))
                    r.remove_constant(value)


class LessRelu(Rule):
    """Relu to the identity: far from harmless."""

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Relu(x)

    def rewrite(self, r: Rewriter, m: Match) -> Any:
        return m.x


@dataclass
class DropRelu(RewritePass):
    """A plugin's lossy pass that knows nothing of units."""

    numbers: ClassVar[Numbers] = Numbers.APPROXIMATES

    def rules(self) -> Iterable[Rule]:
        return [LessRelu()]


class ScaleAttribute(NodeRule):
    """Changes its node in place."""

    roots = ("LeakyRelu",)

    def apply(self, r: Rewriter, node: Node) -> Any:
        if node.attr("alpha") == 0.5:
            raise NoMatch("alpha is 0.5")
        r.set_attr(node, "alpha", 0.5)
        return MODIFIED


@dataclass
class Leak(RewritePass):
    numbers: ClassVar[Numbers] = Numbers.APPROXIMATES

    def rules(self) -> Iterable[NodeRule]:
        return [ScaleAttribute()]


@dataclass
class Whole(Pass):
    """A lossy pass in plain code without units."""

    numbers: ClassVar[Numbers] = Numbers.APPROXIMATES

    def run(self, model: Model, r: Rewriter) -> None:
        for node in list(model.graph):
            if node.op == "Relu" and r.allow(node):
                x = node.inputs[0]
                assert x is not None
                r.replace(node, x)


@dataclass
class Ceiling(Pass):
    """Relu to a Clip at the largest value that was seen."""

    numbers: ClassVar[Numbers] = Numbers.APPROXIMATES
    proposes: ClassVar[bool] = True

    def run(self, model: Model, r: Rewriter) -> None:
        assert r.ctx.observe is not None
        for node in [n for n in model.graph if n.op == "Relu"]:
            seen = r.ctx.observe(model, [Want(value_names(model)[node.output])])
            high = next(iter(seen.values.values())).high
            if r.take("ceiling", node):
                x = node.inputs[0]
                assert x is not None
                r.begin(node)
                r.replace(node, r.Clip(x, r.const(np.float32(0)), r.const(np.float32(high))))


@dataclass
class Wrong(Whole):
    """Promises that every bit stays."""

    numbers: ClassVar[Numbers] = Numbers.EXACT


@dataclass
class Sloppy(Pass):
    """Promises to reassociate and is off by 170 roundings."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    def run(self, model: Model, r: Rewriter) -> None:
        for value in list(model.graph.constants):
            data = value.data
            if value.name == "w2" and data is not None and value.uses:
                r.begin(next(iter(value.uses))[0])
                r.replace_value(value, r.const(data.numpy() * np.float32(1 + 2e-5), name="w2/moved"))
                r.remove_constant(value)


@dataclass
class Boast(Pass):
    """Stores constants called ``part...`` in half the bytes, and says that nothing is left of them."""

    numbers: ClassVar[Numbers] = Numbers.APPROXIMATES
    proposes: ClassVar[bool] = True

    def run(self, model: Model, r: Rewriter) -> None:
        for value in list(model.graph.constants):
            data = value.data
            if data is None or not value.name.startswith("part") or data.dtype.text != "f32":
                continue
            if r.take("boast", value, saved_bytes=data.nbytes):
                r.begin(next(iter(value.uses))[0])
                half = r.const(data.numpy().astype(np.float16), name=value.name)
                r.replace_value(value, r.Cast(half, to=1))
                r.remove_constant(value)


PLANTED: dict[str, type[Pass]] = {
    "boast": Boast,
    "nudge": Nudge,
    "drop-relu": DropRelu,
    "leak": Leak,
    "whole": Whole,
    "ceiling": Ceiling,
    "sloppy": Sloppy,
    "wrong": Wrong,
}
