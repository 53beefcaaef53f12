"""Every failure that fuzzing found, shrunk, as a reproducer: none may come back."""

from __future__ import annotations

from pathlib import Path

import pytest

from planish.driver.fuzz.check import Subject
from planish.driver.generate import generate_samples
from planish.driver.reference import Reference
from planish.driver.sample_text import parse_sample
from planish.ir.text import parse_model
from planish.passes.target import get_target

CASES = sorted((Path(__file__).parent / "regressions").glob("*.ir"))


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_does_not_come_back(path: Path) -> None:
    text = path.read_text("utf-8")
    header = dict(line[3:].split(": ", 1) for line in text.splitlines() if line.startswith("// "))
    model = parse_model(text)
    given = [parse_sample(header["sample"])] if "sample" in header else []
    samples = given or generate_samples(model, Reference(model, optimizer_noise=False).accepts).items
    target = header["target"]
    subject = Subject(model, samples, None if target == "-" else get_target(target))
    assert subject.original_failure() is None
    if header["pipeline"]:
        assert subject.check(header["pipeline"]) is None
