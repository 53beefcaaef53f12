"""From arguments to an exit code: every error becomes a message."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Generator, Sequence
from types import FrameType

import typer

from ..ir.errors import PipelineError, PlanishError, UsageError
from .shared import FAILED, INTERNAL, INTERRUPTED, OK, USAGE, Interrupted, app

REPORT_AT = "https://github.com/planish/planish/issues"


def main() -> None:
    """The entry point."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Runs a command line and returns the exit code; every error becomes a message."""
    arguments = list(arguments)
    traceback = "--traceback" in arguments
    arguments = [a for a in arguments if a != "--traceback"]
    as_json = "--json" in arguments
    with _noted_interrupts() as interrupted:
        return _run(arguments, as_json, traceback, interrupted)


def _run(arguments: list[str], as_json: bool, traceback: bool, interrupted: list[int]) -> int:
    try:
        code = app(arguments, prog_name="planish", standalone_mode=False)
        # The parser turns Ctrl-C into this code, without a word.
        return _interrupted() if code == INTERRUPTED else code if isinstance(code, int) else OK
    except PlanishError as error:
        return _planish_error(error, as_json, traceback)
    except Interrupted as stopped:
        sys.stderr.write(f"interrupted; {stopped}\n")
        return INTERRUPTED
    except typer.Abort:
        return _interrupted()
    except KeyboardInterrupt:
        return _interrupted()
    except BrokenPipeError:
        # The reader of our output left, as `head` does; what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if interrupted:  # extension modules that are being loaded turn it into an ImportError
            return _interrupted()
        code = _usage_error(error)
        return code if code is not None else _internal_error(error, as_json, traceback)


@contextlib.contextmanager
def _noted_interrupts() -> Generator[list[int]]:
    """A list that gets the signal's number when Ctrl-C comes, which raises ``KeyboardInterrupt`` as ever."""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        signal.default_int_handler(number, frame)

    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not usual or threading.current_thread() is not threading.main_thread():
        yield seen
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
