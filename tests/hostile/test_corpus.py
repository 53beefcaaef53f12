"""Every file of the fuzzers' corpus, replayed: refused with an error of ours, or read and of use."""

from __future__ import annotations

from pathlib import Path

import pytest

from .mutate_proto import mutate
from .properties import CHECKS

FOLDER = Path(__file__).parent / "corpus"
FILES = sorted(p.relative_to(FOLDER).as_posix() for p in FOLDER.glob("*/*"))


@pytest.mark.parametrize("name", FILES)
def test_corpus(name: str) -> None:
    path = FOLDER / name
    found = CHECKS[path.parent.name](path.read_bytes())
    if path.name.startswith("seed-"):
        assert found == "read"


def test_the_corpus_is_there_and_small() -> None:
    assert len(FILES) >= 19
    assert max((FOLDER / name).stat().st_size for name in FILES) < 16 << 10


@pytest.mark.parametrize("seed", range(4))
def test_edited_models_are_read_or_refused(seed: int) -> None:
    """A deterministic share of what the fuzzer does."""
    seeds = [(FOLDER / n).read_bytes() for n in FILES if n.startswith("model/seed-")]
    found = {"read": 0, "refused": 0}
    for i in range(60):
        data = mutate(seeds[i % len(seeds)], 1000 * seed + i)
        found[CHECKS["model"](data)] += 1
    assert found["read"] >= 5
    assert found["refused"] >= 5
