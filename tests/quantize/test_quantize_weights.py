"""quantize-weights beyond its golden suite: units, statistics, memory of results, files, what kernels compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import planish
from planish.backends.ort.session import Session
from planish.driver.calibrate import observer
from planish.ir import Builder, DType
from planish.ir.clone import clone_model
from planish.ir.errors import PipelineError
from planish.ir.graph import Model
from planish.ir.onnx_writer import model_to_bytes, write_model
from planish.passes.choices import Choices
from planish.passes.core import Context
from planish.passes.memo import Memo
from planish.passes.quantize import quantize_weights
from planish.passes.shared.quant.blocks import BlockScheme, round_to_nearest
from planish.passes.target import get_target

Array = np.ndarray[Any, Any]
TARGET = get_target("x86-64-v3")


def products(k: int = 64, n: int = 24, layers: int = 2) -> Model:
    b, draw = Builder(), np.random.default_rng(0)
    x = b.input("x", DType.F32, ("N", k))
    for i in range(layers):
        w = draw.standard_t(4, (k, n if i == layers - 1 else k)) / k**0.5
        x = b.MatMul(x, b.const(w.astype(np.float32), f"w{i}"))
    b.output(x, "y")
    return b.model()


def run(model: Model, options: str, **context: Any) -> tuple[Model, Context, list[str]]:
    """The quantized copy."""
    copy, notes = clone_model(model), list[str]()
    ctx = Context(target=TARGET, sink=notes.append, **context)
    planish.Pipeline(f"quantize-weights{{min-bytes=64,{options}}}").run(copy, ctx)
    return copy, ctx, notes


def ops(model: Model) -> list[str]:
    return [n.op for n in model.graph]


def correlated(rows: int, k: int = 64, seed: int = 1) -> list[dict[str, Array]]:
    """Inputs of unequal size that move together."""
    mix = np.random.default_rng(7).standard_normal((k, k)) * np.exp(np.random.default_rng(8).standard_normal(k))
    draw = np.random.default_rng(seed)
    return [{"x": (draw.standard_normal((8, k)) @ mix).astype(np.float32)} for _ in range(rows)]


def test_each_width_is_a_unit_and_the_narrowest_comes_first() -> None:
    _, ctx, _ = run(products(), "bits=[8,4]")
    names = [n.inputs[1].name for n in products().graph if n.inputs[1] is not None]  # nodes without names: weights'
    assert list(ctx.choices.offered) == [f"quantize-weights/int4@{name}" for name in names]
    left = Choices(left=[f"quantize-weights/int4@{names[0]}"])
    model, ctx, _ = run(products(), "bits=[4,8]", choices=left)
    bits = [n.attr("bits", 4) for n in model.graph]
    assert bits == [8, 4]
    units = ctx.choices.offered
    narrow, wide = units[f"quantize-weights/int4@{names[0]}"], units[f"quantize-weights/int8@{names[0]}"]
    assert narrow.error > wide.error
    assert narrow.saved_bytes > wide.saved_bytes > 0


def test_nothing_is_done_where_nothing_is_allowed() -> None:
    model, ctx, _ = run(products(), "bits=[4,8]", choices=Choices(lossless=True))
    assert ops(model) == ["MatMul", "MatMul"]
    assert len(ctx.choices.offered) == 4


def test_data_makes_outputs_more_exact() -> None:
    """On data that was not seen; and the predicted error is about what is measured."""
    model, unseen = products(layers=1), correlated(20, seed=2)
    original = Session(model)
    reference = np.concatenate([original.run(s)[0] for s in unseen])

    def error(options: str, **context: Any) -> tuple[float, float]:
        quantized, ctx, _ = run(model, f"bits=4,accuracy=0,{options}", **context)
        session = Session(quantized)
        found = np.concatenate([session.run(s)[0] for s in unseen])
        predicted = next(iter(ctx.choices.offered.values())).error
        return float(np.linalg.norm(found - reference) / np.linalg.norm(reference)), predicted

    rounded = error("method=rtn")[0]
    observe = observer(correlated(40))
    found, predicted = error("method=auto", observe=observe)
    assert found < 0.6 * rounded
    assert 0.5 < predicted / found < 1.5
    assert error("method=search", observe=observe)[0] < 0.9 * rounded
    assert error("method=awq", observe=observe)[0] < 0.6 * rounded


def test_without_samples_it_says_so() -> None:
    _, _, notes = run(products(), "method=gptq")
    assert any("needs samples (--samples FILE)" in note for note in notes)
    assert not run(products(), "method=auto")[2]


def test_another_run_of_the_pipeline_computes_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    memo = Memo()
    first, _, _ = run(products(), "bits=[4,8]", memo=memo)
    monkeypatch.setattr(quantize_weights, "quantize_matrix", None)
    again, _, _ = run(products(), "bits=[4,8]", memo=memo)
    assert str(first) == str(again)


def test_memory_of_results_is_bounded() -> None:
    memo = Memo(limit_bytes=10)
    made: list[int] = []

    def compute(i: int) -> int:
        made.append(i)
        return i

    for i in (1, 2, 1, 3, 2, 1):
        assert memo.get(i, lambda i=i: compute(i), lambda _: 4) == i
        assert memo.bytes <= 10
    assert made == [1, 2, 3, 2, 1]
    memo.get("large", lambda: compute(9), lambda _: 11)
    assert memo.bytes <= 10


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(
    ("k", "block", "symmetric"), [(64, 16, False), (40, 32, False), (40, 32, True), (16, 32, True)]
)
def test_the_kernel_computes_what_the_numbers_say(bits: int, k: int, block: int, symmetric: bool) -> None:
    model = products(k, 9, 1)
    quantized, _, _ = run(model, f"bits={bits},block={block},method=rtn,accuracy=0,symmetric={str(symmetric).lower()}")
    assert ops(quantized) == ["MatMulNBits"]
    x = np.random.default_rng(1).standard_normal((5, k)).astype(np.float32)
    weight = next(iter(model.graph.constants)).numpy().T
    real = round_to_nearest(weight, BlockScheme(bits, block, symmetric)).real()
    found = Session(quantized).run({"x": x})[0]
    assert np.allclose(found, x @ real.T, atol=2e-5 * np.abs(x @ real.T).max())


@pytest.mark.parametrize("symmetric", ["true", "false"])
def test_tied_tables_give_the_rows_that_products_use(symmetric: str) -> None:
    b = Builder()
    ids = b.input("i", DType.I64, ("N",))
    x = b.input("x", DType.F32, ("M", 32))
    table = b.const(np.random.default_rng(0).standard_normal((11, 32)).astype(np.float32), "table")
    b.output(b.Gather(table, ids), "rows")
    b.output(b.MatMul(x, b.Transpose(table, perm=(1, 0))), "y")
    quantized, _, _ = run(b.model(), f"bits=4,block=16,accuracy=0,symmetric={symmetric}")
    assert sorted(ops(quantized)) == ["GatherBlockQuantized", "MatMulNBits", "Reshape"]
    assert (
        sum(c.data.nbytes for c in quantized.graph.constants if c.data is not None and c.dtype is DType.U8)
        == 11 * 16 + (symmetric == "false") * 11
    )
    rows, found = Session(quantized).run({"i": np.arange(11), "x": np.eye(32, dtype=np.float32)})
    assert np.allclose(rows, found.T, atol=1e-6)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", ["true", "false"])
def test_what_units_say_they_save_is_what_the_file_loses(bits: int, symmetric: str) -> None:
    """A tied table counts once, however many nodes read it."""
    b = Builder()
    ids = b.input("i", DType.I64, ("N",))
    table = b.const(np.random.default_rng(0).standard_normal((500, 256)).astype(np.float32), "table")
    inner = b.const(np.random.default_rng(1).standard_normal((256, 256)).astype(np.float32), "inner")
    b.output(b.MatMul(b.MatMul(b.Gather(table, ids), inner), b.Transpose(table, perm=(1, 0))), "y")
    model, choices = b.model(), Choices()
    quantized, _, _ = run(model, f"bits={bits},block=32,symmetric={symmetric}", choices=choices)
    assert len(choices.offered) == 2
    lost = len(model_to_bytes(model)) - len(model_to_bytes(quantized))
    assert sum(u.saved_bytes for u in choices.offered.values()) == pytest.approx(lost, abs=2000)


def test_weights_in_constant_nodes_are_seen(tmp_path: Path) -> None:
    w = numpy_helper.from_array(np.random.default_rng(0).standard_normal((32, 8)).astype(np.float32))
    nodes = [helper.make_node("Constant", [], ["w"], value=w), helper.make_node("MatMul", ["x", "w"], ["y"])]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", d]) for n, d in (("x", 32), ("y", 8)))
    proto = helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=[helper.make_opsetid("", 21)])
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    assert ops(run(planish.load(path), "bits=4")[0]) == ["MatMulNBits"]


def test_weights_in_files_come_out_the_same(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    write_model(products(), path, external_data=True)
    stored = planish.load(path)
    found, wanted = run(stored, "bits=4")[0], run(products(), "bits=4")[0]
    digests = [sorted(c.data.digest() for c in m.graph.constants if c.data is not None) for m in (found, wanted)]
    assert digests[0] == digests[1]


def test_pieces_of_a_matrix_give_the_same_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    from planish.passes.shared.quant import weight_only

    whole, _, _ = run(products(), "bits=4", observe=observer(correlated(10)))
    monkeypatch.setattr(weight_only, "PIECE_ELEMENTS", 64 * 5)
    pieces, _, _ = run(products(), "bits=4", observe=observer(correlated(10)))
    assert str(whole) == str(pieces)


@pytest.mark.parametrize("options", ["bits=3", "block=24", "method=best", "form=int4"])
def test_options_are_checked(options: str) -> None:
    with pytest.raises(PipelineError, match=options.split("=")[0]):
        run(products(), options)


def test_a_budget_falls_back_to_wider_weights() -> None:
    samples = {"x": np.stack([s["x"] for s in correlated(4)])}
    pipeline = "quantize-weights{min-bytes=64,accuracy=0}"
    result = planish.optimize(
        products(), samples=samples, pipeline=pipeline, target="x86-64-v3", budget=0.02, measure=False
    )
    assert "int8" in " ".join(result.report.budget.taken if result.report.budget is not None else [])
