"""What a difference means where numbers are not finite.

Where the inputs are finite and the original's own result is not, an element says nothing about a rewrite that is
claimed for real numbers, and is left out.

With NaN or infinities among the inputs it depends on what the passes that changed something promise:

* *exact*: every result is as before, NaN and infinities too.
* *reassociates*: it is about real numbers, but NaN stays NaN: an element that was NaN and is a number has lost an error
  that the original showed. And NaN stays where it was: an element that was a number is the same number, unless one of
  the passes says that it ``spreads`` NaN (it multiplies by zeros that were not there). With infinities nothing is
  promised: ``inf - inf`` and ``0 inf`` come and go when sums are taken in another order.
* *approximates*: nothing; integers have no NaN.

Integers and booleans that are made of NaN are open, and so is what a runtime's kernels make of NaN: where the first
value that differs is computed by the same operators in both models, the kernels differ, not the models
(``pairing.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...backends.core import Array
from ...passes.core import Numbers
from ..inputs.trouble import INFINITIES, UNUSUAL
from .compare import DIFFERENT, ORDER, ROUNDED, OutputCheck, is_float
from .contract import Contract

Again = Callable[[Any, Any], OutputCheck]


def excused(
    found: OutputCheck, kind: str, pair: tuple[Any, Any], again: Again, contract: Contract | None = None
) -> OutputCheck:
    """The result on a sample that aims at trouble of a kind; ``again`` compares arrays.

    ``contract``: what the passes promise; without it nothing counts where inputs are not finite.
    """
    a, b = pair
    if not kind or found.status != DIFFERENT or a is None or b is None or a.shape != b.shape or a.dtype != b.dtype:
        return found
    if kind in UNUSUAL:
        return _promised(found, kind, (a, b), again, contract)
    if not is_float(a) or np.isfinite(_wide(a)).all():
        return found
    kept = again(a, np.where(np.isfinite(_wide(a)), b, a))
    return (
        kept if kept.status == DIFFERENT else _noted(kept, f"where the original is not finite ({kind} inputs)", found)
    )


def _promised(
    found: OutputCheck, kind: str, pair: tuple[Array, Array], again: Again, contract: Contract | None
) -> OutputCheck:
    inputs = f"with {kind} in the inputs"
    numbers = Numbers.APPROXIMATES if contract is None else contract.numbers
    if numbers is Numbers.EXACT and is_float(pair[0]):
        return found
    if not is_float(pair[0]) or numbers is not Numbers.REASSOCIATES or kind == INFINITIES:
        return _noted(OutputCheck(found.output, ROUNDED), inputs, found)
    a, b = map(_wide, pair)
    lost, reached = np.isnan(a) & ~np.isnan(b), np.isfinite(a) & ~np.isfinite(b)
    if lost.any() or (reached.any() and not (contract is not None and contract.spreads)):
        mask, what = (lost, "were NaN and are numbers") if lost.any() else (reached, "were numbers and are not")
        at = [int(i) for i in np.argwhere(mask)[0]]
        reason = f"{int(mask.sum())} elements {what}, the first at {at}, {inputs}; no pass that ran may do that"
        return OutputCheck(found.output, DIFFERENT, np.inf, used=np.inf, worst=found.worst, reason=reason)
    kept = again(pair[0], np.where(np.isfinite(a) & np.isfinite(b), pair[1], pair[0]))
    return kept if kept.status == DIFFERENT else _noted(kept, inputs, found)


def _noted(kept: OutputCheck, where: str, found: OutputCheck) -> OutputCheck:
    """The result without what does not count, which is said."""
    kept.status = max(kept.status, ROUNDED, key=ORDER.index)
    kept.note = f"{where}: {found.reason}"
    return kept


def _wide(a: Array) -> Array:
    return a.astype(np.float64)
