"""Runs the hostile files, each in a process of its own with limits, and prints what came of them.

    scripts/hostile [--json] [--out=docs/results/hostile.md] [NAME...]

A case passes where planish ends by itself, within the limits below, and with the expected message: in the library
(load, infer, verify, default pipeline, save) and on the command line.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from . import cases_bombs, cases_bytes, cases_external, cases_graph, cases_nodes, cases_tensor, cases_text
from .parts import SURVIVES, Case

CASES: dict[str, Case] = {}
for _module in (cases_bytes, cases_graph, cases_nodes, cases_tensor, cases_external, cases_bombs, cases_text):
    for _case in _module.CASES:
        assert _case.name not in CASES, _case.name
        CASES[_case.name] = _case

MEMORY_MB = 1024
"""What a run may take, at its peak."""
SECONDS = 60
"""Processor time that a run may take; with ten times that on the clock, since others run here too."""
TRIAL_SECONDS = 3
"""What a first run of a model with loops may take here (the default is 30)."""
ADDRESS_SPACE = 8 << 30
"""So that a fault hurts nobody else."""
PREFIX = "planish-hostile-"
REFUSED = (1, 2)
"""Exit statuses of errors that planish raises on purpose."""
PAGE = """# Hostile files

Written by `scripts/hostile --out=docs/results/hostile.md` with onnxruntime {version}. Each file went through reader,
inference, verifier, default pipeline and writer (`library`), and through `planish optimize` or `planish run`
(`command`), each in a process of its own. *Refused*: an error that planish raises on purpose, with the message that the
case expects; *survived*: a file that looks dangerous and is handled.

{summary}

| file | how | verdict | peak MB | seconds | what planish said |
|---|---|---|---:|---:|---|
"""


@dataclass
class Outcome:
    """What became of one case, in the library or on the command line."""

    name: str
    how: str
    passed: bool = False
    verdict: str = ""
    """``refused``, ``survived``, or what went wrong."""
    message: str = ""
    peak_mb: int = 0
    seconds: float = 0.0
    """Of processor time."""
    steps: list[str] = field(default_factory=list[str])


# -- inside the limits


def library(case: Case, path: Path) -> tuple[str, str]:
    """Load, infer, verify, run the default pipeline, save. Returns a verdict and the message."""
    from planish.ir.errors import PlanishError
    from planish.ir.infer import infer_model
    from planish.ir.onnx_reader import read_model
    from planish.ir.onnx_writer import write_model
    from planish.ir.verify import problems
    from planish.passes.manager import Pipeline

    folder = _root(path)
    try:
        if case.command == "run":
            return _text_library(path)
        model = read_model(path)
        found = [*infer_model(model), *problems(model)]
        if found:
            return "refused", str(found[0])
        if case.later is not None:
            case.later(folder)
        Pipeline("default").run(model)
        (folder / "out").mkdir()
        write_model(model, folder / "out" / "model.onnx")
        read_model(folder / "out" / "model.onnx")
    except PlanishError as error:
        return "refused", str(error)
    return "survived", ""


def _root(path: Path) -> Path:
    """The case's own folder, in which or in a folder of which its file lies."""
    return next(p for p in path.parents if p.name.startswith(PREFIX))


def _text_library(path: Path) -> tuple[str, str]:
    from planish.driver.reproduce import replay
    from planish.ir.errors import PlanishError

    try:
        found = replay(path)
    except PlanishError as error:
        return "refused", str(error)
    return ("refused", found.error) if found.error else ("survived", "")


def command_line(case: Case, path: Path) -> tuple[str, str]:
    """``planish optimize`` (or ``run``) on the file. Returns a verdict and what it wrote."""
    from planish.cli.entry import run

    folder = _root(path)
    out = folder / "written"
    limit = ["--limit", f"trial_seconds={TRIAL_SECONDS}"]
    words = (
        ["run", str(path)]
        if case.command == "run"
        else ["optimize", str(path), "-o", str(folder / "small.onnx"), "--no-measure"]
    )
    with out.open("w+") as err:
        os.dup2(err.fileno(), 2)
        os.dup2(err.fileno(), 1)
        code = run([*limit, *words])
        sys.stdout.flush()
        sys.stderr.flush()
        err.seek(0)
        message = err.read()
    if code == 0:
        return "survived", message
    return ("refused" if code in REFUSED else f"exit status {code}"), message


WAYS: dict[str, Callable[[Case, Path], tuple[str, str]]] = {"library": library, "command": command_line}


# -- outside


def run_case(case: Case, how: str) -> Outcome:
    """Runs one case in a child of this process."""
    source, target = os.pipe()
    with TemporaryDirectory(prefix=PREFIX) as folder:
        path = _built(case, Path(folder))
        start = time.monotonic()
        child = os.fork()
        if child == 0:
            os.close(source)
            _child(case, how, path, target)
        os.close(target)
        answer, status, seconds = _await(child, source, start)
    os.close(source)
    outcome = Outcome(case.name, how, seconds=round(seconds, 2))
    if not answer:
        number = os.waitstatus_to_exitcode(status)
        outcome.verdict = f"killed by {signal.Signals(-number).name}" if number < 0 else f"exit status {number}"
        return outcome
    plain = json.loads(answer)
    outcome.verdict, outcome.message, outcome.peak_mb = plain["verdict"], plain["message"], plain["peak_mb"]
    outcome.passed = _as_expected(case, how, outcome)
    return outcome


def _built(case: Case, folder: Path) -> Path:
    """Writes the files of a case, in a process of its own so that this one stays small."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            (folder / "path").write_text(str(case.build(folder)))
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert status == 0, f"case {case.name} cannot be built"
    return Path((folder / "path").read_text())


def _as_expected(case: Case, how: str, outcome: Outcome) -> bool:
    if outcome.peak_mb > MEMORY_MB:
        outcome.verdict += f", {outcome.peak_mb} MB"
        return False
    if how == "command" and case.after == SURVIVES:
        return outcome.verdict == "survived"
    if case.says != SURVIVES and (case.later is None or how == "library"):
        return outcome.verdict == "refused" and re.search(case.says, outcome.message) is not None
    if outcome.verdict == "refused" and how == "command" and case.after:
        return re.search(case.after, outcome.message) is not None
    return outcome.verdict == "survived"


def _await(child: int, source: int, start: float) -> tuple[bytes, int, float]:
    """What the child answers, its wait status and processor time; it is killed when its time is over."""
    answer = b""
    os.set_blocking(source, False)
    while True:
        done, status, used = os.wait4(child, os.WNOHANG)
        while True:
            try:
                part = os.read(source, 1 << 16)
            except BlockingIOError:
                break
            if not part:
                break
            answer += part
        if done:
            return answer, status, used.ru_utime + used.ru_stime
        if time.monotonic() - start > 10 * SECONDS:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)


def _child(case: Case, how: str, path: Path, target: int) -> None:
    """Never returns."""
    code = 1
    try:
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            verdict, message = WAYS[how](case, path)
        except BaseException as error:
            verdict, message = f"{type(error).__name__} escaped", _trace(error)
        answer = {"verdict": verdict, "message": message[-4000:], "peak_mb": _peak_mb()}
        os.write(target, json.dumps(answer).encode())
        code = 0
    finally:
        os._exit(code)


def _trace(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error)[-6:])


def _peak_mb() -> int:
    """Peak of the resident set, of this process (``ru_maxrss`` would remember the parent's) or of one it started."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    other = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return max(int(found[1]) if found else 0, other) >> 10


def _preload() -> None:
    """Loads in the parent what every child needs; nothing here starts a thread."""
    import onnxruntime

    import planish.cli.entry  # pyright: ignore[reportUnusedImport]
    import planish.driver.optimize  # pyright: ignore[reportUnusedImport]
    import planish.driver.reproduce  # pyright: ignore[reportUnusedImport] # noqa: F401
    from planish.passes.manager import Pipeline

    onnxruntime.set_default_logger_severity(4)
    Pipeline("default")


def run_all(names: Sequence[str], ways: Sequence[str] = tuple(WAYS)) -> list[Outcome]:
    """The outcomes of cases, in the order of their names here."""
    _preload()
    return [run_case(CASES[name], how) for name in names for how in ways]


def main(arguments: Sequence[str]) -> int:
    """Prints a table, or one JSON line for each outcome; returns the exit status. ``--out=FILE`` is the page."""
    as_json = "--json" in arguments
    ways = _given(arguments, "--only=") or list(WAYS)
    names = [a for a in arguments if not a.startswith("--")] or list(CASES)
    outcomes: list[Outcome] = []
    _preload()
    for name in names:
        for how in ways:
            outcome = run_case(CASES[name], how)
            outcomes.append(outcome)
            line = json.dumps(asdict(outcome)) if as_json else _row(outcome)
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
    failed = [o for o in outcomes if not o.passed]
    peak, slowest = max(o.peak_mb for o in outcomes), max(o.seconds for o in outcomes)
    summary = (
        f"{len(names)} files, {len(outcomes)} runs, {len(failed)} not as expected; "
        f"at most {peak} MB and {slowest} s of processor time"
    )
    if not as_json:
        sys.stdout.write(summary + "\n")
    for file in _given(arguments, "--out="):
        rows = "".join(map(_page_row, outcomes))
        Path(file).write_text(PAGE.format(version=version("onnxruntime"), summary=summary) + rows, "utf-8")
    return 1 if failed else 0


def _given(arguments: Sequence[str], option: str) -> list[str]:
    return [a.removeprefix(option) for a in arguments if a.startswith(option)]


def _first_line(o: Outcome) -> str:
    return next((line for line in o.message.splitlines() if line.startswith("error")), "")


def _page_row(o: Outcome) -> str:
    said = re.sub(rf"[^\s']*{PREFIX}[^/\s]*", "FOLDER", _first_line(o))[:200].replace("|", "\\|").replace("`", "'")
    said = "".join(c if c.isprintable() else "?" for c in said)
    verdict = o.verdict if o.passed else f"**{o.verdict}**"
    return f"| {o.name} | {o.how} | {verdict} | {o.peak_mb} | {o.seconds:.2f} | {f'`{said}`' if said else ''} |\n"


def _row(o: Outcome) -> str:
    mark = "ok  " if o.passed else "FAIL"
    text = _first_line(o)[:140] if o.passed else o.message[-1500:]
    return f"{mark} {o.name:26} {o.how:8} {o.verdict:12} {o.peak_mb:5} MB {o.seconds:6.2f} s  {text}"
