"""Results of benchmarks/fusion.py: as data, as tables, and what they say about the goals."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

OURS = "planish"
SMALLEST = "+smallest"
"""Ends the name of a candidate whose aim is few nodes, not little time."""
CORRECT = 1e-3
"""A candidate whose outputs differ by more, relative to the largest element, is no standard to compare with."""
NOISE = 0.02
"""What two sessions of one file differ by on most models; a slowdown counts where all of the rounds are beyond it."""

GOALS = {
    "ppocr_cls": 0.68,
    "ppocr_rec": 0.71,
    "ppocr_det": 0.70,
    "magika": 0.80,
    "minilm_dynamo": 0.84,
    "seeded_densenet121": 0.85,
    "silero_vad": 0.72,
    "silero_vad_sequence": 0.72,
    "llama_step": 0.74,
}
"""Time relative to the plain model that is aimed at."""
MEAN_TRAINED, MEAN = 0.74, 0.85

PREFACE = """Nodes are those that run: what depends on constants alone is computed when a session is made; in brackets
those that are ONNX Runtime's own operators. Where node count and speed conflict, speed wins; pipeline `smallest` gives
the fewest nodes instead. On a processor ONNX Runtime's whole-block operators take fewer nodes and more time:
SkipLayerNormalization takes 1.7 times as long as the sum and the LayerNormalization, Attention with packed weights
(`pack-attention`) 2 to 4 % of MiniLM at 128 tokens. Target `generic` has standard operators of the model's own opset
only and is compared with peers' results of the same kind. Models bound by memory (MiniLM, the decoder) move by 5 % with
the place of their weights and with what else the machine's caches hold: see their ranges. Of MiniLM's plain time at ten
tokens the products of matrices alone take 0.78."""
"""What a reader of the tables should know."""


@dataclass
class Row:
    """One candidate on one model."""

    tool: str
    ratio: float = math.nan
    """Median over the rounds of the time relative to the plain model's."""
    low: float = math.nan
    high: float = math.nan
    nodes: int = 0
    own: int = 0
    """Those of them that are ONNX Runtime's own operators."""
    opset: int = 0
    error: float = math.nan
    """Largest difference of an output element, relative to the largest one."""
    load_ms: float = math.nan
    """Processor time to make a session, the shortest of the rounds."""
    note: str = ""
    """Why there is no measurement."""

    @property
    def correct(self) -> bool:
        return not self.note and self.error <= CORRECT


@dataclass
class Result:
    """One model."""

    model: str
    trained: bool
    plain_us: float
    rows: list[Row] = field(default_factory=list[Row])

    def row(self, tool: str) -> Row | None:
        return next((row for row in self.rows if row.tool == tool), None)

    @property
    def peers(self) -> list[Row]:
        return [row for row in self.rows if row.correct and row.tool != "plain" and not row.tool.startswith(OURS)]

    def portable(self, row: Row) -> bool:
        """Whether it needs no more than the plain model does: standard operators of the same opset."""
        plain = self.row("plain")
        return not row.own and (plain is None or row.opset <= plain.opset)

    def rivals(self, row: Row) -> list[Row]:
        """Peers whose nodes may be counted beside it: where it is portable, those that are too."""
        return [peer for peer in self.peers if self.portable(peer) or not self.portable(row)]


def save(path: Path, machine: str, results: Sequence[Result]) -> None:
    """Writes the results; those of other models that the file had stay."""
    merged = {r.model: r for r in (load(path) if path.exists() else [])}
    merged.update({r.model: r for r in results})
    data = {"machine": machine, "results": [asdict(r) for r in merged.values()]}
    path.write_text(json.dumps(data, indent=1) + "\n")


def load(path: Path) -> list[Result]:
    """The results that :func:`save` wrote."""
    data = json.loads(path.read_text())
    found = [(r["model"], r["trained"], r["plain_us"], r["rows"]) for r in data["results"]]
    return [Result(model, trained, plain, [Row(**row) for row in rows]) for model, trained, plain, rows in found]


def table(results: Sequence[Result], tools: Sequence[str]) -> str:
    """Markdown: time relative to the plain model, then nodes, errors and session times, then the goals."""
    lines = ["## Time relative to the plain model (range over the rounds)", ""]
    lines += _head(("model", "plain, us", *tools))
    for r in results:
        lines.append(_line((r.model, f"{r.plain_us:.0f}", *(_ratio(r.row(tool)) for tool in tools))))
    for label, chosen in (("geometric mean, trained", [r for r in results if r.trained]), ("geometric mean", results)):
        lines.append(_line((label, "", *(_mean([r.row(tool) for r in chosen]) for tool in tools))))
    parts: tuple[tuple[str, Callable[[Row], str]], ...] = (
        ("Nodes (ONNX Runtime's own)", lambda row: f"{row.nodes}" + (f" ({row.own})" if row.own else "")),
        ("Largest difference", lambda row: f"{row.error:.1e}"),
        ("Processor time to make a session, ms", lambda row: f"{row.load_ms:.1f}"),
    )
    for title, text in parts:
        lines += ["", f"## {title}", "", *_head(("model", "plain", *tools))]
        for r in results:
            rows = (r.row(tool) for tool in ("plain", *tools))
            lines.append(_line((r.model, *("" if row is None or row.note else text(row) for row in rows))))
    lines += ["", "## Fewest nodes", "", *_fewest(results)]
    lines += [
        "",
        "## Goals",
        "",
        *_goals(results, [t for t in tools if t.startswith(OURS) and not t.endswith(SMALLEST)]),
    ]
    lines += ["", "## What falls short", "", *(_verdicts(results, tools) or ["Nothing."])]
    return "\n".join(lines) + "\n"


def _fewest(results: Sequence[Result]) -> list[str]:
    """Fewest nodes of planish beside the best correct peer's: with all that the runtime takes, then portable ones."""
    lines = _head(("model", "any operators", "best peer", "standard operators of the model's opset", "best peer"))
    for r in results:
        ours = [row for row in r.rows if row.tool.startswith(OURS) and row.correct]
        kinds = ((ours, r.peers), ([o for o in ours if r.portable(o)], [p for p in r.peers if r.portable(p)]))
        lines.append(_line((r.model, *(_least(rows) for pair in kinds for rows in pair))))
    return lines


def _least(rows: Sequence[Row]) -> str:
    row = min(rows, key=lambda row: row.nodes, default=None)
    return "" if row is None else f"{row.nodes} ({row.tool.removeprefix(OURS + ':')})"


def _goals(results: Sequence[Result], tools: Sequence[str]) -> list[str]:
    """The goals and what was reached."""
    lines = _head(("", "goal", *tools))
    for model, limit in GOALS.items():
        for r in (r for r in results if r.model == model):
            lines.append(_line((model, f"{limit:.2f}", *(_ratio(r.row(tool)) for tool in tools))))
    trained = [r for r in results if r.trained]
    for label, limit, chosen in (("mean, trained", MEAN_TRAINED, trained), ("mean, all", MEAN, results)):
        lines.append(_line((label, f"{limit:.2f}", *(_mean([r.row(tool) for r in chosen]) for tool in tools))))
    return lines


def _verdicts(results: Sequence[Result], tools: Sequence[str]) -> list[str]:
    """Goals that no target reaches, and what planish does worse than the plain model or the best correct peer."""
    lines: list[str] = []
    for r in (r for r in results if r.model in GOALS):
        ours = [row for row in r.rows if row.tool.startswith(OURS) and row.correct]
        best = min(ours, key=lambda row: row.ratio, default=None)
        if best is not None and best.ratio > GOALS[r.model]:
            lines.append(f"* {r.model}: {best.tool} takes {_ratio(best)} of the time, the goal is {GOALS[r.model]:.2f}")
    for tool in (t for t in tools if t.startswith(OURS)):
        for r in results:
            lines += [f"* {r.model}, {tool}: {text}" for text in _shortfalls(r, tool)]
    return lines


def _shortfalls(result: Result, tool: str) -> list[str]:
    row, plain = result.row(tool), result.row("plain")
    if row is None or plain is None or row.note:
        return [row.note if row is not None else "not measured"]
    found: list[str] = []
    if not row.correct:
        found.append(f"outputs differ by {row.error:.1e}")
    if not tool.endswith(SMALLEST):
        found += _slower(result, row, plain)
    small = min(result.rivals(row), key=lambda peer: peer.nodes, default=None)
    least = result.row(tool + SMALLEST)
    # The fewest nodes are on offer, and the default has more of them because it is faster.
    offered = least is not None and small is not None and least.nodes <= small.nodes and row.ratio <= small.ratio
    if small is not None and row.nodes > small.nodes and not offered:
        found.append(f"{row.nodes} nodes, {small.tool} {small.nodes} (at {small.ratio:.3f} of the time)")
    return found


def _slower(result: Result, row: Row, plain: Row) -> list[str]:
    """Where the candidate takes more time than the plain model or the fastest peer."""
    found: list[str] = []
    if row.low > 1 + NOISE:
        found.append(f"slower than the plain model ({_ratio(row)})")
    if row.load_ms > plain.load_ms * 1.05 + 1:
        found.append(f"a session takes {row.load_ms:.1f} ms of processor time, the plain model's {plain.load_ms:.1f}")
    if result.peers:
        fast = min(result.peers, key=lambda peer: peer.ratio)
        if row.low > fast.high and row.ratio > fast.ratio * (1 + NOISE):
            found.append(f"slower than {fast.tool} ({row.ratio:.3f} against {fast.ratio:.3f})")
    return found


def _head(cells: Sequence[str]) -> list[str]:
    return [_line(cells), "|" + "---|" * len(cells)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _ratio(row: Row | None) -> str:
    if row is None:
        return ""
    wrong = "" if row.correct or row.note else " wrong"
    return row.note or f"{row.ratio:.3f} ({row.low:.3f}-{row.high:.3f}){wrong}"


def _mean(rows: list[Row | None]) -> str:
    ratios = [row.ratio for row in rows if row is not None and not row.note and row.ratio == row.ratio]
    if not ratios:
        return ""
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    return f"{mean:.3f}" + ("" if len(ratios) == len(rows) else f" ({len(ratios)} of {len(rows)})")
