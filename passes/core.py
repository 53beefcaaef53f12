"""What a pass is, what it may ask for, and what it promises about numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, ClassVar

from ..ir.errors import PipelineError
from ..ir.graph import Graph, Model
from .context import Application, Context, Fuel, RuleStatistics
from .rewrite.greedy import apply_rules
from .rewrite.rewriter import Rewriter
from .rewrite.rule import RuleBase

__all__ = [
    "Application",
    "Context",
    "Fuel",
    "GraphPass",
    "Numbers",
    "Pass",
    "RewritePass",
    "RuleStatistics",
    "bound_rules",
    "option_text",
    "parse_option",
    "pass_name",
]


class Numbers(Enum):
    """The numeric contract of a pass: how far results may move."""

    EXACT = "exact"
    """Every output bit stays (zeros may change sign only where the pass says so)."""
    REASSOCIATES = "reassociates"
    """Equal in real arithmetic; rounding may differ as if sums and products were reordered."""
    APPROXIMATES = "approximates"
    """Differs by a stated bound, drawn from the error budget."""


@dataclass
class Pass:
    """A transformation of a model. Options are dataclass fields; state between runs is forbidden.

    Subclasses implement :meth:`run`. The name is set by the registry from the file name.
    """

    name: ClassVar[str] = ""
    family: ClassVar[str] = ""
    numbers: ClassVar[Numbers] = Numbers.EXACT
    spreads: ClassVar[bool] = False
    """Whether NaN in an operand may reach results that it did not reach, because it is multiplied by zeros that were
    not there, or goes through a kernel for the whole. (NaN must stay NaN all the same.)"""
    proposes: ClassVar[bool] = False
    """Whether a lossy pass asks ``r.take`` for each of its decisions. One that does not is asked for by the engine:
    each application of a pattern, each rule in plain code as a whole, or the whole pass where it has no rules."""

    def run(self, model: Model, r: Rewriter) -> None:
        """Transforms ``model`` in place. All edits go through ``r``, which owns types, names and provenance."""
        raise NotImplementedError

    @property
    def lossy(self) -> bool:
        """Whether it draws on the error budget."""
        return self.numbers is Numbers.APPROXIMATES

    def __str__(self) -> str:
        """Pipeline text: the name, with the options that differ from their defaults."""
        parts: list[str] = []
        for f in fields(self):
            value = getattr(self, f.name)
            default = f.default_factory() if callable(f.default_factory) else f.default  # type: ignore[misc]
            if value != default:
                parts.append(f"{f.name.replace('_', '-')}={option_text(value)}")
        return pass_name(type(self)) + (f"{{{','.join(parts)}}}" if parts else "")


class GraphPass(Pass):
    """A pass that looks at one graph at a time: the main graph, every body, every function."""

    def run(self, model: Model, r: Rewriter) -> None:
        for graph in list(model.all_graphs()):
            self.run_graph(graph, r)

    def run_graph(self, graph: Graph, r: Rewriter) -> None:
        """Transforms one graph; bodies get calls of their own."""
        raise NotImplementedError


class RewritePass(Pass):
    """A pass made of rules, applied until none fires anywhere (bodies and functions included)."""

    def rules(self) -> Iterable[RuleBase]:
        """The rules, in order of preference at one node."""
        raise NotImplementedError

    def run(self, model: Model, r: Rewriter) -> None:
        apply_rules(model, list(bound_rules([self])), r)


def bound_rules(passes: Iterable[RewritePass]) -> Iterator[RuleBase]:
    """The rules of several passes, each labelled with its pass."""
    for p in passes:
        for rule in p.rules():
            rule.owner = pass_name(type(p))
            rule.lossy = p.lossy and not p.proposes
            yield rule


def pass_name(cls: type[Pass]) -> str:
    """``fold-conv-batchnorm`` for class ``FoldConvBatchnorm``, unless the class or the registry says otherwise."""
    return cls.name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", cls.__name__).lower()


def option_text(value: Any) -> str:
    """An option as pipeline text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (tuple, list)):
        return "[" + ",".join(option_text(v) for v in value) + "]"  # pyright: ignore[reportUnknownVariableType]
    text = str(value)
    if re.fullmatch(r"[+-]?[\w.][\w.+-]*", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def parse_option(cls: type[Pass], name: str, value: Any) -> tuple[str, Any]:
    """Field name and converted value of an option. ``value`` is text, or a list of texts.

    Raises ``PipelineError`` for an unknown option or a value of the wrong type.
    """
    wanted = name.replace("-", "_")
    known = {f.name: f for f in fields(cls)}
    if wanted not in known:
        options = ", ".join(n.replace("_", "-") for n in known) or "none"
        raise PipelineError(
            f"pass {pass_name(cls)} has no option {name!r}", where="pipeline", help=f"its options: {options}"
        )
    kind = str(known[wanted].type).replace("builtins.", "")
    try:
        return wanted, _convert(kind, value)
    except ValueError as error:
        raise PipelineError(
            f"option {name} of {pass_name(cls)}: {value!r} is not a valid {kind}", where="pipeline"
        ) from error


def _convert(kind: str, value: Any) -> Any:
    kind = kind.removesuffix(" | None")
    if kind.startswith("tuple["):
        inner = kind[len("tuple[") : -1].split(",")[0].strip()
        return tuple(_convert(inner, v) for v in (value if isinstance(value, list) else [value]))  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(value, str):
        raise ValueError(value)
    if kind == "bool":
        if value not in ("true", "false"):
            raise ValueError(value)
        return value == "true"
    if kind == "int":
        return int(value)
    if kind == "float":
        return float(value)
    if kind == "str":
        return value
    raise ValueError(f"option type {kind} is not supported")
