"""The command line: thin, since everything it does is a function of ``planish``.

Standard output carries the report, or JSON with ``--json``, and nothing else; progress and errors go to standard
error. Exit codes: 0 done (``optimize``: written and found equivalent), 1 not equivalent or an error of the
model, 2 wrong usage, 70 an internal error, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer

from . import __version__
from .driver.document import Document, Table, Text, show
from .ir.errors import PipelineError, PlanishError, UsageError

OK, FAILED, USAGE, INTERNAL, INTERRUPTED = 0, 1, 2, 70, 130
REPORT_AT = "https://github.com/planish/planish/issues"

app = typer.Typer(
    name="planish",
    help="Optimizes neural networks and proves that they still compute the same.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class _Shown(Protocol):
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
Seed = Annotated[int, typer.Option(help="seed of made-up samples")]
Tune = Annotated[bool, typer.Option("--tune", help="search for the fastest pipeline and session settings")]
TuneSeconds = Annotated[float, typer.Option(metavar="N", min=0.1, help="time limit of --tune")]
Threads = Annotated[int | None, typer.Option(metavar="N", min=0, help="of the session; 0 takes all cores")]
Cache = Annotated[bool, typer.Option("--cache/--no-cache", help="keep what --tune finds in the user's cache folder")]


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"planish {__version__}\n")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="show where in planish an error arose")] = False,
) -> None:
    pass


@app.command()
def optimize(
    model: ModelFile,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="may be MODEL itself")],
    target: TargetName = "generic",
    pipeline: Annotated[str, typer.Option("--pipeline", "-p", help="passes, see `planish passes`")] = "default",
    samples: SamplesFile = None,
    validate: Annotated[str, typer.Option(metavar="LEVEL", help="none, structure, final, or each-pass")] = "final",
    measure: Annotated[bool, typer.Option("--measure/--no-measure", help="keep only what is not slower")] = True,
    as_json: AsJson = False,
    fuel: Annotated[int | None, typer.Option(metavar="N", min=0, help="stop after N rewrites")] = None,
    disable: Annotated[list[str] | None, typer.Option(metavar="RULE", help="a rule that must not fire")] = None,
    print_after_change: Annotated[bool, typer.Option("--print-after-change", help="print the graph to stderr")] = False,
    repro_dir: Annotated[Path | None, typer.Option(metavar="FOLDER", help="where reproducers of failures go")] = None,
    allow_different: Annotated[bool, typer.Option("--allow-different", help="write it even if it differs")] = False,
    tolerance: Annotated[float, typer.Option(min=0, help="allowed difference beyond rounding, of the scale")] = 0.0,
    max_growth: Annotated[float, typer.Option(min=0, help="how much larger the file may become")] = 0.1,
    dim: Dims = None,
    seed: Seed = 0,
    tune: Tune = False,
    tune_seconds: TuneSeconds = 60.0,
    threads: Threads = None,
    cache: Cache = True,
) -> None:
    """Optimize MODEL, prove that it computes the same, and write it to FILE."""
    from .driver.optimize import check_output
    from .driver.optimize import optimize as run

    check_output(output)
    with _progress() as progress:
        result = run(
            model,
            target,
            samples=samples,
            pipeline=pipeline,
            validate=validate,
            measure=measure,
            tolerance=tolerance,
            allow_different=allow_different,
            dims=_dims(dim),
            fuel=fuel,
            disabled=disable or (),
            seed=seed,
            max_growth=max_growth,
            print_after_change=sys.stderr.write if print_after_change else None,
            repro_dir=repro_dir,
            progress=progress,
            tune=tune,
            tune_seconds=tune_seconds,
            threads=threads,
            cache=cache,
        )
        checked = result.report.validation
        written = not checked.short or checked.method == "identity"
        if written:
            result.save(output)
    plain = {**result.report.to_dict(), "written": written}
    extra = [Text(f"written to {output}")] if written else []
    _show(plain, [*result.report.document(), *extra], as_json)
    if not written:
        raise _unproved(output, checked.because)
    if checked.equivalent is False:
        raise typer.Exit(FAILED)


@app.command("compile")
def compile_model(
    model: ModelFile,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="an artifact there is replaced")],
    target: TargetName = "generic",
    pipeline: Annotated[str, typer.Option("--pipeline", "-p", help="passes, see `planish passes`")] = "default",
    samples: SamplesFile = None,
    validate: Annotated[str, typer.Option(metavar="LEVEL", help="none, structure, final, or each-pass")] = "final",
    measure: Annotated[bool, typer.Option("--measure/--no-measure", help="keep only what is not slower")] = True,
    tune: Tune = False,
    tune_seconds: TuneSeconds = 60.0,
    threads: Threads = None,
    cache: Cache = True,
    disable: Annotated[list[str] | None, typer.Option(metavar="RULE", help="a rule that must not fire")] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="allowed difference beyond rounding, of the scale")] = 0.0,
    dim: Dims = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Optimize MODEL and write it with the session's settings and a manifest to FOLDER."""
    from .backends.ort.artifact import check_folder
    from .driver.optimize import optimize as run

    check_folder(output)
    with _progress() as progress:
        result = run(
            model,
            target,
            samples=samples,
            pipeline=pipeline,
            validate=validate,
            measure=measure,
            tolerance=tolerance,
            dims=_dims(dim),
            disabled=disable or (),
            seed=seed,
            progress=progress,
            tune=tune,
            tune_seconds=tune_seconds,
            threads=threads,
            cache=cache,
        )
        checked = result.report.validation
        if checked.short and checked.method != "identity":
            raise _unproved(output, checked.because)
        artifact = result.artifact()
        artifact.save(output)
    plain = {**result.report.to_dict(), "manifest": artifact.manifest}
    _show(plain, [*result.report.document(), Text(f"written to {output}")], as_json)


@app.command()
def validate(
    model: ModelFile,
    optimized: Annotated[Path, typer.Argument(metavar="OPTIMIZED", help="what is compared with it")],
    samples: SamplesFile = None,
    tolerance: Annotated[float, typer.Option(min=0, help="allowed difference beyond rounding, of the scale")] = 0.0,
    as_json: AsJson = False,
    seed: Seed = 0,
) -> None:
    """Compare the outputs of two models on samples."""
    from .driver.validate import validate as run

    with _progress():
        found = run(model, optimized, samples, tolerance=tolerance, seed=seed)
    _print(found, as_json)
    if not found.equivalent or found.short:
        raise typer.Exit(FAILED)


@app.command()
def inspect(
    model: ModelFile,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="check every invariant")] = True,
    text: Annotated[bool, typer.Option("--text", help="print the graph itself")] = False,
    dim: Dims = None,
    as_json: AsJson = False,
) -> None:
    """Show what is in MODEL and whether it is sound."""
    from .driver.inspect import inspect as run

    if text:
        from .ir.onnx_reader import read_model

        sys.stdout.write(f"{read_model(model)}\n")
        return
    found = run(model, verify=verify, dims=_dims(dim))
    _print(found, as_json)
    if found.problems:
        raise typer.Exit(FAILED)


@app.command()
def diff(
    a: Annotated[Path, typer.Argument(metavar="A")],
    b: Annotated[Path, typer.Argument(metavar="B")],
    text: Annotated[bool, typer.Option("--text", help="add a diff of the textual forms")] = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="exit with 1 where they differ")] = False,
    as_json: AsJson = False,
) -> None:
    """Show how two models differ."""
    from .driver.diff import diff as run

    found = run(a, b, text=text)
    _print(found, as_json)
    if exit_code and not found.equal:
        raise typer.Exit(FAILED)


@app.command()
def bench(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="ONNX files of one interface")],
    samples: SamplesFile = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="time limit")] = 3.0,
    threads: Annotated[int, typer.Option(min=0, help="0 takes all cores")] = 1,
    level: Annotated[str, typer.Option(help="the runtime's own optimization: disable, basic, extended, all")] = "all",
    dim: Dims = None,
    as_json: AsJson = False,
    seed: Seed = 0,
) -> None:
    """Time models on this machine, in turns, on the same samples."""
    from .driver.bench import bench as run

    with _progress() as progress:
        if progress is not None:
            progress("measuring", 0, 0)
        found = run(models, samples, seconds=seconds, threads=threads, level=level, dims=_dims(dim), seed=seed)
    _print(found, as_json)


@app.command()
def bisect(
    model: ModelFile,
    pipeline: Annotated[str, typer.Option("--pipeline", "-p", help="passes, see `planish passes`")] = "default",
    samples: SamplesFile = None,
    target: TargetName = "generic",
    tolerance: Annotated[float, typer.Option(min=0, help="allowed difference beyond rounding, of the scale")] = 0.0,
    seconds: Annotated[float, typer.Option(min=0, help="time limit")] = 600.0,
    as_json: AsJson = False,
    seed: Seed = 0,
) -> None:
    """Find the single rewrite that makes MODEL wrong; exit with 1 where there is one."""
    from .driver.bisect import bisect as run

    with _progress():
        found = run(model, pipeline, samples, target=target, tolerance=tolerance, seconds=seconds, seed=seed)
    _print(found, as_json)
    if found.guilty is not None:
        raise typer.Exit(FAILED)


@app.command("run")
def run_reproducer(
    repro: Annotated[Path, typer.Argument(metavar="REPRO.ir", help="written by `optimize --repro-dir`")],
    as_json: AsJson = False,
) -> None:
    """Replay a reproducer; exit with 1 where it still fails."""
    from .driver.reproduce import replay

    found = replay(repro)
    _print(found, as_json)
    if found.reproduced:
        raise typer.Exit(FAILED)


@app.command()
def passes(
    rules: Annotated[bool, typer.Option("--rules", help="list the rules of each pass (loads them)")] = False,
    as_json: AsJson = False,
) -> None:
    """List passes and pipelines."""
    from .driver.catalogue import pass_list

    _print(pass_list(rules=rules), as_json)


@app.command()
def targets(as_json: AsJson = False) -> None:
    """List targets."""
    from .driver.catalogue import target_list

    _print(target_list(), as_json)


@app.command()
def explain(
    name: Annotated[str, typer.Argument(metavar="PASS|RULE", help="as `fold-batchnorm`, or a rule's name")],
    model: ModelFile,
    before: Annotated[str, typer.Option("--before", metavar="PIPELINE", help="run this first")] = "",
    target: TargetName = "generic",
    as_json: AsJson = False,
) -> None:
    """Say why a pass or a rule fires on MODEL or does not."""
    from .driver.explain import explain as run

    _print(run(name, model, before=before, target=target), as_json)


@app.command("new-pass")
def new_pass(
    name: Annotated[str, typer.Argument(metavar="NAME", help="verb and object, as fold-conv-bias")],
    family: Annotated[str, typer.Option(help="folder under passes/")] = "clean",
    plugin: Annotated[Path | None, typer.Option(metavar="FOLDER", help="write a package of its own there")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a pass with its test, ready to be changed."""
    from .driver.scaffold import new_pass as run

    files = [str(path) for path in run(name, family=family, plugin=plugin)]
    _show({"schema": 1, "files": files}, [Table("written", ("file",), [(f,) for f in files])], as_json)


# -- what commands share


def _unproved(output: Path, because: str) -> PlanishError:
    return PlanishError(
        f"{output} was not written: only the structure could be validated, because {because}",
        where="validate",
        help="accept that with --validate structure",
    )


def _dims(texts: Sequence[str] | None) -> dict[str, int]:
    found: dict[str, int] = {}
    for text in texts or ():
        name, _, size = text.rpartition("=")
        if not name or not size.isdigit():
            raise UsageError(f"--dim {text!r} is not NAME=SIZE", where="cli", help="for example --dim batch=1")
        found[name] = int(size)
    return found


def _print(found: _Shown, as_json: bool) -> None:
    _show(found.to_dict(), found.document(), as_json)


def _show(plain: dict[str, Any], document: Document, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")
    else:
        show(document, sys.stdout)
    sys.stdout.flush()


@contextlib.contextmanager
def _progress() -> Generator[Callable[[str, int, int], None] | None]:
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


# -- errors


def main() -> None:
    """The entry point."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Runs a command line and returns the exit code; every error becomes a message."""
    arguments = list(arguments)
    traceback = "--traceback" in arguments
    arguments = [a for a in arguments if a != "--traceback"]
    as_json = "--json" in arguments
    try:
        code = app(arguments, prog_name="planish", standalone_mode=False)
        # The parser turns Ctrl-C into this code, without a word.
        return _interrupted() if code == INTERRUPTED else code if isinstance(code, int) else OK
    except PlanishError as error:
        return _planish_error(error, as_json, traceback)
    except typer.Abort:
        return _interrupted()
    except KeyboardInterrupt:
        return _interrupted()
    except BrokenPipeError:
        # The reader of our output left, as `head` does; what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        code = _usage_error(error)
        return code if code is not None else _internal_error(error, as_json, traceback)


def _planish_error(error: PlanishError, as_json: bool, traceback: bool) -> int:
    if traceback:
        _print_traceback()
    sys.stderr.write(f"{error}\n")
    if as_json:
        names = ("where", "message", "at", "origin", "help", "repro")
        plain = {"type": type(error).__name__} | {name: getattr(error, name) for name in names}
        sys.stdout.write(json.dumps({"schema": 1, "error": plain}, indent=2, sort_keys=True) + "\n")
    return USAGE if isinstance(error, (UsageError, PipelineError)) else FAILED


def _usage_error(error: Exception) -> int | None:
    """What the parser of the command line complains about; ``None`` for other errors."""
    show_error = getattr(error, "show", None)
    code = getattr(error, "exit_code", None)
    if not callable(show_error) or not isinstance(code, int):
        return None
    show_error()
    return code


def _internal_error(error: Exception, as_json: bool, traceback: bool) -> int:
    if traceback:
        _print_traceback()
    sys.stderr.write(
        f"internal error: {type(error).__name__}: {error}\n"
        f"  help  this is a bug in planish, please report it with the model or a small one like it: {REPORT_AT}\n"
        "  hint  run again with --traceback to see where it arose, and with --repro-dir FOLDER for a reproducer\n"
    )
    if as_json:
        plain = {"type": "InternalError", "message": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps({"schema": 1, "error": plain}, indent=2, sort_keys=True) + "\n")
    return INTERNAL


def _print_traceback() -> None:
    import traceback

    traceback.print_exc()


def _interrupted() -> int:
    sys.stderr.write("interrupted; nothing was written\n")
    return INTERRUPTED
