"""Networks of irregular cells: their sizes, orders that are proved best, and the same values in another order."""

from __future__ import annotations

import numpy as np
import pytest

from planish.backends.ort.backend import OrtBackend
from planish.models.cells import AMOEBANET, CELLS, DARTS, NASNET, Genotype, cell_network
from planish.models.cells_random import randwire, swiftnet_style
from planish.passes.manager import Pipeline
from planish.passes.shared.liveness import liveness
from planish.passes.shared.order.search import best_order
from planish.passes.shared.order.tasks import tasks_of


@pytest.mark.parametrize(
    ("name", "peak", "file"),
    [
        ("darts-cifar", 1_622_016, 1_769_472),
        ("darts-imagenet", 1_806_336, 1_806_336),
        ("nasnet-cifar", 1_769_472, 1_966_080),
        ("nasnet-imagenet", 1_862_784, 2_069_760),
        ("amoebanet-cifar", 1_474_560, 1_474_560),
        ("amoebanet-imagenet", 1_881_600, 1_881_600),
        ("randwire-ws-32", 3_424_512, 4_402_944),
        ("randwire-ws-48", 5_136_768, 7_582_848),
        pytest.param("randwire-ws-64", 5_381_376, 8_805_888, marks=pytest.mark.slow),
        ("swiftnet-style", 2_433_024, 2_654_208),
    ],
)
def test_orders_of_irregular_cells_are_proved_best(name: str, peak: int, file: int) -> None:
    graph = CELLS[name]().graph
    live = liveness(graph)
    found = best_order(tasks_of(graph, live.workspace)[1])
    assert (live.peak, found.peak, found.bound) == (file, peak, peak)


@pytest.mark.parametrize("genotype", [DARTS, NASNET, AMOEBANET])
def test_the_cells_compute_the_same_in_another_order(genotype: Genotype) -> None:
    model = cell_network(genotype, channels=4, layers=4, size=16)
    sample = {"input": np.random.default_rng(1).standard_normal((1, 3, 16, 16), np.float32)}
    before = OrtBackend().run(model, sample)[0]
    peak = liveness(model.graph).peak
    Pipeline("order-nodes").run(model)
    assert liveness(model.graph).peak <= peak
    np.testing.assert_array_equal(OrtBackend().run(model, sample)[0], before)
    assert before.shape == (1, 10)
    assert np.isfinite(before).all()
    assert before.std() > 0


def test_random_wirings_run() -> None:
    sample = np.random.default_rng(1).standard_normal((1, 3, 32, 32), np.float32)
    wired = randwire(10, channels=4, size=32)
    assert OrtBackend().run(wired, {"input": sample})[0].shape == (1, 1000)
    assert OrtBackend().run(swiftnet_style(channels=4, size=32), {"input": sample})[0].shape == (1, 2)
    convolutions = [node for node in CELLS["randwire-ws-48"]().graph if node.op == "Conv"]
    assert len(convolutions) == 3 * 48 * 2 + 3
