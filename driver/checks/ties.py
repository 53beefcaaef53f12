"""Positions of equal values: where two scores tie within rounding, either of their positions is right.

ArgMax, ArgMin, TopK and NonMaxSuppression turn numbers into positions. A result that differs from the original's is
one of a tie where it comes from another choice among scores that the bound of ``compare.py`` does not tell apart.

* Where the positions themselves are returned (cast or reshaped, at most), the scores at both are compared, and within
  a row they must stay distinct. What does not tie is different, however much noise changes by itself.
* Where something is computed from them (Gather, arithmetic), the original runs again with other choices put in the
  place of the node's own. An element of the result may be what any of these runs gives; and where not more than
  ``MAX_RUNS`` single positions have an alternative, one choice for all of them must give the whole result, so that a
  row that was looked up is one row of the table, and not looked up twice where TopK chose it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from ...backends.core import Array, Outputs, Sample
from ...backends.ort.session import Session
from ...ir.clone import clone_model
from ...ir.errors import BackendError
from ...ir.graph import Model, Node, Port, Value
from .compare import DIFFERENT, ROUNDED, Noise, OutputCheck, float_bound, is_float, leaves

CHOOSERS = {"ArgMax": 0, "ArgMin": 0, "TopK": 1, "NonMaxSuppression": 0}
"""Operators whose results are positions, and which result that is."""
SCORES = {"NonMaxSuppression": 1}
"""Which operand the positions are chosen by, where it is not the first."""
MAX_NODES = 8
MAX_CHOICES = 8
"""Other positions that are tried for each one."""
MAX_RUNS = 64
"""Single positions that are exchanged one after the other, to find one choice that explains a whole result."""
MAX_PAIRS = 1 << 24
"""Pairs of a position and a candidate; larger nodes are left alone."""
_SAME_ORDER = frozenset(("Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast"))
_CHOICE = "planish_choice"


class Measured(Protocol):
    """What :class:`Ties` needs of a reference: outputs of a sample and their noise."""

    samples: list[Sample]

    def outputs(self, i: int) -> Outputs: ...

    def noise(self, i: int) -> dict[str, Noise]: ...


class Ties:
    """The choices of one model. Nothing runs before it is asked for."""

    def __init__(self, model: Model, measure: Callable[[Model], Measured]) -> None:
        """``measure`` makes a reference of a model."""
        self.model = model
        self.names = [port.name for port in model.graph.ports]
        self.count = len(_choosers(model))
        self.samples: list[Sample] = []
        self._measure = measure
        self._scores: Measured | None = None
        self._sessions: dict[tuple[int, ...], Session] = {}
        self._runs: dict[int, list[dict[str, Any]]] = {}

    def check(
        self,
        i: int,
        samples: list[Sample],
        label: str,
        pair: tuple[Any, Any],
        again: Callable[[str, Any, Any], OutputCheck],
    ) -> OutputCheck | None:
        """The result for one output when ties are understood; ``None`` where they do not explain the difference.

        ``i`` is the number of the sample, ``pair`` what the original and the other model gave for it, ``again``
        compares two arrays.
        """
        expected, found = pair
        if not self.count or expected is None or found is None:
            return None
        if expected.shape != found.shape or expected.dtype != found.dtype:
            return None
        self.samples = samples
        try:
            positions = self._positions_behind(i, label, expected)
            if positions is not None:
                node, original = positions
                tied = self._all_tie(i, node, original, found.reshape(original.shape))
                return _moved(label, expected, found, node) if tied else again(label, expected, found)
            adapted = expected
            for run in self._alternatives(i):
                other = run.get(label)
                if other is not None and other.shape == found.shape and other.dtype == found.dtype:
                    adapted = _closer(adapted, other, found)
            result = again(label, adapted, found)
            if result.status == DIFFERENT or not _differs(adapted, expected).any():
                return None
            one = self._one_choice(i, label, expected, found)
            if one is not None and again(label, one, found).status == DIFFERENT:
                return None
        except BackendError:
            return None  # an original that does not run so has no ties that we know of
        return _moved(label, expected, adapted, None)

    # -- runs

    def _alternatives(self, i: int) -> list[dict[str, Any]]:
        """What the original gives with other choices, by output."""
        if i not in self._runs:
            runs: list[dict[str, Any]] = []
            for k, choices in enumerate(self._choices(i)):
                runs.extend(self._run(i, {k: choice}) for choice in choices)
            self._runs[i] = runs
        return self._runs[i]

    def _run(self, i: int, chosen: dict[int, Array]) -> dict[str, Any]:
        """What the original gives where these nodes choose so, by output."""
        given = {f"{_CHOICE}{k}": choice for k, choice in chosen.items()}
        return dict(leaves(self.names, self._session(tuple(sorted(chosen))).run({**self.samples[i], **given})))

    def _session(self, which: tuple[int, ...]) -> Session:
        """The original with the positions of these nodes as inputs."""
        if which not in self._sessions:
            copy = clone_model(self.model)
            nodes = _choosers(copy)
            for k in which:
                chosen = nodes[k].outputs[CHOOSERS[nodes[k].op]]
                chosen.replace_uses(copy.graph.add_input(f"{_CHOICE}{k}", chosen.type))
            self._sessions[which] = Session(copy)
        return self._sessions[which]

    def _one_choice(self, i: int, label: str, expected: Array, found: Array) -> Array | None:
        """What one choice gives that comes as near to ``found`` as can be, position by position.

        ``None`` where there are too many positions to say. Where it names a position twice, ``expected``.
        """
        single = [
            (k, at, choice)
            for k, rest in enumerate(self._choices(i))
            for choice in rest
            for at in self._other(i, k, choice)
        ]
        if len(single) > MAX_RUNS:
            return None
        best, chosen = expected, dict[int, Array]()
        for k, at, choice in single:
            trial = chosen.get(k, self._own(i, k)).copy()
            trial.flat[at] = choice.flat[at]
            other = self._run(i, {**chosen, k: trial}).get(label)
            if other is not None and other.shape == found.shape and _distance(other, found) < _distance(best, found):
                best, chosen[k] = other, trial
        rows = {k: self._rows(i, _choosers(self.model)[k]) for k in chosen}
        return best if all(r is not None and r.distinct(chosen[k]) for k, r in rows.items()) else expected

    def _own(self, i: int, k: int) -> Array:
        return np.asarray(self._measured().outputs(i)[2 * k + 1])

    def _other(self, i: int, k: int, choice: Array) -> list[int]:
        """Where a choice is not the node's own."""
        return [int(at) for at in np.flatnonzero(choice != self._own(i, k))]

    def _choices(self, i: int) -> list[list[Array]]:
        """For each node other positions, in arrays that can stand for its result."""
        found: list[list[Array]] = []
        for node in _choosers(self.model):
            rows = self._rows(i, node)
            found.append(rows.alternatives() if rows is not None else [])
        return found

    def _rows(self, i: int, node: Node) -> _Rows | None:
        """Scores and positions of a node; ``None`` where there are none. Integers tie where they are equal."""
        k = _choosers(self.model).index(node)
        measured = self._measured()
        scores, positions = (np.asarray(a) for a in measured.outputs(i)[2 * k : 2 * k + 2])
        if not scores.size or not positions.size:
            return None
        noise = measured.noise(i).get(f"scores{k}")
        bound = float_bound(scores, noise) if is_float(scores) else np.zeros(scores.shape)
        return _Rows(node, scores.astype(np.float64), positions, bound)

    def _measured(self) -> Measured:
        if self._scores is None:
            copy = clone_model(self.model)
            values: list[Value] = []
            names: list[str] = []
            for k, node in enumerate(_choosers(copy)):
                scores = node.inputs[SCORES.get(node.op, 0)]
                assert scores is not None
                values += [scores, node.outputs[CHOOSERS[node.op]]]
                names += [f"scores{k}", f"positions{k}"]
            copy.graph.ret.set_inputs(values)
            copy.graph.ports = [Port(name) for name in names]
            self._scores = self._measure(copy)
        self._scores.samples = self.samples
        return self._scores

    # -- positions that are returned

    def _positions_behind(self, i: int, label: str, expected: Array) -> tuple[Node, Array] | None:
        """The node whose positions an output holds, and the positions; ``None`` where it holds something else."""
        port = next((k for k, name in enumerate(self.names) if name == label), None)
        node = _chooser_behind(self.model.graph.outputs[port] if port is not None else None)
        choosers = _choosers(self.model)
        if node is None or node not in choosers or expected.dtype.kind not in "iuf":
            return None
        positions = np.asarray(self._measured().outputs(i)[2 * choosers.index(node) + 1])
        if positions.size != expected.size or not np.array_equal(expected.reshape(positions.shape), positions):
            return None
        return node, positions

    def _all_tie(self, i: int, node: Node, positions: Array, found: Array) -> bool:
        rows = self._rows(i, node)
        return rows is not None and rows.tie(found) and rows.distinct(found)


def _moved(label: str, expected: Array, found: Array, node: Node | None) -> OutputCheck:
    count = int(_differs(expected, found).sum())
    by = f" ({node.op} {node.name or node.outputs[0].name!r})" if node is not None else ""
    return OutputCheck(label, ROUNDED, reason=f"{count} of {expected.size} elements follow another of equal values{by}")


def _choosers(model: Model) -> list[Node]:
    """The nodes of the main graph whose positions are used, in order."""
    found = [n for n in model.graph if not n.domain and n.op in CHOOSERS and len(n.outputs) > CHOOSERS[n.op]]
    return [n for n in found if n.outputs[CHOOSERS[n.op]].uses][:MAX_NODES]


def _chooser_behind(value: Value | None) -> Node | None:
    """The node whose positions these are, in the same order."""
    while value is not None and value.producer is not None and not value.producer.domain:
        node = value.producer
        if node.op in CHOOSERS:
            return node if node.outputs[CHOOSERS[node.op]] is value else None
        if node.op not in _SAME_ORDER:
            return None
        value = node.inputs[0]
    return None


class _Rows:
    """The scores that a node chooses among: ``[r, n]`` with their bounds, and the positions it chose, ``[r, k]``."""

    def __init__(self, node: Node, scores: Array, positions: Array, bound: Array) -> None:
        self.node, self.positions = node, positions
        self.axis = 0
        if node.op == "NonMaxSuppression":
            batch, kind = positions[:, 0], positions[:, 1]
            self.scores, self.bound = scores[batch, kind], bound[batch, kind]
            return
        axis = int(node.attr("axis", -1 if node.op == "TopK" else 0))
        self.axis = axis + scores.ndim if axis < 0 else axis
        self.scores = np.moveaxis(scores, self.axis, -1).reshape(-1, scores.shape[self.axis])
        self.bound = np.moveaxis(bound, self.axis, -1).reshape(self.scores.shape)

    def lines(self, positions: Array) -> Array:
        """Positions in the node's own form as ``[r, k]``."""
        if self.node.op == "NonMaxSuppression":
            return positions[:, 2:]
        kept = positions if self._keeps_axis else np.expand_dims(positions, self.axis)
        return np.moveaxis(kept, self.axis, -1).reshape(len(self.scores), -1)

    def back(self, lines: Array) -> Array:
        """Undoes :meth:`lines`."""
        if self.node.op == "NonMaxSuppression":
            return np.concatenate([self.positions[:, :2], lines], 1)
        kept = self.positions if self._keeps_axis else np.expand_dims(self.positions, self.axis)
        moved = lines.reshape(np.moveaxis(kept, self.axis, -1).shape)
        return np.ascontiguousarray(np.moveaxis(moved, -1, self.axis)).reshape(self.positions.shape)

    @property
    def _keeps_axis(self) -> bool:
        return self.node.op == "TopK" or bool(self.node.attr("keepdims", 1))

    def tie(self, found: Array) -> bool:
        """Whether all positions ``found`` have scores that tie with those of the node's own."""
        if self.node.op == "NonMaxSuppression" and not np.array_equal(found[:, :2], self.positions[:, :2]):
            return False
        with np.errstate(invalid="ignore"):
            other, own = self.lines(found).astype(np.int64), self.lines(self.positions)
            if ((other < 0) | (other >= self.scores.shape[1])).any() or (self.lines(found) != other).any():
                return False
            a, b = np.take_along_axis(self.scores, own, 1), np.take_along_axis(self.scores, other, 1)
            limit = np.take_along_axis(self.bound, own, 1) + np.take_along_axis(self.bound, other, 1)
            return bool(((own == other) | (a == b) | (np.abs(a - b) <= limit)).all())

    def distinct(self, found: Array) -> bool:
        """Whether no row names a position twice."""
        if self.node.op == "NonMaxSuppression":
            return len(np.unique(found, axis=0)) == len(found)
        lines = np.sort(self.lines(found), axis=1)
        return not bool((lines[:, 1:] == lines[:, :-1]).any())

    def alternatives(self) -> list[Array]:
        """Arrays like the node's own; each holds other positions that tie, or the same where there is none."""
        return [self.back(lines) for lines in _candidates(self.scores, self.bound, self.lines(self.positions))]


def _candidates(rows: Array, bound: Array, chosen: Array) -> list[Array]:
    """For rows of scores ``[r, n]`` and positions ``[r, k]``: arrays of other positions that tie, ``[r, k]`` each."""
    if rows.shape[0] * chosen.shape[1] * rows.shape[1] > MAX_PAIRS:
        return []
    at = chosen.astype(np.int64)
    value, limit = np.take_along_axis(rows, at, 1)[:, :, None], np.take_along_axis(bound, at, 1)[:, :, None]
    with np.errstate(invalid="ignore"):
        ties = (rows[:, None] == value) | (np.abs(rows[:, None] - value) <= limit + bound[:, None])
    np.put_along_axis(ties, at[:, :, None], False, 2)
    count = int(min(MAX_CHOICES, ties.sum(2).max()))
    order = np.argsort(~ties, axis=2, kind="stable")[:, :, :count]
    real = np.take_along_axis(ties, order, 2)
    return [np.where(real[:, :, m], order[:, :, m], at).astype(chosen.dtype) for m in range(count)]


def _closer(best: Array, other: Array, found: Array) -> Array:
    """``best`` with those elements of ``other`` that are closer to ``found``."""
    if not is_float(best):
        return np.where(np.asarray(other == found), other, best)
    with np.errstate(invalid="ignore"):
        near, far = (np.abs(a.astype(np.float64) - found.astype(np.float64)) for a in (other, best))
        return np.where(near < far, other, best)


def _distance(a: Array, found: Array) -> float:
    """How far results are apart: by elements that differ, or by what they differ."""
    if not is_float(a):
        return float(_differs(a, found).sum())
    with np.errstate(invalid="ignore"):
        return float(np.nansum(np.abs(a.astype(np.float64) - found.astype(np.float64))))


def _differs(a: Array, b: Array) -> Array:
    return (a != b) & ~((a != a) & (b != b))
