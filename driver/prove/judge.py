"""The exact check of one rewrite, on wider and wider cuts, until it succeeds or there is no more to see."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from .cut import MAX_LEVELS, Cut, Frame, cut, first_frame, obligations, region_frame, wider
from .evaluate import Limits
from .exact import Finding, check
from .ledger import CHECKED, PROVED, UNCHECKED, Verdict
from .snapshot import Change

ONE_SIDED = "it rests on a range: a branch was never taken"
OPSET = "it raises the opset, of which every node's meaning depends"


@dataclass
class Effort:
    """What the exact check of one rewrite may cost."""

    limits: Limits = field(default_factory=Limits)
    seconds: float = 2.0
    """CPU time."""
    levels: int = MAX_LEVELS
    """Nodes in front of the rewrite that may come into the cut."""


def judge(change: Change, effort: Effort | None = None) -> tuple[Verdict, Cut | None]:
    """The exact check's verdict, and the widest cut on which both sides could be compared by running them."""
    effort = effort or Effort()
    if not _same_opsets(change):
        return Verdict(UNCHECKED, OPSET), None
    pairs = obligations(change)
    if pairs is None:
        return Verdict(UNCHECKED, "a body returns other values"), None
    if not pairs:
        return Verdict(PROVED, "nothing that is used changed"), None
    deadline = time.process_time() + effort.seconds
    frames: list[Frame | None] = [first_frame(change), region_frame(change)]
    widest: Cut | None = None
    why, differed = "", False
    for _ in range(effort.levels + 1):
        for frame in frames:
            made = cut(frame) if frame is not None else None
            if made is None:
                continue
            found = check(made, effort.limits)
            if found.equal and differed and found.one_sided:
                why, widest = ONE_SIDED, made
                continue
            if found.equal:
                return Verdict(PROVED if found.proved else CHECKED, found.how), made
            differed = differed or found.equal is False
            widest, why = made, _why(made, found)
            if time.process_time() > deadline:
                return Verdict(UNCHECKED, f"{why}; the time was up"), widest
        frames = [None if f is None else wider(f) for f in frames]
        if not any(frames):
            break
    return Verdict(UNCHECKED, why or "it cannot be cut out"), widest


def _same_opsets(change: Change) -> bool:
    """Whether nodes that the rewrite left alone still mean the same."""
    for domain, version in change.before.opsets.items():
        now = change.after.opsets.get(domain)
        if now != version and (now is not None or any(s.domain == domain for s in change.after.base.values())):
            return False
    return True


def _why(made: Cut, found: Finding) -> str:
    if found.equal is None:
        return found.how
    return f"{found.how}, for operands of any value" + (" that the model may be given" if made.whole else "")
