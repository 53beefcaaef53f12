"""Every failure that fuzzing found, shrunk, as a reproducer: none may come back."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from planish.driver.checks.reference import Reference
from planish.driver.fuzz.check import Subject
from planish.driver.inputs.generate import generate_samples
from planish.driver.inputs.sample_text import parse_sample
from planish.ir.graph import Model
from planish.ir.text import parse_model
from planish.passes.core import Numbers, Pass
from planish.passes.manager import Pipeline
from planish.passes.rewrite.rewriter import Rewriter
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


class Stable(Pass):
    """``x * x / x`` becomes ``x``: right for real numbers, where the square overflows another result than before."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    def run(self, model: Model, r: Rewriter) -> None:
        for node in [n for n in model.graph if n.op == "Div"]:
            x = node.inputs[1]
            assert x is not None
            r.begin(node)
            r.replace(node, r.Neg(r.Neg(x)))


class Unstable(Pass):
    """``-(-x)`` becomes ``x * x / x``."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    def run(self, model: Model, r: Rewriter) -> None:
        outer = [
            n for n in model.graph if n.op == "Neg" and n.inputs[0] is not None and n.inputs[0].producer is not None
        ]
        for node in outer:
            x = model.graph.inputs[0]
            r.begin(node)
            r.replace(node, r.Div(r.Mul(x, x), x))


class ExactlyStable(Stable):
    numbers: ClassVar[Numbers] = Numbers.EXACT


SQUARED = "graph @main(%x: f32[4]) {\n %s = Mul(%x, %x)\n %y = Div(%s, %x)\n return %y\n}"
PLAIN = "graph @main(%x: f32[4]) {\n %n = Neg(%x)\n %y = Neg(%n)\n return %y\n}"


@pytest.mark.parametrize(
    ("text", "step", "kind"),
    [(SQUARED, Stable(), None), (SQUARED, ExactlyStable(), "different"), (PLAIN, Unstable(), "different")],
    ids=["an overflow vanishes", "and every bit was promised", "an overflow comes about"],
)
def test_what_overflows_in_the_original_says_nothing_of_real_numbers(text: str, step: Pass, kind: str | None) -> None:
    subject = Subject(parse_model(text), [{"x": np.array([1, -2, 1e30, 3], np.float32)}])
    found = subject.check("own", thorough=False, parsed=Pipeline([step]))
    assert (found.kind if found is not None else None) == kind
