"""Bisecting slowdowns on whole networks: with times that are counted, and on a real model by the clock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import planish
from planish.backends.core import Sample
from planish.driver.bisect.judge import SLOW, SLOWER, Judge, reference_for
from planish.driver.bisect.reproducer import make_reproducer
from planish.driver.bisect.search import Search
from planish.driver.reproduce import replay
from planish.ir.clone import clone_model
from planish.ir.cost import total_flops
from planish.ir.graph import Model
from planish.models import zoo
from planish.models.mobilenet import mobilenet_v2
from planish.passes.core import Context, Fuel
from planish.passes.manager import Pipeline

WIDE = "clean,fold-batchnorm,pad-channels{growth=64,lanes=64}"
"""Channels padded for a machine with far wider registers than there are."""


def counted(original: Model, model: Model, sample: Sample) -> tuple[float, float]:
    """A machine that takes a nanosecond for each operation, and a microsecond for a run: the same every time."""
    first, second = (total_flops(list(m.graph))[0] for m in (original, model))
    assert isinstance(first, int)
    assert isinstance(second, int)
    return 1e-6 + first * 1e-9, 1e-6 + second * 1e-9


def test_the_rewrite_that_makes_a_network_slower_than_allowed_is_found() -> None:
    model = mobilenet_v2(width=0.35, size=32, classes=10, batch=1)
    sample = {"input": np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)}
    reference = reference_for(model, [sample])
    assert reference is not None
    allowed = 1.5
    search = Search(model, WIDE, Context, Judge(reference, slower=allowed, race=counted))
    guilty = search.find(float("inf"))
    assert guilty is not None
    assert (guilty.kind, guilty.rule) == (SLOW, "pad-channels/Region")

    def ratio(rewrites: int) -> float:
        found = clone_model(model)
        Pipeline(WIDE).run(found, Context(fuel=Fuel(rewrites)))
        before, after = counted(model, found, sample)
        return after / before

    assert ratio(guilty.number - 1) <= allowed < ratio(guilty.number)
    assert f"takes {ratio(guilty.number):.2f} times as long" in guilty.problem
    assert f"{ratio(guilty.number - 1):.2f} times without this rewrite" in guilty.problem
    small = make_reproducer(search, guilty, seconds=20)
    assert small is not None
    assert small.nodes <= 5, small.text
    assert f"// {SLOWER}: {allowed}" in small.text
    before, after = counted(small.model, _run(small.model, small.pipeline), sample)
    assert after > allowed * before


def _run(model: Model, pipeline: str) -> Model:
    found = clone_model(model)
    Pipeline(pipeline).run(found, Context())
    return found


@pytest.mark.slow
def test_a_pass_that_makes_a_real_model_slower_is_found_by_the_clock(tmp_path: Path) -> None:
    entry = zoo.get("ppocr_cls")
    if not entry.installed:
        pytest.skip(entry.install_command)
    options: dict[str, Any] = {"slower": 1.5, "repro_dir": tmp_path, "seconds": 30}
    found = planish.bisect(entry.path(), WIDE.replace("64", "128"), entry.samples(2), **options)
    assert found.guilty is not None
    assert (found.guilty.kind, found.guilty.rule) == (SLOW, "pad-channels/Region")
    again = replay(found.file)
    assert again.header[SLOWER] == "1.5"
    assert again.reproduced, again.error
