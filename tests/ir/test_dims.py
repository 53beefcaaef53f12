"""Symbolic dimensions: what they say is what integers do."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from planish.ir.dims import (
    Dim,
    SymDim,
    add,
    call,
    dim_text,
    evaluate,
    floordiv,
    is_static,
    mul,
    product,
    same_dim,
    same_shape,
    sub,
    substitute,
    symbol,
)
from planish.ir.text import parse_graph
from planish.ir.type_agreement import differs

N, H = symbol("N"), symbol("H")
SYMBOLS = ("N", "H", "odd name", "it's", "min")
VALUES = {"N": 5, "H": 7, "odd name": 2, "it's": 3, "min": 11}

Tree = Any
"""An integer, a symbol's name, or ``(function, left, right)``."""
trees: st.SearchStrategy[Tree] = st.recursive(
    st.integers(-4, 9) | st.sampled_from(SYMBOLS),
    lambda inner: st.tuples(st.sampled_from(("+", "-", "*", "floordiv", "mod", "min", "max")), inner, inner),
    max_leaves=8,
)
OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "min": min,
    "max": max,
}


def as_dim(tree: Tree) -> Dim:
    if isinstance(tree, int):
        return tree
    if isinstance(tree, str):
        return symbol(tree)
    function, left, right = tree
    arithmetic = {"+": add, "-": sub, "*": mul}.get(function)
    a, b = as_dim(left), as_dim(right)
    return arithmetic(a, b) if arithmetic is not None else call(function, a, b)


def as_integer(tree: Tree, values: dict[str, int]) -> int:
    if isinstance(tree, int):
        return tree
    if isinstance(tree, str):
        return values[tree]
    function, left, right = tree
    return OPERATIONS[function](as_integer(left, values), as_integer(right, values))


@given(trees, st.dictionaries(st.sampled_from(SYMBOLS), st.integers(1, 50)))
def test_arithmetic_agrees_with_integers(tree: Tree, some: dict[str, int]) -> None:
    values = VALUES | some
    try:
        expected = as_integer(tree, values)
    except ZeroDivisionError:
        assume(False)
        return
    found = as_dim(tree)
    assume(found is not None)  # a division by an expression that is 0 for all symbols
    assert evaluate(found, values) == expected


@given(trees, trees)
def test_equal_dims_are_equal_for_all_values_and_different_ones_for_some(left: Tree, right: Tree) -> None:
    a, b = as_dim(left), as_dim(right)
    assume(a is not None and b is not None)
    for scale in (1, 2, 3):
        values = {k: v * scale for k, v in VALUES.items()}
        x, y = evaluate(a, values), evaluate(b, values)
        if same_dim(a, b) and None not in (x, y):
            assert x == y
        if differs(a, b) and None not in (x, y):
            assert x != y


@given(trees)
def test_text_reads_back(tree: Tree) -> None:
    d = as_dim(tree)
    assume(isinstance(d, SymDim))
    graph = parse_graph(f"graph @m(%x: f32[{dim_text(d)}]) {{ return }}")
    assert graph.inputs[0].shape == (d,)


@given(trees, trees)
def test_substitution_agrees_with_evaluation(tree: Tree, inner: Tree) -> None:
    d, e = as_dim(tree), as_dim(inner)
    assume(d is not None and e is not None)
    try:
        inside = evaluate(e, VALUES)
        expected = evaluate(d, VALUES | {"N": inside}) if inside is not None else None
    except ZeroDivisionError:
        assume(False)
        return
    assume(expected is not None)
    found = evaluate(substitute(d, {"N": e}), VALUES)
    assert found in (expected, None)


@pytest.mark.parametrize(
    ("dim", "text"),
    [
        (N + 1, "N+1"),
        (1 + N, "N+1"),
        (N - N, "0"),
        (1 - N, "-N+1"),
        (2 * N * H + 3, "2*H*N+3"),
        (N * H - H * N, "0"),
        ((N + 1) * (N - 1), "N*N-1"),
        (N // 2, "floordiv(N, 2)"),
        (N * 4 // 2, "2*N"),
        (floordiv(N * H, H), "N"),
        (floordiv(N * 2 + H, 2), "floordiv(H+2*N, 2)"),
        (floordiv(7, 2), "3"),
        (floordiv(N, 1), "N"),
        (floordiv(N, 0), "?"),
        (call("mod", N * 4, 2), "0"),
        (call("mod", 7, 4), "3"),
        (call("mod", N, N), "0"),
        (call("min", 2, 3), "2"),
        (call("max", N, N), "N"),
        (call("max", N, None), "?"),
        (symbol("min"), "'min'"),
        (symbol("größe"), "'größe'"),
        (symbol("it's \\ odd"), "'it\\'s \\\\ odd'"),
        (None, "?"),
    ],
)
def test_normal_forms(dim: Dim, text: str) -> None:
    assert dim_text(dim) == text


def test_unknown_dims() -> None:
    assert add(None, 1) is None
    assert sub(N, None) is None
    assert mul(None, 0) == 0
    assert mul(N, None) is None
    assert product([2, None, 0]) == 0
    assert product([2, None]) is None
    assert product([2, N, 3]) == 6 * N
    assert product([]) == 1
    assert not same_dim(None, None)
    assert not same_shape((None,), (None,))
    assert same_shape((N, 2), (symbol("N"), 2))
    assert not same_shape((2,), None)
    assert not same_shape((2,), (2, 2))


def test_numbers_beyond_int64_are_no_extents() -> None:
    assert mul(N, 1 << 40) == N * (1 << 40)
    assert mul(mul(N, 1 << 40), 1 << 40) is None
    assert floordiv(N, 1 << 64) is None
    assert call("max", N, 1 << 64) is None
    assert add(N, 1 << 64) is None


def test_questions() -> None:
    assert is_static((1, 2))
    assert not is_static((N,))
    assert not is_static((None,))
    assert not is_static(None)
    assert (N * 2 + call("mod", H, 3)).symbols() == {"N", "H"}  # type: ignore[operator, union-attr]
    assert N.name == "N"
    assert (N * 2).name is None  # type: ignore[union-attr]
    assert evaluate(N * H, {"N": 3}) is None
    assert evaluate(call("mod", N, H), {"N": 3}) is None
    assert substitute(N * 2 + 1, {"N": H}) == H * 2 + 1
    assert substitute(N * 2, {"N": None}) is None
    assert substitute(3, {"N": H}) == 3
    assert {N: 1}[symbol("N")] == 1
