"""What every commit must hold: small files, no machine's paths, no file that has swallowed the others."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = ("ir", "passes", "backends", "models", "driver")
MOST_BYTES = 1_000_000
MOST_LINES = 600
# Home folders and the usual places of a checkout; a slash before it or a word makes it part of some longer name.
MACHINE_PATH = re.compile(rb"(?<![\w./-])/(?:home|Users|root|work|mnt|builds)/[\w.-]")


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """The files that git tracks and that are still there."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for name in listing.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_tracked_file_is_large(tracked: list[Path]) -> None:
    assert [f"{path}: {size} bytes" for path in tracked if (size := path.stat().st_size) > MOST_BYTES] == []


def test_no_tracked_file_names_a_place_on_some_machine(tracked: list[Path]) -> None:
    places = (str(ROOT.parent).encode() + b"/", str(Path.home()).encode() + b"/")
    found: list[str] = []
    for path in tracked:
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            if MACHINE_PATH.search(line) or any(place in line for place in places if place.count(b"/") > 2):
                found.append(f"{path.relative_to(ROOT)}:{number}")
    assert found == []


def test_no_library_file_has_grown_out_of_hand() -> None:
    files = [*ROOT.glob("*.py"), *(file for part in LIBRARY for file in (ROOT / part).rglob("*.py"))]
    lengths = {str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert {file: lines for file, lines in lengths.items() if lines > MOST_LINES} == {}
