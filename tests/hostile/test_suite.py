"""Hostile files, each in a process of its own with limits: what planish says, how long it takes and how much memory.

Here a third of the files goes through the library and some through the command line; with ``-m slow`` all go through
the library, and ``scripts/hostile`` runs everything.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .parts import SURVIVES
from .suite import CASES, SECONDS

FOLDER = Path(__file__).parent
CODE = "import sys; sys.path.insert(0, sys.argv.pop(1)); from hostile.suite import main; sys.exit(main(sys.argv[1:]))"
LONG = frozenset(("nesting-double", "million-nodes"))
"""Left to the slow tests: seconds of processor time each."""


def run(names: list[str], way: str) -> list[str]:
    """What was not as expected, from a fresh process: this one may have threads, and forks of it could hang."""
    paths = os.pathsep.join(p or os.getcwd() for p in sys.path)
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(FOLDER.parent), "--json", f"--only={way}", *names],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert [o["name"] for o in outcomes] == names, done.stderr
    assert max(o["seconds"] for o in outcomes) < SECONDS
    return [f"{o['name']}: {o['verdict']}: {o['message'][-600:]}" for o in outcomes if not o["passed"]]


def test_there_are_enough_and_each_says_what_is_expected() -> None:
    assert len(CASES) > 200
    refused = [c for c in CASES.values() if c.says != SURVIVES]
    assert len(refused) > 150
    assert all(len(c.says) > 1 and c.wrong for c in CASES.values())


QUICK = [name for name in CASES if name not in LONG]


def test_some_files_through_the_library() -> None:
    assert run(QUICK[::3], "library") == []


def test_some_files_on_the_command_line() -> None:
    assert run(QUICK[1::24], "command") == []


@pytest.mark.slow
def test_all_files_through_the_library_and_more_on_the_command_line() -> None:
    assert run(list(CASES), "library") == []
    assert run([*QUICK[2::4], *sorted(LONG)], "command") == []
