"""Sources go right in front of the only node that needs them: nothing is gained by doing them sooner.

A source (a node that waits for nothing) only adds to what is alive. Moved behind everything that does not need it, it
leaves every step between with less. With such sources as parts of their readers, what is left has few beginnings, and
falls apart where everything goes through one node.
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
    into = list(range(count))  # the node of which each has become a part
    parts: list[list[int]] = [[i] for i in range(count)]
    for i in range(count):  # whatever is needed for a node comes before it
        alone = all(into[j] == i for j in tasks.before[i]) and not any(s in tasks.given for s in tasks.touched[i])
        if alone and len(readers[i]) == 1 and not tasks.work[i]:
            (reader,) = readers[i]
            into[i] = reader
            parts[reader] = [*parts[i], *parts[reader]]
            for j in parts[i]:
                into[j] = reader
    roots = [i for i in range(count) if into[i] == i]
    number = {root: n for n, root in enumerate(roots)}
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
