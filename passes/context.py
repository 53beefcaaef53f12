"""What a pass is given (samples, ways to run and observe, choices, fuel), and what is written down of rewrites.

Below the rewriter and the passes, which both need it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..ir.graph import Model, Node, Value
from .choices import Choices
from .memo import Memo

if TYPE_CHECKING:
    import numpy as np

    from .shared.quant.statistics import Statistics, Want
    from .target import Target

    Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass
class Fuel:
    """A limit on rewrites: after ``limit`` applications everything declines. ``spent`` counts them."""

    limit: int | None = None
    spent: int = 0

    @property
    def empty(self) -> bool:
        return self.limit is not None and self.spent >= self.limit


@dataclass
class Application:
    """One rewrite that happened."""

    number: int
    rule: str
    """``pass-name`` or ``pass-name/RuleClass``."""
    at: str
    """Name of the node at which it matched, or of its first result (``%name``)."""
    origin: tuple[str, ...]
    """Names of the original model's nodes concerned."""


@dataclass(frozen=True)
class Before:
    """What a model was before its first lossy pass."""

    model: Model
    values: Mapping[Value, Value]
    """From values of the model that passes change to those of ``model`` that hold the same."""
    observe: Callable[[Model, Sequence[Want]], Statistics] | None = None
    """As ``Context.observe``, for models that are seen once: nothing is remembered. Where it is given, factorized
    layers are fitted again to what those in front of them give."""

    def node(self, node: Node) -> Node | None:
        """The node that it was; ``None`` where a pass has made or changed it."""
        same = self.values.get(node.outputs[0]) if node.outputs else None
        return None if same is None else same.producer


@dataclass
class Context:
    """What a pass may need from outside. Everything is optional; a pass says what it needs and degrades or declines."""

    target: Target | None = None
    samples: list[Arrays] = field(default_factory=list[Any])
    """Real inputs of the model, by input name."""
    executor: Callable[[Model, Arrays], list[np.ndarray[Any, Any]]] | None = None
    """Runs a model on one sample: a backend's, given by the driver, since passes import none."""
    race: Callable[[Sequence[Model]], list[float] | None] | None = None
    """Runs small models in turns on the target: nanoseconds of the first, and of the others what they take at the most,
    beyond doubt. Inputs are floats of known extents. ``None`` where this machine is not the target, or must not be
    asked; its answer is ``None`` where one of them does not run."""
    observe: Callable[[Model, Sequence[Want]], Statistics] | None = None
    """Runs the model as it is on the calibration samples and says what was seen of its values (see
    ``shared/quant/statistics.py``); asking again costs nothing. ``None`` where there are no real samples."""
    before: Before | None = None
    """Given in runs of a pipeline with several choices: what is observed of it does not depend on them."""
    seed: int = 0
    fuel: Fuel = field(default_factory=Fuel)
    max_constant_bytes: int = 1 << 20
    """Constant folding never creates a tensor above this unless it replaces as many bytes of constants."""
    grown_bytes: int = 0
    """Bytes by which constant folding has made the model larger so far."""
    sink: Callable[[str], None] | None = None
    """Receives diagnostics, one line each."""
    progress: Callable[[str, int, int], None] | None = None
    """Called with a label, work done and work in all."""
    disabled: frozenset[str] = frozenset()
    """Rules (``Rule`` or ``pass/Rule``) that must not fire."""
    choices: Choices = field(default_factory=Choices)
    """What lossy passes may do, and what they proposed; everything where nobody says otherwise."""
    memo: Memo = field(default_factory=Memo)
    """Results of long computations that later runs of the pipeline, with other choices, need again."""
    trace: bool = False
    """Keep reasons of declined matches: slower, for ``explain`` and golden tests."""
    log: list[Application] | None = None
    """Where set, every application is appended."""
    witness: Callable[[str], None] | None = None
    """Called with the label of a rule or pass: whatever changed since the last call is its doing."""
    statistics: dict[str, RuleStatistics] = field(default_factory=dict[str, "RuleStatistics"])
    """Tries, hits and reasons per rule."""

    def note(self, message: str) -> None:
        if self.sink is not None:
            self.sink(message)


@dataclass
class RuleStatistics:
    """What happened to one rule."""

    tries: int = 0
    hits: int = 0
    reasons: dict[str, int] = field(default_factory=dict[str, int])
    """Why it declined, with counts (only under ``trace``)."""
    best: tuple[int, str, str] | None = None
    """Nearest miss: pattern nodes matched, the root's text, the reason (only under ``trace``)."""
