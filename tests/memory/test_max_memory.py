"""``--max-memory``: the same values from a model that fits, or a refusal that says how far it got."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from planish.backends.ort.backend import OrtBackend
from planish.cli.shared import app
from planish.driver.deploy import static_dims
from planish.driver.dims import with_dims
from planish.driver.optimize import optimize
from planish.ir.errors import BudgetError, UsageError
from planish.ir.onnx_reader import read_model
from planish.ir.onnx_writer import write_model
from planish.models.mobilenet import mobilenet_v2
from planish.models.random import random_case
from planish.passes.shared.arena.place import place
from planish.passes.shared.liveness import liveness

from .playing import play

LIMIT = 160 << 10


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("memory") / "m.onnx"
    write_model(mobilenet_v2(batch="N", size=64, width=0.35), path)
    return path


def test_a_model_is_made_to_fit(network: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    arguments = ["optimize", str(network), "-o", str(out), "--dim", "N=1", "--max-memory", "160KiB"]
    run = CliRunner().invoke(app, arguments)
    assert run.exit_code == 0, run.output
    assert "by parts of regions" in run.stdout
    assert "all values fit in an arena of" in run.stdout
    model = read_model(out)
    live = liveness(model.graph)
    assert place(live.buffers(64), LIMIT).height <= LIMIT
    assert liveness(with_dims(read_model(network), {"N": 1}).graph).peak > LIMIT
    (name,) = (v.name for v in model.graph.inputs)
    x = np.random.default_rng(3).standard_normal((1, 3, 64, 64), np.float32)
    first, second = (OrtBackend().run(read_model(p), {name: x})[0] for p in (network, out))
    np.testing.assert_allclose(second, first, rtol=1e-4, atol=1e-5 * float(np.abs(first).max()))


def test_what_does_not_fit_is_refused(network: Path, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="the limit is 60,000"):
        optimize(
            network,
            pipeline="fold-batchnorm",
            validate="none",
            dims={"N": 1},
            max_memory=60_000,
            output=tmp_path / "out.onnx",
        )
    assert not (tmp_path / "out.onnx").exists()
    with pytest.raises(UsageError, match="sizes are no numbers"):
        optimize(network, pipeline="fold-batchnorm", validate="none", max_memory=LIMIT)
    with pytest.raises(UsageError, match="positive"):
        optimize(network, max_memory=0)


@given(st.integers(0, 10_000), st.sampled_from([0.3, 0.7, 0.9]))
@settings(max_examples=12, deadline=None)
def test_random_models_compute_the_same_and_never_take_more(seed: int, share: float) -> None:
    case = random_case(seed)
    sample = case.samples[0]
    model = with_dims(case.model, static_dims(case.model, {}, sample))
    live = liveness(model.graph)
    if live.unknown:
        return
    limit = max(int(live.peak * share), 1)
    steps = f"order-nodes,rematerialize{{max-bytes={limit}}},split-regions{{max-bytes={limit}}}"
    result = optimize(model, pipeline=steps, measure=False, max_growth=10.0)
    assert result.report.validation.equivalent is not False
    after = liveness(result.model.graph)
    assert after.peak <= live.peak
    play(result.model.graph, after)
