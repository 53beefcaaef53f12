"""Which operators run on integers where some products do, and which values must share their parameters.

Products (convolutions, matrix products) are chosen by others. Whatever else can run on integers does so where it lies
between them: each activation comes as integers, and somebody takes its result as integers. Scale groups are the
classes of values that operators which move data connect, over the whole model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from ....ir.graph import Node, Value
from .rules import Output
from .sites import Site


class Member(NamedTuple):
    """A value that is ``gain`` times the one its set is measured by, plus ``shift``."""

    value: Value
    gain: float
    shift: float


Group: TypeAlias = list[Member]


@dataclass
class Regions:
    """What runs on integers."""

    sites: dict[Node, Site]
    """All sites at work, products among them, by node."""
    makers: dict[Value, Site] = field(default_factory=dict[Value, Site])
    """The site that computes a value, or the activation behind it."""
    takers: dict[Value, set[Node]] = field(default_factory=dict[Value, set[Node]])
    """Sites at work that take a value as integers."""

    def gives_integers(self, site: Site) -> bool:
        """Whether the results are integers. An operator with a choice gives floats unless somebody takes integers: then
        all read these, since its kernel has one kind of result."""
        if site.rule.output is Output.REQUIRED:
            return True
        return site.rule.output is Output.OPTIONAL and any(self.takers.get(r) for r in site.results)

    def comes_as_integers(self, value: Value) -> bool:
        """Whether the node that computes the value gives integers."""
        maker = self.makers.get(value)
        return maker is not None and maker.node in self.sites and self.gives_integers(maker)

    def stored(self) -> list[Value]:
        """Every value that is quantized, in order."""
        found: dict[Value, None] = {}
        for site in self.sites.values():
            found.update((v, None) for v in site.data)
            if self.gives_integers(site):
                found.update((r, None) for r in site.results)
        return list(found)

    def groups(self) -> list[Group]:
        """Classes of quantized values whose parameters follow from each other; most have one member."""
        classes = Classes()
        for site in self.sites.values():
            if site.rule.equal and self.gives_integers(site):
                for value in (*site.data[1:], *site.results):
                    classes.join(site.data[0], value, *site.map)
            elif site.rule.variadic:
                for value in site.activations:
                    if self._is_only_joined(value):
                        classes.join(site.result, value)
        found: dict[Value, Group] = {}
        for value in self.stored():
            root, gain, shift = classes.find(value)
            found.setdefault(root, []).append(Member(value, gain, shift))
        return list(found.values())

    def _is_only_joined(self, value: Value) -> bool:
        """Whether a value in floats becomes integers for one Concat only, and for what moves it: with the Concat's own
        parameters it is rounded once."""
        takers = [self.sites[n] for n in self.takers.get(value, ()) if n in self.sites]
        joins = sum(not s.rule.equal for s in takers)
        return joins == 1 and not self.comes_as_integers(value)


class Classes:
    """Disjoint sets of values, each an affine function of the one that stands for its set."""

    def __init__(self) -> None:
        self._above: dict[Value, Member] = {}

    def find(self, value: Value) -> Member:
        """``(root, gain, shift)`` with ``value = gain * root + shift``."""
        path: list[Value] = []
        while value in self._above:
            path.append(value)
            value = self._above[value].value
        gain, shift = 1.0, 0.0
        for below in reversed(path):  # the nearest to the root first
            _, g, h = self._above[below]
            gain, shift = g * gain, g * shift + h
            self._above[below] = Member(value, gain, shift)
        return Member(value, gain, shift)

    def join(self, a: Value, b: Value, gain: float = 1.0, shift: float = 0.0) -> None:
        """Says that ``b = gain * a + shift``, with a positive gain."""
        first, second = self.find(a), self.find(b)
        if first.value is not second.value:
            g = gain * first.gain / second.gain
            h = (gain * first.shift + shift - second.shift) / second.gain
            self._above[second.value] = Member(first.value, g, h)


def regions_of(sites: Iterable[Site]) -> Regions:
    """All of the sites at work."""
    found = Regions({s.node: s for s in sites})
    for site in found.sites.values():
        found.makers.update((r, site) for r in site.results)
        for value in site.activations:
            found.takers.setdefault(value, set()).add(site.node)
    return found


def solve(chosen: Iterable[Site], others: Iterable[Site]) -> Regions:
    """The largest set of ``others`` that lies between the ``chosen`` products, with these, in the order given."""
    chosen = list(chosen)
    found = regions_of((*chosen, *others))
    asked = {v for s in chosen for v in s.activations}
    for site in reversed([s for s in found.sites.values() if s.rule.variadic and not s.rule.equal]):
        if site.result in asked:  # to quantize what a Concat joins costs what quantizing its result would
            asked.update(site.activations)
    fixed = {s.node for s in chosen}
    queue = deque(s for s in found.sites.values() if s.node not in fixed)
    while queue:
        site = queue.popleft()
        if site.node not in found.sites or _belongs(site, found, asked):
            continue
        del found.sites[site.node]
        for value in site.activations:
            found.takers[value].discard(site.node)
        queue.extend(s for s in _around(site, found) if s.node not in fixed)
    return found


def _belongs(site: Site, found: Regions, asked: set[Value]) -> bool:
    large = [v for v in site.activations if not _is_gate(v, site.result)]
    if not large or not all(v in asked or found.comes_as_integers(v) for v in large):
        return False
    return site.rule.output is Output.FLOAT or any(found.takers.get(r) for r in site.results)


def _is_gate(value: Value, result: Value) -> bool:
    """Whether the value has one number for each channel of a result with many: to quantize it costs next to nothing."""
    if value.shape is None or result.shape is None or len(value.shape) != len(result.shape):
        return False
    return all(d == 1 for d in value.shape[2:]) and any(d != 1 for d in result.shape[2:])


def _around(site: Site, found: Regions) -> Iterator[Site]:
    """Sites that may no longer belong once ``site`` is gone: whoever gave to it, and whoever takes what it or an
    operator with a choice in front of it gives."""
    for value in site.activations:
        maker = found.makers.get(value)
        if maker is None or maker.node not in found.sites:
            continue
        yield maker
        for result in maker.results:
            yield from (found.sites[n] for n in found.takers.get(result, ()) if n in found.sites)
    for result in site.results:
        yield from (found.sites[n] for n in found.takers.get(result, ()) if n in found.sites)
