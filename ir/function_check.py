"""Recursion among model-local functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

from .graph import Node

Key: TypeAlias = tuple[str, str, str]
"""Domain, name and overload of a function."""


def call_cycles(calls: Mapping[Key, Mapping[Key, Node]]) -> Iterator[tuple[list[Key], Node]]:
    """Cycles of calls, each once by the call that closes it: the functions in order, and that call.

    ``calls`` has for every function the functions it calls, each with a calling node. The search keeps
    its own stack: chains of calls may be long.
    """
    done: set[Key] = set()
    for start in calls:
        if start in done:
            continue
        path: list[Key] = [start]
        on_path = {start}
        pending: list[Iterator[Key]] = [iter(calls[start])]
        while pending:
            callee = next(pending[-1], None)
            if callee is None:
                pending.pop()
                finished = path.pop()
                on_path.discard(finished)
                done.add(finished)
            elif callee in on_path:
                cycle = [*path[path.index(callee) :], callee]
                yield cycle, calls[path[-1]][callee]
            elif callee not in done and callee in calls:
                path.append(callee)
                on_path.add(callee)
                pending.append(iter(calls[callee]))
