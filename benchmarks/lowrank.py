"""What low rank costs and buys on real models: planish beside plain and whitened SVD, at equal cuts of parameters.

    python benchmarks/lowrank.py [--models minilm,ppocr_rec,magika] [--cuts 10,20,30,40] [--target native]
                                 [--work FOLDER] [--json RESULTS.json] [--markdown OUT.md]
                                 [--stage quality|bounds|time|table] [--plots FOLDER]
                                 [--bounds 0.1,0.3]

A cut is a share of the parameters of all factorized layers: constant weights of MatMul, Gemm and ungrouped Conv of
4,096 parameters and more. Nothing is trained. All methods see the same calibration samples; what is measured are
other sentences, lines and files. The original's outputs are the reference:

* minilm: mean cosine of the pooled embeddings of 88 sentences; Spearman's correlation of their 3,828 similarities;
* ppocr_rec: mean cosine of the class probabilities at each step of 32 lines; share of steps with the same best class;
* magika: the same of the 60 files' probabilities.

Times are of planish's own results with and without factorization, in turns in one process on one thread. The cuts are
chosen for the least error, not for time.

Within a bound on the error (rms: root mean square of the worst sample and slice, relative to it; absolute: the largest
difference of any number) the fastest selection is looked for, by times measured meanwhile; it is kept where that pays.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # also where ``python -P`` leaves it out

from fusion import machine, session
from lowrank_baselines import METHODS, counts, layers_of, plain_svd, replace, whitened_svd

MODELS, CUTS = "minilm,ppocr_rec,magika", "10,20,30,40"
LEAST = 4096
FEW = 12
"""Samples of models that are only factorized within bounds."""
OURS = "planish"
ISSUE = {
    "minilm": {10: (0.947, 0.976), 20: (0.903, 0.936), 30: (0.848, 0.897), 40: (0.783, 0.850)},
    "ppocr_rec": {10: (0.996, 0.976), 20: (0.993, 0.971), 30: (0.970, 0.933), 40: (0.952, 0.909)},
}
"""Figures that the task was set with, of whitened SVD on other samples."""


@dataclass
class Quality:
    """One method at one cut."""

    method: str
    cut: float
    reached: float
    """Share of the parameters that is really gone."""
    cosine: float
    order: float
    """Spearman or share of equal best classes."""
    seconds: float = 0.0
    ratio: float = 0.0
    """Time over that without factorization; 0 where it was not measured."""
    low: float = 0.0
    high: float = 0.0


@dataclass
class Bounded:
    """The fastest within a bound on the error."""

    bound: float
    error: float
    """In the bound's unit, measured on the samples that it was made with."""
    left: float
    """Share of the parameters of all layers for which ranks were offered, small kernels too."""
    cosine: float
    order: float
    because: str = ""
    """Why nothing was factorized."""
    seconds: float = 0.0
    ratio: float = 0.0
    low: float = 0.0
    high: float = 0.0
    metric: str = "rms"
    """Of the bound and the error."""


@dataclass
class Result:
    model: str
    parameters: int = 0
    layers: int = 0
    rows: list[Quality] = field(default_factory=list[Quality])
    plain_us: float = 0.0
    bounds: list[Bounded] = field(default_factory=list[Bounded])


# -- what is measured


@dataclass
class Task:
    """Samples to calibrate with, and how alike the outputs of two models are on others."""

    samples: list[Any]
    outputs: Callable[[Any], Any]
    """Of a session: rows of numbers, one for each sentence, step or file."""
    score: Callable[[Any, Any], tuple[float, float]]
    """Of outputs and the reference."""


def task_of(entry: Any) -> Task:
    if entry.name == "minilm":
        return _sentences()
    if entry.name == "ppocr_rec":
        measured, samples = _lines(32), _lines(64, other=True)
    elif entry.name == "magika":
        measured, samples = entry.samples(60, 0), entry.samples(64, 7)
    else:
        measured, samples = entry.samples(FEW, 0), entry.samples(FEW, 7)

    def outputs(run: Any) -> Any:
        found = [np.asarray(run(sample)[0]) for sample in measured]
        if len({rows.shape[-1] for rows in found}) > 1:  # images of several sizes: all numbers together
            return np.concatenate([rows.reshape(-1) for rows in found])[None]
        return np.concatenate([rows.reshape(-1, rows.shape[-1]) for rows in found])

    return Task(samples, outputs, _classes)


def _sentences() -> Task:
    from planish.models.metrics import rank_agreement
    from planish.models.samples_sentences import sentences
    from planish.models.sentence_pairs import PAIRS
    from planish.models.zoo_minilm import embed, tokenized

    by_length: dict[int, list[str]] = {}
    for text in sentences(320):
        by_length.setdefault(tokenized([text])["input_ids"].shape[1], []).append(text)
    groups = [texts[i : i + 16] for texts in by_length.values() for i in range(0, len(texts), 16)]
    measured = sorted((s for first, second, _ in PAIRS for s in (first, second)), key=len)
    return Task(
        [tokenized(texts) for texts in groups],  # of equal lengths: padding would be calibrated on as well
        lambda run: embed(run, measured),
        lambda a, b: (_cosine(a, b), rank_agreement(a, b)),
    )


def _lines(count: int, *, other: bool = False) -> list[Any]:
    """Rendered lines; the others say something else."""
    from planish.models.samples_sentences import sentences
    from planish.models.samples_text import LINES, render_line
    from planish.models.zoo_ocr import rec_inputs

    rng = np.random.default_rng(int(other))
    texts = [text[:34] for text in sentences(count, 3)] if other else [LINES[i % len(LINES)] for i in range(count)]
    return [{"x": rec_inputs([render_line(text, rng)])} for text in texts]


def _classes(a: Any, b: Any) -> tuple[float, float]:
    return _cosine(a, b), float((a.argmax(axis=-1) == b.argmax(axis=-1)).mean())


def _cosine(a: Any, b: Any) -> float:
    from planish.models.metrics import cosine_similarity

    return float(cosine_similarity(a.astype(float), b.astype(float)).mean())


# -- quality at equal cuts


def quality(entry: Any, args: argparse.Namespace, folder: Path, keep: Callable[[Result], None]) -> Result:
    """Models of ours go to ``folder`` for their times, results to ``keep`` one by one."""
    import planish

    task, model = task_of(entry), planish.load(entry.path())
    reference = task.outputs(session(entry.path()).run)
    layers = layers_of(model, task.samples, LEAST)
    total = sum(layer.weight.size for layer in layers)
    result, known = Result(entry.name, total, len(layers)), dict[int, Any]()
    for cut in args.cut_list:
        for method in METHODS:
            start = time.perf_counter()
            found = plain_svd(layers, cut) if method == METHODS[0] else whitened_svd(layers, cut, known)
            for layer, matrix in zip(layers, found, strict=True):
                replace(layer, matrix)
            scores = task.score(task.outputs(session(model).run), reference)
            result.rows.append(Quality(method, cut, cut, *scores, time.perf_counter() - start))
            for layer in layers:
                replace(layer, layer.weight)
    with tempfile.TemporaryDirectory() as name:
        ours = _Ours(entry, task, args, Path(name) / "calibration.npz", folder)
        for cut in args.cut_list:
            result.rows.append(ours.at(cut, total, reference))
            keep(result)
            print(f"{entry.name}: {result.rows[-1]}", *ours.steps, sep="\n", file=sys.stderr, flush=True)
    return result


class _Ours:
    """The least error at a size, with no limit on the error but that it be one."""

    def __init__(self, entry: Any, task: Task, args: argparse.Namespace, calibration: Path, folder: Path) -> None:
        """``calibration`` keeps what is observed from cut to cut."""
        import planish

        self.entry, self.task, self.args, self.folder = entry, task, args, folder
        self.steps: list[str] = []
        self.options: dict[str, Any] = {"samples": task.samples, "validate": "none", "measure": False}
        whole = planish.optimize(entry.path(), args.target, **self.options)
        whole.save(_file(folder, entry.name, 0))
        self.bytes = _file(folder, entry.name, 0).stat().st_size
        self.options["calibration"] = calibration

    def at(self, cut: float, total: int, reference: Any) -> Quality:
        """``total``: parameters of all layers."""
        import planish
        from planish.driver.budget import Budget
        from planish.driver.factor import plot_ranks
        from planish.driver.select import Goal

        start, args = time.perf_counter(), self.args
        size = self.bytes - round(4 * total * cut)
        goal = Goal(minimize="error", max_bytes=size, seconds=args.select_seconds)
        budget = Budget(args.limit, "rms")
        found = planish.optimize(
            self.entry.path(), args.target, factorize=True, goal=goal, budget=budget, **self.options
        )
        ledger = found.report.budget
        assert ledger is not None
        self.steps = ledger.steps
        if args.plots:
            plot_ranks(ledger.ranks, args.plots / f"lowrank_{self.entry.name}_{round(100 * cut)}.svg")
        found.save(_file(self.folder, self.entry.name, cut))
        saved = sum(e.saved_bytes for e in ledger.entries) / 4 / total
        scores = self.task.score(self.task.outputs(session(found.model).run), reference)
        return Quality(OURS, cut, saved, *scores, time.perf_counter() - start)


def _file(folder: Path, model: str, cut: float) -> Path:
    """``cut`` is negative for a bound on the error."""
    return folder / f"{model}{'-bound' if cut < 0 else ''}-{abs(100 * cut):g}.onnx"


# -- time within bounds on the error


def _sized(entry: Any) -> Result:
    """Layers and parameters of a model."""
    import planish

    sizes = [node.inputs[1].data.count for node in planish.load(entry.path()).all_nodes() if counts(node, LEAST)]
    return Result(entry.name, sum(sizes), len(sizes))


def bounded(entry: Any, limit: float, args: argparse.Namespace, folder: Path) -> Bounded:
    import planish
    from planish.driver.budget import Budget
    from planish.driver.factor import plot_ranks
    from planish.driver.select import Goal

    start, task = time.perf_counter(), task_of(entry)
    found = planish.optimize(
        entry.path(),
        args.target,
        samples=task.samples,
        factorize=True,
        goal=Goal(seconds=args.select_seconds),
        budget=Budget(limit, args.metric),
        calibration=folder / f"{entry.name}.npz",
        measure_seconds=1.0,
    )
    ledger = found.report.budget
    assert ledger is not None
    print(f"{entry.name}: {limit}", *ledger.steps, sep="\n", file=sys.stderr, flush=True)
    found.save(_file(folder, entry.name, -limit))
    if args.plots and ledger.taken:
        plot_ranks(ledger.ranks, args.plots / f"lowrank_{entry.name}_bound_{limit:g}.svg")
    scores = task.score(task.outputs(session(found.model).run), task.outputs(session(entry.path()).run))
    offered = sum(r.parameters for r in ledger.ranks)
    left = sum(r.parameters * r.kept for r in ledger.ranks) / offered if offered else 1.0
    error = max((o.error for o in ledger.outputs), default=0.0)
    return Bounded(limit, error, left, *scores, ledger.because, time.perf_counter() - start, metric=args.metric)


# -- time


def measure(entry: Any, result: Result, args: argparse.Namespace, folder: Path) -> None:
    """Of what ``quality`` and ``bounded`` left, in turns."""
    import planish
    from planish.backends.measure import compare

    rows: list[Quality | Bounded] = [row for row in result.rows if row.method == OURS]
    rows += [b for b in result.bounds if not b.because]
    keys = [row.cut if isinstance(row, Quality) else -row.bound for row in rows]
    if not rows:
        return
    if not _file(folder, entry.name, 0).exists():
        planish.optimize(entry.path(), args.target, validate="none", measure=False).save(_file(folder, entry.name, 0))
    made = [session(_file(folder, entry.name, key)) for key in (0, *keys)]
    items = entry.samples(8, 0, uniform=True)

    def runner(one: Any) -> Callable[[int], object]:
        return lambda turn: one.run(items[turn % len(items)])

    found = compare([runner(one) for one in made], seconds=args.seconds)
    result.plain_us = found[0].times[0].time_us
    for row, times in zip(rows, found, strict=True):
        row.ratio, row.low, row.high = times.ratio, times.low, times.high


# -- the table


def table(results: list[Result]) -> str:
    parts: list[str] = []
    for r in results:
        whole = f" Without factorization {r.plain_us / 1e3:.3g} ms." if r.plain_us else ""
        parts += [f"## {r.model}", "", f"{r.layers} layers, {r.parameters:,} parameters.{whole}", ""]
        if r.rows:
            parts += ["| cut | method | reached | cosine | order | time | made in |"]
            parts += ["|---:|---|---:|---:|---:|---:|---:|"]
        for cut in sorted({row.cut for row in r.rows}):
            rows = [row for row in r.rows if row.cut == cut]
            parts += [_row(row, max(rows, key=lambda other: other.cosine)) for row in rows]
            issue = ISSUE.get(r.model, {}).get(round(100 * cut))
            if issue is not None:
                parts.append(f"| {cut:.0%} | whitened SVD, as the task was set | | {issue[0]} | {issue[1]} | | |")
        parts += ["", *_bounds(r.bounds)]
    return "\n".join(parts)


def _bounds(bounds: list[Bounded]) -> list[str]:
    if not bounds:
        return []
    parts = [
        "| bound | error | parameters left | cosine | order | time | made in |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for b in sorted(bounds, key=lambda b: b.bound):
        time_ = f"{b.ratio:.3f} ({b.low:.3f} to {b.high:.3f})" if b.ratio else b.because
        parts.append(
            f"| {b.bound:g} {b.metric} | {b.error:.3g} | {b.left:.0%} | {b.cosine:.4f} | {b.order:.4f} | {time_} "
            f"| {b.seconds:.0f} s |"
        )
    return [*parts, ""]


def _row(row: Quality, best: Quality) -> str:
    mark = "**" if row is best else ""
    time_ = f"{row.ratio:.3f} ({row.low:.3f} to {row.high:.3f})" if row.ratio else ""
    return (
        f"| {row.cut:.0%} | {row.method} | {row.reached:.1%} | {mark}{row.cosine:.4f}{mark} | {row.order:.4f} "
        f"| {time_} | {row.seconds:.0f} s |"
    )


def picture(results: list[Result], path: Path) -> None:
    """What is lost by cut, method and model."""
    from planish.driver.select import new_picture

    figure, kind = new_picture(path)
    shown = [r for r in results if r.rows]
    figure.set_size_inches(3.2 * len(shown), 2.8)
    for i, r in enumerate(shown):
        axes = figure.add_subplot(1, len(shown), i + 1)
        for method, marker in ((OURS, "o"), (METHODS[1], "s"), (METHODS[0], "x")):
            rows = sorted((row for row in r.rows if row.method == method), key=lambda row: row.cut)
            lost = [max(1 - row.cosine, 1e-5) for row in rows]
            axes.plot([100 * row.reached for row in rows], lost, marker=marker, label=method)
        axes.set_yscale("log")
        axes.set_title(r.model, fontsize=9)
        axes.set_xlabel("% of the parameters cut")
        if i == 0:
            axes.set_ylabel("1 - cosine")
            axes.legend(fontsize=7)
    figure.savefig(path, format=kind, metadata={"Date": None} if kind == "svg" else None)


# -- command line


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--cuts", default=CUTS, help="percent of the parameters")
    parser.add_argument("--target", default="native")
    parser.add_argument("--limit", type=float, default=4.0, help="of the error at equal cuts: any")
    parser.add_argument("--select-seconds", type=float, default=40.0)
    parser.add_argument("--bounds", default="0.1,0.3", help="on the error, for times within them")
    parser.add_argument("--metric", default="rms", help="of the bounds")
    parser.add_argument("--seconds", type=float, default=15.0, help="for the times of one model")
    parser.add_argument("--work", type=Path, help="folder that keeps the models whose times are measured")
    parser.add_argument("--stage", choices=("all", "quality", "bounds", "time", "table"), default="all")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--plots", type=Path, help="folder for pictures of what was chosen, layer by layer")
    parser.add_argument("--json", type=Path, help="results; those of other models stay in the file")
    args = parser.parse_args()
    args.cut_list = [float(c) / 100 for c in args.cuts.split(",")]
    return args


def run(args: argparse.Namespace, folder: Path) -> list[Result]:
    from planish.models.zoo import get

    results = {r.model: r for r in load(args.json)} if args.json else {}
    for name in args.models.split(",") if args.stage != "table" else []:
        entry = get(name)
        if not entry.installed:
            print(f"{name}: {entry.install_command}", file=sys.stderr)
            continue

        def keep(result: Result) -> None:
            results[result.model] = result
            if args.json:
                args.json.write_text(json.dumps({n: asdict(r) for n, r in results.items()}, indent=1))

        if args.stage in ("all", "quality"):
            keep(quality(entry, args, folder, keep))
        if args.stage in ("all", "bounds"):
            result = results.setdefault(name, _sized(entry))
            for limit in map(float, args.bounds.split(",")):
                result.bounds = [b for b in result.bounds if b.bound != limit]
                result.bounds.append(bounded(entry, limit, args, folder))
                keep(result)
        if args.stage in ("all", "time"):
            measure(entry, results[name], args, folder)
            keep(results[name])
    return list(results.values())


def load(path: Path) -> list[Result]:
    plain = json.loads(path.read_text()) if path.exists() else {}
    return [
        Result(
            name,
            r["parameters"],
            r["layers"],
            [Quality(**row) for row in r["rows"]],
            r["plain_us"],
            [Bounded(**b) for b in r.get("bounds", [])],
        )
        for name, r in plain.items()
    ]


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = args.work or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        results = run(args, folder)
    if not any(r.rows or r.bounds for r in results):
        return
    preface = (__doc__ or "").partition("A cut is")[2].strip()
    text = (
        f"# Low rank\n\n{machine()}\n\n    python benchmarks/lowrank.py --models {args.models} --cuts {args.cuts} "
        f"--target {args.target}\n\n![what cuts lose](lowrank.svg)\n\nA cut is {preface}\n\n{table(results)}"
    )
    print(text)
    if args.markdown:
        args.markdown.write_text(text)
        picture(results, args.markdown.with_suffix(".svg"))


if __name__ == "__main__":
    main()
