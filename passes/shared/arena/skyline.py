"""Exact search for a placement below a capacity, over skylines.

A state is the height up to which each section is filled. At the lowest height some section is chosen, where fewest
buffers can follow and least is left over, and one of them is put there, or none: then something else must come to rest
higher up, and the gap is lost. Every placement that has no buffer hanging in the air is met exactly once:

* a buffer begins at the floor or on top of another that lives with it (any placement can be pushed down so);
* buffers that do not live together need no order between them: what falls apart is searched apart;
* a section whose height and what is still to come exceed the capacity ends the branch.

Source: M. Moffitt, MiniMalloc, ASPLOS 2023 (sections, canonical placements, parts); own: the choice of the section,
and the loss of a gap as a branch.

With numba the search is compiled; without it the same lines are interpreted, about a hundred times slower.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple, TypeVar

FAILED, FOUND, UNFINISHED = 0, 1, 2

F = TypeVar("F", bound=Callable[..., Any])


def _compiler() -> Any:
    try:
        return import_module("numba").njit(cache=True)
    except ImportError:
        return None


_njit = _compiler()
COMPILED = _njit is not None


def compiled(function: F) -> F:
    return function if _njit is None else _njit(function)


_FAIL_WEIGHT = 0.05
"""How much a failure counts for the choice of a section."""
_NONE = 1 << 60

# Fields of a frame, which is one node of the search.
_START, _COUNT = 0, 1
"""Its buffers in the pool."""
_LOW, _HIGH = 2, 3
"""Its sections."""
_POOL = 4
"""Where in the pool the state of its sections is kept, four arrays."""
_CANDIDATES, _FOUND, _TRIED = 5, 6, 7
"""Where buffers to try lie in the pool, how many, and which one is placed."""
_PART, _PARTS_END = 8, 9
"""What is left to search of the parts into which the rest falls."""
_HEIGHT, _SECTION, _NEXT = 10, 11, 12
"""The place that is filled, and the height there if it is not."""
_STAGE = 13
FIELDS = 14
_ENTER, _WITHIN, _SKIPPED = 0, 1, 2


class Board(NamedTuple):
    """All that the search reads and writes; arrays of int64, but for the ones named."""

    first: Any
    last: Any
    size: Any
    alignment: Any
    rank: Any
    """float64: lower ones are tried first."""
    top: Any
    """Of each section: where the next buffer may begin."""
    real: Any
    """Of each section: the end of its highest buffer."""
    rest: Any
    """Of each section: bytes still to be placed."""
    offset: Any
    lowest: Any
    """Of each buffer: where it may begin; scratch."""
    fits: Any
    """Of each section: buffers that may begin at its height; scratch."""
    section_fails: Any
    """float64."""
    buffer_fails: Any
    """float64."""
    pool: Any
    frames: Any


@compiled
def _settle(board: Board, start: int, count: int, low: int, high: int, capacity: int) -> bool:
    """Raises sections to where something can begin, until nothing moves; False where the capacity is exceeded."""
    moved = True
    while moved:
        moved = False
        for s in range(low, high):
            board.fits[s] = _NONE
        for i in range(start, start + count):
            b = board.pool[i]
            at = 0
            for s in range(board.first[b], board.last[b]):
                if board.top[s] > at:
                    at = board.top[s]
            a = board.alignment[b]
            if at % a:
                at += a - at % a
            if at + board.size[b] > capacity:
                board.buffer_fails[b] += 1.0
                return False
            board.lowest[b] = at
            for s in range(board.first[b], board.last[b]):
                if at < board.fits[s]:
                    board.fits[s] = at
        for s in range(low, high):
            if board.rest[s] > 0:
                if board.fits[s] > board.top[s]:
                    board.top[s] = board.fits[s]
                    moved = True
                if board.top[s] + board.rest[s] > capacity:
                    board.section_fails[s] += 1.0
                    return False
    return True


@compiled
def _supported(board: Board, b: int, height: int) -> bool:
    """Whether the buffer would rest on another one, or on the floor."""
    if height == 0:
        return True
    a = board.alignment[b]
    for s in range(board.first[b], board.last[b]):
        at = board.real[s]
        if at % a:
            at += a - at % a
        if at == height:
            return True
    return False


@compiled
def _choose(board: Board, f: int, capacity: int) -> None:
    """The section to fill next, and in the pool the buffers that may begin there, best first."""
    frames, pool = board.frames, board.pool
    start, count, low, high = frames[f + _START], frames[f + _COUNT], frames[f + _LOW], frames[f + _HIGH]
    height = _NONE
    for s in range(low, high):
        board.fits[s] = 0
        if board.rest[s] > 0 and board.top[s] < height:
            height = board.top[s]
    following = _NONE  # where nothing begins here: on the first end of something beside it, or where others may begin
    for i in range(start, start + count):
        b = pool[i]
        if board.lowest[b] + board.size[b] < following:
            following = board.lowest[b] + board.size[b]
        if board.lowest[b] == height and _supported(board, b, height):
            for s in range(board.first[b], board.last[b]):
                board.fits[s] += 1
    section, best = -1, 1e300
    for s in range(low, high):
        if board.rest[s] > 0 and board.top[s] == height:
            spare = (capacity - height - board.rest[s]) / capacity
            value = (8.0 * spare + board.fits[s] + 0.1) / (1.0 + _FAIL_WEIGHT * board.section_fails[s])
            if value < best:
                section, best = s, value
    at, found = frames[f + _CANDIDATES], 0
    for i in range(start, start + count):
        b = pool[i]
        if not (board.first[b] <= section and section < board.last[b]):
            continue
        if board.lowest[b] > height:
            if board.lowest[b] < following:
                following = board.lowest[b]
        elif _supported(board, b, height):
            place = at + found
            while place > at and board.rank[pool[place - 1]] > board.rank[b]:
                pool[place] = pool[place - 1]
                place -= 1
            pool[place] = b
            found += 1
    frames[f + _FOUND], frames[f + _TRIED] = found, -1
    frames[f + _HEIGHT], frames[f + _SECTION], frames[f + _NEXT] = height, section, following


@compiled
def _keep(board: Board, f: int) -> None:
    """Writes the state of the node's sections to the pool, before they settle."""
    low, at = board.frames[f + _LOW], board.frames[f + _POOL]
    width = board.frames[f + _HIGH] - low
    for s in range(width):
        board.pool[at + s] = board.top[low + s]
        board.pool[at + s + width] = board.real[low + s]
        board.pool[at + s + 2 * width] = board.rest[low + s]


@compiled
def _keep_settled(board: Board, f: int) -> None:
    low, at = board.frames[f + _LOW], board.frames[f + _POOL]
    width = board.frames[f + _HIGH] - low
    for s in range(width):
        board.pool[at + s + 3 * width] = board.top[low + s]


@compiled
def _restore(board: Board, f: int, settled: bool) -> None:
    """Sections as they were when the node was entered, or after they settled."""
    low, at = board.frames[f + _LOW], board.frames[f + _POOL]
    width = board.frames[f + _HIGH] - low
    for s in range(width):
        board.top[low + s] = board.pool[at + s + (3 * width if settled else 0)]
        board.real[low + s] = board.pool[at + s + width]
        board.rest[low + s] = board.pool[at + s + 2 * width]


@compiled
def _next_candidate(board: Board, f: int) -> bool:
    """Goes to the next buffer to try that has no equal among those tried; False where there is none."""
    frames, pool = board.frames, board.pool
    at = frames[f + _CANDIDATES]
    while True:
        frames[f + _TRIED] += 1
        if frames[f + _TRIED] >= frames[f + _FOUND]:
            return False
        b = pool[at + frames[f + _TRIED]]
        fresh = True
        for i in range(at, at + frames[f + _TRIED]):
            c = pool[i]
            if (
                board.first[c] == board.first[b]
                and board.last[c] == board.last[b]
                and board.size[c] == board.size[b]
                and board.alignment[c] == board.alignment[b]
            ):
                fresh = False
        if fresh:
            return True


@compiled
def _place(board: Board, f: int, capacity: int) -> bool:
    """Puts a buffer at the node's height, and the others into the pool; False where a section is then too full."""
    frames, pool = board.frames, board.pool
    b = pool[frames[f + _CANDIDATES] + frames[f + _TRIED]]
    end = frames[f + _HEIGHT] + board.size[b]
    for s in range(board.first[b], board.last[b]):
        board.top[s] = end
        board.real[s] = end
        board.rest[s] -= board.size[b]
        if end + board.rest[s] > capacity:
            board.section_fails[s] += 1.0
            return False
    board.offset[b] = frames[f + _HEIGHT]
    at = frames[f + _CANDIDATES] + frames[f + _FOUND]
    frames[f + _PART] = at
    for i in range(frames[f + _START], frames[f + _START] + frames[f + _COUNT]):
        if pool[i] != b:
            pool[at] = pool[i]
            at += 1
    frames[f + _PARTS_END] = at
    return True


@compiled
def _push(board: Board, f: int, start: int, count: int, low: int, high: int, pool: int) -> None:
    frames = board.frames
    frames[f + _START], frames[f + _COUNT], frames[f + _LOW], frames[f + _HIGH] = start, count, low, high
    frames[f + _POOL], frames[f + _STAGE] = pool, _ENTER
    frames[f + _CANDIDATES] = pool + 4 * (high - low)


@compiled
def _push_part(board: Board, f: int) -> None:
    """The next part: buffers up to where no life crosses. They are sorted by their first section."""
    frames, pool = board.frames, board.pool
    start, end = frames[f + _PART], frames[f + _PARTS_END]
    at, reach = start, board.last[pool[start]]
    while at < end and (at == start or board.first[pool[at]] < reach):
        if board.last[pool[at]] > reach:
            reach = board.last[pool[at]]
        at += 1
    frames[f + _PART] = at
    _push(board, f + FIELDS, start, at - start, board.first[pool[start]], reach, end)


@compiled
def search(board: Board, count: int, capacity: int, limit: int) -> tuple[int, int]:
    """Places buffers ``pool[:count]``, which are sorted by their first section.

    What came of it, and the nodes that it took. ``offset`` holds the placement where one was found.
    """
    frames = board.frames
    nodes, depth = 0, 0
    frames[_STAGE], frames[_PART], frames[_PARTS_END] = _WITHIN, 0, count  # only holds the parts of the whole
    result = FOUND
    while True:
        f = depth * FIELDS
        if frames[f + _STAGE] == _ENTER:
            nodes += 1
            room = frames[f + _CANDIDATES] + 2 * frames[f + _COUNT]
            if nodes > limit or room > len(board.pool) or f + 2 * FIELDS > len(frames):
                return UNFINISHED, nodes
            _keep(board, f)
            low, high = frames[f + _LOW], frames[f + _HIGH]
            result = FAILED
            if not _settle(board, frames[f + _START], frames[f + _COUNT], low, high, capacity):
                _restore(board, f, False)
                depth -= 1
                continue
            _keep_settled(board, f)
            _choose(board, f, capacity)
            frames[f + _STAGE] = _WITHIN
        if frames[f + _STAGE] == _SKIPPED:
            if result == FAILED:
                _restore(board, f, False)
            depth -= 1
        elif result == FOUND:
            if frames[f + _PART] < frames[f + _PARTS_END]:
                _push_part(board, f)
                depth += 1
            elif depth == 0:
                return FOUND, nodes
            else:
                depth -= 1
        elif depth == 0:
            return FAILED, nodes
        else:
            if frames[f + _TRIED] >= 0:
                _restore(board, f, True)
            if _next_candidate(board, f):
                result = FOUND if _place(board, f, capacity) else FAILED
                continue
            section = frames[f + _SECTION]
            board.top[section] = frames[f + _NEXT]
            if board.top[section] + board.rest[section] > capacity:
                board.section_fails[section] += 1.0
                _restore(board, f, False)
                depth -= 1
                continue
            frames[f + _STAGE] = _SKIPPED
            at = frames[f + _CANDIDATES] + frames[f + _FOUND]
            _push(board, f + FIELDS, frames[f + _START], frames[f + _COUNT], frames[f + _LOW], frames[f + _HIGH], at)
            depth += 1
