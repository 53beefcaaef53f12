"""What all commands share: the application, its options, exit codes, and how results are shown."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from ..driver.document import Document, show
from ..ir.errors import UsageError
from ..ir.limits import Limits

if TYPE_CHECKING:
    from ..driver.budget import Budget
    from ..driver.select import Goal

OK, FAILED, USAGE, INTERNAL, INTERRUPTED = 0, 1, 2, 70, 130


class Interrupted(Exception):
    """Ctrl-C, with what is left of the work."""


app = typer.Typer(
    name="planish",
    help="Optimizes neural networks and proves that they still compute the same.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Shown(Protocol):
    def to_dict(self) -> dict[str, Any]: ...

    def document(self) -> Document: ...


ModelFile = Annotated[Path, typer.Argument(metavar="MODEL", help="an ONNX file", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for programs")]
TargetName = Annotated[str, typer.Option("--target", "-t", metavar="NAME", help="see `planish targets`")]
SamplesFile = Annotated[
    Path | None,
    typer.Option("--samples", "-s", metavar="FILE", help=".npz with an array per input, first axis counts the samples"),
]
Dims = Annotated[list[str] | None, typer.Option("--dim", metavar="NAME=SIZE", help="fix a symbolic dimension")]
ValidateLevel = Annotated[
    str, typer.Option(metavar="LEVEL", help="none, structure, final, each-pass, each-rewrite (:N of each rule, :all)")
]
Seed = Annotated[int, typer.Option(help="seed of made-up samples")]
Tune = Annotated[bool, typer.Option("--tune", help="search for the fastest pipeline and session settings")]
TuneSeconds = Annotated[float, typer.Option(metavar="N", min=0.1, help="time limit of --tune")]
Threads = Annotated[int | None, typer.Option(metavar="N", min=0, help="of the session; 0 takes all cores")]
Cache = Annotated[bool, typer.Option("--cache/--no-cache", help="keep what --tune and --quantize measure")]

MaxError = Annotated[
    float | None,
    typer.Option("--max-error", metavar="E", min=0, help="error budget, in the metric's unit: lets lossy passes in"),
]
MetricName = Annotated[
    str,
    typer.Option("--metric", metavar="NAME", help="relative, absolute, rms, cosine, snr, or MODULE:FUNCTION"),
]
LowerIsBetter = Annotated[bool, typer.Option("--lower-is-better", help="of a function given as --metric")]


Quantize = Annotated[
    list[str] | None,
    typer.Option("--quantize", metavar="HOW", help="lossy passes within --max-error, see docs/quantization.md"),
]
Factorize = Annotated[
    bool, typer.Option("--factorize", help="weights of low rank within --max-error, see docs/low_rank.md")
]
Memory = Annotated[
    bool,
    typer.Option("--memory", help="nodes and session settings for the smallest peak, measured; see docs/memory.md"),
]
MaxMemory = Annotated[
    str | None,
    typer.Option("--max-memory", metavar="BYTES", help="for all values but weights: 2MiB; see docs/memory.md"),
]
MaxSize = Annotated[
    str | None, typer.Option("--max-size", metavar="BYTES", help="of the file: 900kB, 3MiB; least error within it")
]
MaxLatency = Annotated[
    str | None,
    typer.Option("--max-latency", metavar="TIME", help="of a run: 12ms, 800us, 70% of the lossless result's"),
]
MaxFlops = Annotated[
    str | None, typer.Option("--max-flops", metavar="SHARE", help="of the lossless result's operations: 70%")
]
_SIZES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_TIMES = {"us": 1.0, "ms": 1e3, "s": 1e6}


def parse_goal(max_size: str | None, max_latency: str | None, max_flops: str | None) -> Goal | None:
    """What lossy passes are selected for; ``None`` where nothing is asked for. Raises ``UsageError``."""
    from ..driver.select import Goal

    if max_size is None and max_latency is None and max_flops is None:
        return None
    goal = Goal(minimize="error")
    if max_size is not None:
        goal = replace(goal, max_bytes=parse_size(max_size, "--max-size"))
    if max_latency is not None:
        number, unit = _number(max_latency, "--max-latency", {**_TIMES, "%": 0.01})
        goal = replace(goal, max_time=number / 100) if unit == "%" else replace(goal, max_us=number * _TIMES[unit])
    if max_flops is not None:
        goal = replace(goal, max_flops=_number(max_flops, "--max-flops", {"%": 0.01})[0] / 100)
    return goal


def parse_size(text: str, option: str) -> int:
    """Bytes. Raises ``UsageError``."""
    number, unit = _number(text, option, _SIZES)
    return int(number * _SIZES[unit])


def _number(text: str, option: str, units: Mapping[str, float]) -> tuple[float, str]:
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Z%]*)\s*", text)
    if found is None or found[2].lower() not in units:
        known = ", ".join(u for u in units if u)
        raise UsageError(f"{option} {text!r} is not a number with a unit", where="cli", help=f"units: {known}")
    return float(found[1]), found[2].lower()


def parse_budget(max_error: float | None, metric: str, lower_is_better: bool) -> Budget | None:
    """Raises ``UsageError``."""
    from ..driver.budget import Budget, load_metric

    if max_error is None:
        if metric != "relative" or lower_is_better:
            raise UsageError("--metric says how to judge a budget", where="cli", help="give --max-error as well")
        return None
    return Budget(max_error, load_metric(metric), higher_is_better=not lower_is_better)


def parse_dims(texts: Sequence[str] | None) -> dict[str, int]:
    found: dict[str, int] = {}
    for text in texts or ():
        name, _, size = text.rpartition("=")
        if not name or not size.isdigit():
            raise UsageError(f"--dim {text!r} is not NAME=SIZE", where="cli", help="for example --dim batch=1")
        found[name] = int(size)
    return found


def limits_text() -> str:
    """The limits with their defaults, for the help."""
    return ", ".join(f"{f.name} ({int(getattr(Limits(), f.name))})" for f in fields(Limits))


def parse_limits(texts: Sequence[str] | None) -> Limits:
    """The limits, with what ``--limit NAME=N`` says. Raises ``UsageError``."""
    names = [f.name for f in fields(Limits)]
    found: dict[str, Any] = {}
    for text in texts or ():
        name, _, number = text.partition("=")
        if name not in names or not number.isdecimal():
            raise UsageError(f"--limit {text!r} is not NAME=N", where="cli", help=f"names are {', '.join(names)}")
        found[name] = bool(int(number)) if name == "allow_hard_links" else int(number)
    return Limits(**found)


def print_result(found: Shown, as_json: bool) -> None:
    show_result(found.to_dict(), found.document(), as_json)


def show_result(plain: dict[str, Any], document: Document, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")
    else:
        show(document, sys.stdout)
    sys.stdout.flush()


@contextlib.contextmanager
def shown_progress() -> Generator[Callable[[str, int, int], None] | None]:
    """A line on standard error that says what is going on; nothing where that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:

        def progress(label: str, done: int, total: int) -> None:
            label = label if len(label) < 60 else f"{label[:57]}..."
            status.update(f"{label} {done}/{total}" if total else label)

        yield progress
