"""Two fields in which exp turns sums into products, against Python's integers; Resize against a runtime."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from planish.backends.ort.session import Session
from planish.driver.prove import exponents as E
from planish.driver.prove import logarithms as L
from planish.driver.prove import number as N
from planish.driver.prove.evaluate import Evaluation
from planish.driver.prove.field import Field
from planish.ir.text import parse_model

MODULI = (E.P, E.Q)


def draw(*shape: int, seed: int = 0) -> Field:
    return E.draw(np.random.default_rng(seed), shape)


def halves(a: Field) -> list[tuple[int, int]]:
    return [(int(x) & (1 << 32) - 1, int(x) >> 32) for x in a.reshape(-1)]


def test_both_moduli_are_prime_and_one_divides_the_other_less_one() -> None:
    for p in MODULI:
        assert all(p % d for d in range(2, int(p**0.5) + 1))
    assert (E.P - 1) % E.Q == 0
    assert pow(E.BASE, E.Q, E.P) == 1 != E.BASE


def test_arithmetic_in_both_fields() -> None:
    a, b = draw(300), draw(300, seed=1)
    pairs = list(zip(halves(a), halves(b), strict=True))
    assert halves(E.add(a, b)) == [tuple((x + y) % m for x, y, m in zip(s, t, MODULI, strict=True)) for s, t in pairs]
    assert halves(E.multiply(a, b)) == [
        tuple(x * y % m for x, y, m in zip(s, t, MODULI, strict=True)) for s, t in pairs
    ]
    assert not E.add(a, E.negative(a)).any()
    one = E.from_ints(np.array(1))
    assert (E.multiply(a, E.inverse(a)) == one).all()
    with pytest.raises(ZeroDivisionError):
        E.inverse(np.append(a, np.uint64(0)))


def test_products_of_matrices_and_sums() -> None:
    a, b = draw(3, 1500), draw(1500, 2, seed=1)
    wanted = [
        tuple(
            sum(halves(x)[0][k] * halves(y)[0][k] for x, y in zip(row, column, strict=True)) % m
            for k, m in enumerate(MODULI)
        )
        for row in a[:, :, None]
        for column in b.T[:, :, None]
    ]
    assert halves(E.matmul(a, b)) == wanted
    assert halves(E.total(a, 1)) == [
        tuple(sum(h[k] for h in halves(row)) % m for k, m in enumerate(MODULI)) for row in a
    ]


def test_images_of_floats_and_integers() -> None:
    x = np.array([0.0, -0.0, 1.0, -0.1, 1 / 3, 3e-310, 5e-324, -1e308, 2.0**60])
    wanted = [tuple(f.numerator * pow(f.denominator, -1, m) % m for m in MODULI) for f in map(Fraction, x.tolist())]
    assert halves(E.from_floats(x)) == wanted
    for whole in (np.array([-(2**63), -1, 0, 2**63 - 1]), np.array([2**64 - 1], np.uint64), np.array([True])):
        assert halves(E.from_ints(whole)) == [tuple(int(v) % m for m in MODULI) for v in whole.tolist()]


def test_exp_turns_sums_into_products() -> None:
    a, b = draw(400), draw(400, seed=1)
    left = E.value(E.exponential(E.add(a, b)))
    assert (left == E.value(E.multiply(E.exponential(a), E.exponential(b)))).all()
    assert len(set(left.tolist())) == 400
    assert int(E.value(E.exponential(np.zeros(1, np.uint64)))[0]) == 1
    again = E.exponential(E.exponential(a))
    assert (again == E.exponential(E.exponential(a.copy()))).all()


def test_logarithms_are_those_of_powers_and_of_their_negatives() -> None:
    exponents = np.random.default_rng(0).integers(0, E.Q, 100, dtype=np.uint64)
    edges = np.array([0, 1, (1 << 20) - 1, 1 << 20, E.Q - 1], np.uint64)
    wanted = np.concatenate([exponents, edges])
    powers = np.array([pow(E.BASE, int(k), E.P) for k in wanted], np.uint64)
    assert (L.discrete_logarithm(powers) == wanted).all()
    assert (L.discrete_logarithm(np.uint64(E.P) - powers) == wanted).all()


def test_log_turns_products_into_sums_and_undoes_exp() -> None:
    a, b = draw(4, 5), draw(4, 5, seed=1)
    both = L.add(L.logarithm(a, 3), L.logarithm(b, 3))
    assert (L.value(L.logarithm(L.multiply(a, b), 3)) == L.value(both)).all()
    assert (L.value(L.logarithm(L.exponential(a), 3)) == L.value(a)).all()
    assert (E.value(L.logarithm(a, 3)) != E.value(L.logarithm(a, 4))).all()
    with pytest.raises(ValueError, match="the limit"):
        L.logarithm(draw(L.MAX_ELEMENTS + 1), 3)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("how", ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"])
@pytest.mark.parametrize("scales", [(2.0, 2.0), (0.5, 1.5), (1.0, 3.0)])
def test_resize_is_that_of_the_runtime(mode: str, how: str, scales: tuple[float, float]) -> None:
    model = parse_model(f"""
    graph @main(%x: f32[1,2,4,6]) {{
      %s: f32[4] = const dense<[1, 1, {scales[0]}, {scales[1]}]>
      %y = Resize(%x, _, %s) {{coordinate_transformation_mode = "{how}", mode = "{mode}"}}
      return %y
    }}""")
    x = np.random.default_rng(0).standard_normal((1, 2, 4, 6)).astype(np.float32)
    (found,) = Evaluation().run(model.graph, {model.graph.inputs[0]: N.constant(x)})
    assert isinstance(found, N.Number)
    (wanted,) = Session(model).run({"x": x})
    assert found.shape == np.shape(wanted)
    assert np.allclose(found.near, np.asarray(wanted), rtol=1e-5, atol=1e-5)


GRID = """model ir=8 opset {{"" = {opset}}}
graph @main(%x: f32[2,3,4,5], %g: f32[2,3,2,2]) {{
  %y = GridSample(%x, %g) {{align_corners = {corners}, mode = "{mode}", padding_mode = "{padding}"}}
  return %y
}}"""


@pytest.mark.parametrize(("opset", "mode"), [(16, "bilinear"), (20, "linear"), (16, "nearest"), (22, "nearest")])
@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("corners", [0, 1])
def test_samples_on_a_grid_are_those_of_the_runtime(opset: int, mode: str, padding: str, corners: int) -> None:
    model = parse_model(GRID.format(opset=opset, mode=mode, padding=padding, corners=corners))
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 3, 4, 5)).astype(np.float32)
    grid = random.uniform(-1.3, 1.3, (2, 3, 2, 2)).astype(np.float32)
    if mode != "nearest":
        grid[0, 0, 0], grid[1, 0, 0] = -1, 1  # the borders themselves, where "nearest" may be either
    given = dict(zip(model.graph.inputs, map(N.constant, (x, grid)), strict=True))
    (found,) = Evaluation().run(model.graph, given)
    assert isinstance(found, N.Number)
    (wanted,) = Session(model).run({"x": x, "g": grid})
    assert found.shape == np.shape(wanted)
    assert np.allclose(found.near, np.asarray(wanted), rtol=1e-4, atol=1e-5)
