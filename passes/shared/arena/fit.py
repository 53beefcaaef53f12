"""Searches for one capacity: descents in several orders, disturbed at random, that learn where branches end.

Solutions lie near a straight descent, and no single order finds them all: so a descent may take few more nodes than
there are buffers, and then the next order has its turn. Buffers and sections at which branches ended come sooner the
next time. Source: F. Boussemart et al., Boosting systematic search by weighting constraints, ECAI 2004.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .buffers import Array, Buffer, Sections
from .greedy import fullest_of
from .skyline import COMPILED, FAILED, FIELDS, FOUND, Board, search

_ORDER_WEIGHT = 0.3
"""How much failures count for an order, and what becomes of them from one descent to the next."""
_FADING = 0.5
_NOISE = 0.05
_EXTRA_NODES, _MORE = 100, 0.5
"""Nodes of a descent beyond one for each buffer, and by how much more with each round of restarts."""
_MOST_NUMBERS = 1 << 24
"""Of the search's memory, eight bytes each."""


@dataclass(frozen=True)
class Searched:
    """What a search for one capacity came to."""

    offsets: list[int] | None
    impossible: bool
    """No placement fits: every one was excluded."""
    nodes: int


def fit(buffers: Sequence[Buffer], sections: Sections, capacity: int, nodes: int) -> Searched:
    """A placement below ``capacity`` bytes, searched in at most about ``nodes`` nodes. Deterministic."""
    if sections.bound > capacity:
        return Searched(None, True, 0)
    board = _board(buffers, sections)
    order = np.argsort(sections.first, kind="stable")
    random = np.random.default_rng(0)
    scores = _scores(buffers, sections)
    count, spent, restart = len(buffers), 0, 0
    while spent < nodes:
        turn = restart // len(scores)
        rank = _rank(board, sections, scores[restart % len(scores)])
        if turn:
            rank += random.normal(size=count) * (count * _NOISE * (1 + turn % 3))
        limit = min(count + int(_EXTRA_NODES * (1 + turn * _MORE)), nodes - spent)
        found, taken = _run(board, sections, order, rank, capacity, limit)
        spent += taken
        if found == FOUND:
            return Searched([int(o) for o in board.offset], False, spent)
        if found == FAILED:
            return Searched(None, True, spent)
        restart += 1
    return Searched(None, False, spent)


def too_large(buffers: Sequence[Buffer], sections: Sections) -> bool:
    """Whether the search would take too much memory."""
    return _pool_size(len(buffers), len(sections.live)) > _MOST_NUMBERS


def _pool_size(count: int, width: int) -> int:
    """Numbers that a descent can need: sections and buffers of each node, of which there are ever fewer."""
    return (count + 64) * (4 * width + 2 * count)


def _board(buffers: Sequence[Buffer], sections: Sections) -> Board:
    count, width = len(buffers), len(sections.live)

    def integers(values: Any) -> Any:
        return _array(np.asarray(values, np.int64))

    def reals(length: int) -> Any:
        return _array(np.zeros(length))

    return Board(
        first=integers(sections.first),
        last=integers(sections.last),
        size=integers([b.size for b in buffers]),
        alignment=integers([b.alignment for b in buffers]),
        rank=reals(count),
        top=integers(np.zeros(width)),
        real=integers(np.zeros(width)),
        rest=integers(np.zeros(width)),
        offset=integers(np.zeros(count)),
        lowest=integers(np.zeros(count)),
        fits=integers(np.zeros(width)),
        section_fails=reals(width),
        buffer_fails=reals(count),
        pool=integers(np.zeros(_pool_size(count, width))),
        frames=integers(np.zeros((4 * count + 64) * FIELDS)),
    )


def _array(values: Array) -> Any:
    """Interpreted, lists are three times faster to index than arrays."""
    return values if COMPILED else values.tolist()


def _run(board: Board, sections: Sections, order: Array, rank: Array, capacity: int, limit: int) -> tuple[int, int]:
    width, count = len(sections.live), len(order)
    for s, live in enumerate(sections.live.tolist()):
        board.top[s], board.real[s], board.rest[s] = 0, 0, live
    for i, b in enumerate(order.tolist()):
        board.pool[i] = b
        board.rank[b] = float(rank[b])
    found = search(board, count, capacity, limit)
    for s in range(width):
        board.section_fails[s] *= _FADING
    for b in range(count):
        board.buffer_fails[b] *= _FADING
    return found


def _scores(buffers: Sequence[Buffer], sections: Sections) -> list[Array]:
    """[n] each: the place of every buffer in an order."""
    width = np.array([b.upper - b.lower for b in buffers], float)
    size = np.array([b.size for b in buffers], float)
    span = max((b.upper for b in buffers), default=1) - min((b.lower for b in buffers), default=0)
    sums = width / max(span, 1) + size / max(sections.bound, 1)
    keys = [(-width,), (-width * size,), (-sums,), (-width * size, -width, -fullest_of(sections))]
    found: list[Array] = []
    for key in keys:
        place = np.empty(len(buffers))
        place[np.lexsort(key)] = np.arange(len(buffers))
        found.append(place)
    return found


def _rank(board: Board, sections: Sections, score: Array) -> Array:
    """The order, with buffers first in whose sections branches ended."""
    fails = np.concatenate([[0.0], np.cumsum(np.asarray(board.section_fails, float))])
    width = np.maximum(sections.last - sections.first, 1)
    weight = np.asarray(board.buffer_fails, float) + (fails[sections.last] - fails[sections.first]) / width
    return score - _ORDER_WEIGHT * len(score) * weight / max(weight.max(initial=0.0), 1e-9)
