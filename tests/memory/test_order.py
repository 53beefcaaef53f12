"""Orders: topological, never worse, the best where all can be tried, in the graph as good as they were said to be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.driver.dims import input_symbols, with_dims
from planish.driver.optimize import optimize
from planish.ir.graph import Graph
from planish.ir.onnx_reader import read_model
from planish.models.random import random_case
from planish.models.zoo import export
from planish.passes.manager import Pipeline
from planish.passes.shared.liveness import liveness
from planish.passes.shared.order.descent import Descent
from planish.passes.shared.order.piece import Piece
from planish.passes.shared.order.search import best_order
from planish.passes.shared.order.tasks import Alive, Tasks, tasks_of

from .playing import play


@st.composite
def some_tasks(draw: st.DrawFn, most: int) -> Tasks:
    """Each node makes one storage, reads some of those before it, and may write over one of the same size."""
    tasks = Tasks()
    given = draw(st.integers(0, 2))
    for s in range(given):
        tasks.size.append(draw(st.integers(0, 9)))
        tasks.users.append([])
        tasks.kept.append(False)
        tasks.given.append(s)
    makers: dict[int, int] = {}
    for i in range(draw(st.integers(0, most))):
        reads = sorted(draw(st.sets(st.integers(0, len(tasks.size) - 1), max_size=3))) if tasks.size else []
        own = len(tasks.size)
        tasks.size.append(draw(st.integers(0, 9)))
        tasks.kept.append(draw(st.integers(0, 9)) == 0)
        tasks.users.append([])
        makers[own] = i
        tasks.before.append(sorted({makers[s] for s in reads if s in makers}))
        tasks.touched.append(reads)
        tasks.made.append([own])
        over = [s for s in reads if s not in tasks.given and not tasks.kept[s] and tasks.size[s] == tasks.size[own]]
        tasks.overwrites.append(over if draw(st.booleans()) else [])
        tasks.work.append(draw(st.sampled_from([0, 0, 0, 5])))
        for s in (*reads, own):
            tasks.users[s].append(i)
    tasks.given = [s for s in tasks.given if tasks.users[s]]
    return tasks


def all_orders(tasks: Tasks, done: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    if len(done) == len(tasks):
        yield done
    for i in range(len(tasks)):
        if i not in done and set(tasks.before[i]) <= set(done):
            yield from all_orders(tasks, (*done, i))


def is_topological(tasks: Tasks, order: list[int]) -> bool:
    place = {node: i for i, node in enumerate(order)}
    return sorted(order) == list(range(len(tasks))) and all(
        place[j] < place[i] for i in range(len(tasks)) for j in tasks.before[i]
    )


@given(some_tasks(most=7))
@settings(max_examples=150, deadline=None)
def test_the_best_of_all_orders_is_found_and_proved(tasks: Tasks) -> None:
    found = best_order(tasks)
    assert is_topological(tasks, found.order)
    assert found.peak == found.bound == tasks.peak(found.order) == min(map(tasks.peak, all_orders(tasks)))


@given(some_tasks(most=7))
@settings(max_examples=100, deadline=None)
def test_either_side_finds_an_order_below_a_limit_where_there_is_one(tasks: Tasks) -> None:
    if not len(tasks):
        return
    piece = Piece(tasks, Alive(tasks), list(range(len(tasks))))
    best = min(map(tasks.peak, all_orders(tasks)))
    assert piece.bound <= best
    for side in piece.sides:
        for limit in range(max(piece.bound, best - 3), best + 3):
            descent = Descent(side, limit)
            while not descent.run(5):
                pass
            if descent.order is None:
                assert limit < descent.wanted <= best
            else:
                assert side.walk(descent.order)[0] <= limit
                units = reversed(descent.order) if side.back else descent.order
                assert tasks.peak([node for i in units for node in piece.members[i]]) <= limit


@given(some_tasks(most=30), st.sampled_from([0, 50, 2_000]))
@settings(max_examples=60, deadline=None)
def test_orders_are_never_worse_and_bounds_never_wrong(tasks: Tasks, steps: int) -> None:
    found = best_order(tasks, steps=steps)
    assert is_topological(tasks, found.order)
    assert found.bound <= found.peak == tasks.peak(found.order) <= tasks.peak(range(len(tasks)))
    assert found.bound <= best_order(tasks, steps=20_000).peak
    assert found == best_order(tasks, steps=steps)


def check_ordered(graph: Graph, before: int) -> None:
    live = liveness(graph)
    assert live.peak <= before
    nodes, tasks = tasks_of(graph, live.workspace)
    assert live.profile == (tasks.profile(range(len(nodes))) or [0])
    play(graph, live)


@pytest.mark.parametrize("pipeline", ["order-nodes", "(clean,order-nodes)*,order-nodes{steps=100}"])
def test_in_the_driver(pipeline: str, tmp_path: Path) -> None:
    path, _ = export("magika", tmp_path, count=1)
    result = optimize(path, pipeline=pipeline, dims={"unk__214": 2}, measure=False)
    assert result.report.validation.equivalent


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_random_models_need_what_was_said(seed: int) -> None:
    model = random_case(seed).model
    model = with_dims(model, dict.fromkeys(input_symbols(model), 3))
    live = liveness(model.graph)
    nodes, tasks = tasks_of(model.graph, live.workspace)
    wanted = best_order(tasks).peak
    Pipeline("order-nodes").run(model)
    if live.unknown:  # nothing is known of an order's worth
        assert tasks_of(model.graph, live.workspace)[0] == nodes
        return
    check_ordered(model.graph, live.peak)
    assert liveness(model.graph).peak <= max(wanted, 0)


@pytest.mark.parametrize("name", ["ppocr_cls", "magika", "light_inception_v2"])
def test_zoo_models_are_ordered_with_proof(name: str, tmp_path: Path) -> None:
    path, _ = export(name, tmp_path, count=1)
    model = read_model(path)
    model = with_dims(model, dict.fromkeys(input_symbols(model), 32))
    live = liveness(model.graph)
    found = best_order(tasks_of(model.graph, live.workspace)[1])
    assert found.peak == found.bound
    Pipeline("order-nodes").run(model)
    check_ordered(model.graph, live.peak)
    assert liveness(model.graph).peak == found.peak


def test_long_chains_take_no_search() -> None:
    tasks = Tasks()
    for i in range(100_000):
        tasks.size.append(100 + i % 7)
        tasks.users.append([i] if i == 99_999 else [i, i + 1])
        tasks.kept.append(False)
        tasks.before.append([i - 1] if i else [])
        tasks.touched.append([i - 1] if i else [])
        tasks.made.append([i])
        tasks.overwrites.append([])
        tasks.work.append(0)
    found = best_order(tasks)
    assert found.steps == 0
    assert found.peak == found.bound == 211
