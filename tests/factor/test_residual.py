"""Codes and a product of low rank, found together."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import planish
from planish.backends.ort.session import Session
from planish.driver.calibrate import observer
from planish.ir.clone import clone_model
from planish.ir.text.parser import parse_model
from planish.ir.verify import verify
from planish.passes.choices import Choices
from planish.passes.core import Context
from planish.passes.shared.factor.residual import rounded_codes, with_residual
from planish.passes.shared.quant.blocks import BlockScheme
from planish.passes.target import get_target

Array = np.ndarray[Any, Any]
MODEL = """graph @main(%x: f32[64,96]) {
  %w: f32[96,64] = const rand<1>
  %b: f32[64] = const rand<2>
  %y = Gemm(%x, %w, %b)
  return %y
}
"""
WIDE = """graph @main(%x: f32[N,128]) {
  %w: f32[128,128] = const rand<1>
  %y = MatMul(%x, %w)
  return %y
}
"""


def second_moments(k: int) -> Array:
    """Few strong directions."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(k, k)) * np.logspace(0, -2, k)[:, None]
    found: Array = mix.T @ mix / k + 1e-3 * np.eye(k)
    return found


@pytest.mark.parametrize("bits", [4, 8])
def test_a_product_takes_what_codes_lose(bits: int) -> None:
    """More rank, less error; always less than codes alone; the stated error is that of the outputs."""
    rng = np.random.default_rng(1)
    weight, second, scheme = rng.normal(size=(96, 64)), second_moments(96), BlockScheme(bits)

    def relative(error: Array) -> float:
        return float(np.sqrt((error * (second @ error)).sum() / (weight * (second @ weight)).sum()))

    alone = relative(weight - rounded_codes(weight, second, scheme).real().T)
    errors = [alone]
    for rank in (2, 8, 24):
        found = with_residual(weight, second, rank, scheme)
        assert found.error == pytest.approx(relative(weight - found.codes.real().T - found.a @ found.b), rel=1e-6)
        errors.append(found.error)
    assert all(b < a for a, b in pairwise(errors))
    assert errors[3] < 0.7 * alone
    together, once = (with_residual(weight, second, 8, scheme, turns).error for turns in (3, 1))
    assert together <= once


@pytest.mark.parametrize("bits", [0, 4, 8])
def test_what_is_predicted_is_measured(bits: int) -> None:
    model, rng = parse_model(MODEL), np.random.default_rng(2)
    root = np.linalg.cholesky(second_moments(96)).T
    given = [{"x": (rng.normal(size=(64, 96)) @ root).astype(np.float32)} for _ in range(20)]
    made, choices = clone_model(model), Choices()
    ctx = Context(target=get_target("x86-64-v3"), observe=observer(given), choices=choices)
    options = f"ranks=[8],min-parameters=64,accuracy=0,factor-bits={bits}"
    planish.Pipeline(f"factorize-residual{{{options}}}").run(made, ctx)
    verify(made)
    assert [n.op for n in made.graph] == (["MatMulNBits"] * 3 + ["Add"] if bits else ["MatMulNBits", "Gemm", "Gemm"])
    (unit,) = choices.offered.values()
    assert unit.key.startswith("factorize-residual/r8@")
    a, b = Session(model), Session(made)
    pairs = [(np.asarray(a.run(s)[0], float), np.asarray(b.run(s)[0], float)) for s in given]
    bias = np.asarray(model.graph.outputs[0].producer.inputs[2].data.numpy(), float)  # type: ignore[union-attr]
    noise = sum(((p - q) ** 2).sum() for p, q in pairs)
    signal = sum(((p - bias) ** 2).sum() for p, _ in pairs)
    assert float(np.sqrt(noise / signal)) == pytest.approx(unit.error, rel=0.15)


@pytest.mark.slow
def test_a_width_between_four_and_eight_bits() -> None:
    """Where the budget allows neither four bits nor asks for eight, by the name that the command line takes."""
    model, rng = parse_model(WIDE), np.random.default_rng(2)
    root = np.linalg.cholesky(second_moments(128)).T
    given = [{"x": (rng.normal(size=(64, 128)) @ root).astype(np.float32)} for _ in range(8)]

    def made(how: str, limit: float) -> planish.Result:
        budget = planish.Budget(limit, "rms")
        return planish.optimize(
            model, "x86-64-v4-vnni", samples=given, quantize=how, budget=budget, measure=False, validate="none"
        )

    plain, both, loose = made("weights", 0.05), made("residual-weights", 0.05), made("residual-weights", 0.1)
    taken = [
        r.report.budget.taken[0].rstrip("0123456789@w") for r in (plain, both, loose) if r.report.budget is not None
    ]
    assert taken == ["quantize-weights/int", "factorize-residual/r", "quantize-weights/int"]
    assert loose.report.after.file_bytes < both.report.after.file_bytes
    assert both.report.after.file_bytes < 0.9 * plain.report.after.file_bytes
    assert both.report.budget is not None
    assert both.report.budget.spent <= 1


@pytest.mark.parametrize("bits", [0, 8])
def test_beside_what_a_gemm_adds(bits: int) -> None:
    """A residual sum stays one, added to what the codes give."""
    text = MODEL.replace("%x: f32[64,96]", "%x: f32[64,96], %a: f32[64,64]").replace("%w, %b)", "%w, %a) {beta = 2.0}")
    model, rng = parse_model(text), np.random.default_rng(2)
    given = {"x": rng.normal(size=(64, 96)).astype(np.float32), "a": rng.normal(size=(64, 64)).astype(np.float32)}
    made, choices = clone_model(model), Choices()
    ctx = Context(target=get_target("x86-64-v3"), choices=choices)
    options = f"ranks=[16],bits=8,min-parameters=64,accuracy=0,factor-bits={bits}"
    planish.Pipeline(f"factorize-residual{{{options}}}").run(made, ctx)
    verify(made)
    assert len(choices.taken) == 1
    before, after = (np.asarray(Session(m).run(given)[0]) for m in (model, made))
    assert np.linalg.norm(after - before) < 0.01 * np.linalg.norm(before)
