"""The choice of ranks as a picture: what is left of each layer, what it spends of the error budget, what it gains."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...ir.safe_files import SafeFiles
from ..select import new_picture
from .ranks import Rank

NAMED = 60
"""So many layers get their names written."""
_NAME = 36


def plot_ranks(ranks: Sequence[Rank], path: str | os.PathLike[str]) -> None:
    """Writes a picture (png, svg or pdf by the name's suffix): a bar for each layer, its rank before and after. Raises
    ``UsageError``."""
    path = Path(path)
    figure, kind = new_picture(path)
    figure.set_size_inches(max(6.4, 0.22 * min(len(ranks), NAMED) + 2), 7.2)
    panels: Any = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 2))
    kept, spent, times = panels
    forms = list(dict.fromkeys(r.form or "whole" for r in ranks))
    for number, form in enumerate(forms):
        at = [i for i, r in enumerate(ranks) if (r.form or "whole") == form]
        color = "0.85" if form == "whole" else f"C{number % 10}"
        kept.bar(at, [100 * ranks[i].kept for i in at], color=color, label=form)
        spent.bar(at, [100 * ranks[i].error for i in at], color=color)
        times.bar(at, [100 * ranks[i].time for i in at], color=color)
    if len(ranks) <= NAMED:
        for i, r in enumerate(ranks):
            rank = f"{r.rank} of {r.full}" if r.rank else r.full
            kept.annotate(rank, (i, 100 * r.kept), ha="center", va="top", fontsize=6, rotation=90)
        times.set_xticks(range(len(ranks)), [r.layer[-_NAME:] for r in ranks], rotation=90, fontsize=6)
    kept.set_ylabel("parameters left, %")
    spent.set_ylabel("alone, % of the budget")
    times.set_ylabel("time, % of the model's")
    kept.legend(fontsize=8, ncols=len(forms), loc="lower right")
    with SafeFiles() as files:
        figure.savefig(files.create(path), format=kind, metadata={"Date": None} if kind == "svg" else None)
