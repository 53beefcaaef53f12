"""Sources go right in front of the only node that needs them: nothing is gained by doing them sooner.

A source (a node that waits for nothing) only adds to what is alive. Moved behind everything that does not need it, it
leaves every step between with less. So does a node that only waits for such sources and frees none of what they made,
as a view of a constant. With them as parts of their readers, what is left has few beginnings, and falls apart where
everything goes through one node. (A node that frees something may better come early, while little else is alive:
``units.py``.)
"""

from __future__ import annotations

from .tasks import Tasks


def bundled(tasks: Tasks) -> tuple[Tasks, list[list[int]]]:
    """Tasks in which sources are parts of their only readers, and the nodes of each, in an order."""
    count = len(tasks)
    readers: list[set[int]] = [set() for _ in range(count)]
    for i, before in enumerate(tasks.before):
        for j in before:
            readers[j].add(i)
    given = set(tasks.given)
    into = list(range(count))  # the node of which each has become a part
    inside = [[i] for i in range(count)]  # of nodes that take in others: the makers of storages that live on
    for i in range(count):  # whatever is needed for a node comes before it
        own = set(inside[i])
        alone = all(into[j] == i for j in tasks.before[i]) and not any(s in given for s in tasks.touched[i])
        frees = any(own.issuperset(tasks.users[s]) for s in (*tasks.touched[i], *tasks.made[i]))
        if alone and len(readers[i]) == 1 and not tasks.work[i] and not frees:
            (into[i],) = readers[i]
            inside[into[i]] += inside[i]
    roots = [i for i in range(count) if into[i] == i]
    number = {root: n for n, root in enumerate(roots)}
    parts = _parts(into)
    into = [root for _, root in sorted((i, root) for root in roots for i in parts[root])]
    found = Tasks(size=tasks.size, kept=tasks.kept, given=tasks.given, users=[[] for _ in tasks.size])
    for n, root in enumerate(roots):
        members = parts[root]
        found.before.append(sorted({number[into[j]] for m in members for j in tasks.before[m]} - {n}))
        found.made.append([s for m in members for s in tasks.made[m]])
        found.touched.append(list(dict.fromkeys(s for m in members for s in tasks.touched[m])))
        found.overwrites.append(tasks.overwrites[root])
        found.work.append(tasks.work[root])
        for s in dict.fromkeys((*found.touched[n], *found.made[n])):
            found.users[s].append(n)
    return found, [parts[root] for root in roots]


def _parts(into: list[int]) -> list[list[int]]:
    """Nodes of each bundle in an order, by its last node; what became a part later comes first. Others have none."""
    inside: list[list[int]] = [[] for _ in into]
    for i, whole in enumerate(into):
        if whole != i:
            inside[whole].append(i)
    found: list[list[int]] = [[] for _ in into]
    for root, whole in enumerate(into):
        if whole != root:
            continue
        stack = [root]
        while stack:
            node = stack.pop()
            found[root].append(node)
            stack += reversed(inside[node])
        found[root].reverse()
    return found
