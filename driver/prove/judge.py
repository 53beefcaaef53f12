"""The exact check of one rewrite, on wider and wider cuts, until it succeeds or there is no more to see."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from .cut import MAX_LEVELS, Cut, Frame, cut, wider
from .evaluate import Limits
from .exact import Finding, check
from .frames import end_frame, first_frame, obligations, outer_frame, region_frame
from .ledger import CHECKED, PROVED, UNCHECKED, Verdict
from .opsets import judge_opsets, raises
from .snapshot import Change

OPSET_EFFORT = 10
"""How much more a rewrite may cost that touches all nodes."""
ONE_SIDED = "it rests on a range: a branch was never taken"


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
    if raises(change):
        search = _Search(effort, time.process_time() + OPSET_EFFORT * effort.seconds)
        return judge_opsets(change, search.verdict), None
    pairs = obligations(change)
    if pairs is None:
        return Verdict(UNCHECKED, "a body returns other values"), None
    if not pairs:
        return Verdict(PROVED, "nothing that is used changed"), None
    search = _Search(effort, time.process_time() + effort.seconds)
    for frames in ((first_frame, region_frame), (outer_frame, end_frame)):
        found = search.widen([frame(change) for frame in frames])
        if found is not None:
            return found
    return search.nothing, search.widest


@dataclass
class _Search:
    """Looks at one cut after the other."""

    effort: Effort
    deadline: float
    widest: Cut | None = None
    """The last cut that could be compared."""
    why: str = ""
    """Why nothing was shown so far."""
    differed: bool = False

    @property
    def nothing(self) -> Verdict:
        """That nothing was shown."""
        return Verdict(UNCHECKED, self.why or "it cannot be cut out")

    def verdict(self, frame: Frame) -> Verdict:
        """The verdict on one frame."""
        self.why, self.differed = "", False
        found = self.widen([frame])
        return self.nothing if found is None else found[0]

    def widen(self, frames: list[Frame | None]) -> tuple[Verdict, Cut | None] | None:
        """The verdict where one of the frames, or one around it, shows something or the time is up."""
        for _ in range(self.effort.levels + 1):
            for frame in frames:
                found = self._look(cut(frame)) if frame is not None else None
                if found is not None:
                    return found
            frames = [None if f is None else wider(f) for f in frames]
            if not any(frames):
                break
        return None

    def _look(self, made: Cut | None) -> tuple[Verdict, Cut | None] | None:
        if made is None:
            return None
        found = check(made, self.effort.limits)
        if found.equal and not (self.differed and found.one_sided):
            return Verdict(PROVED if found.proved else CHECKED, found.how), made
        self.differed = self.differed or found.equal is False
        self.widest, self.why = made, ONE_SIDED if found.equal else _why(made, found)
        if time.process_time() > self.deadline:
            return Verdict(UNCHECKED, f"{self.why}; the time was up"), made
        return None


def _why(made: Cut, found: Finding) -> str:
    if found.equal is None:
        return found.how
    return f"{found.how}, for operands of any value" + (" that the model may be given" if made.whole else "")
