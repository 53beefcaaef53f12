"""The exact check on pairs of programs: identities, near misses, and what it must leave open."""

from __future__ import annotations

import pytest

from planish.driver.prove.cut import Cut
from planish.driver.prove.exact import check
from planish.ir.text import parse_model

HEAD = "graph @main("
CONSTANTS = """
  %half: f32[] = const dense<0.5>
  %two: f32[] = const dense<2>
  %zero: f32[] = const dense<0>
  %six: f32[] = const dense<6>
  %w: f32[4,4] = const rand<1>
  %v: f32[4,4] = const rand<2>
  %k: f32[3,2,3,3] = const rand<3>
  %ax: i64[1] = const dense<[1]>
"""


def pair(signature: str, before: str, after: str) -> Cut:
    """The two programs, which take the same operands; the last value is the result."""
    models = []
    for body in (before, after):
        lines = [line.strip() for line in body.strip().splitlines()]
        result = lines[-1].split("=")[0].split(":")[0].strip()
        used = [line for line in CONSTANTS.strip().splitlines() if f"{line.split(':')[0].strip()}" in _words(body)]
        models.append(parse_model("\n".join([f"{HEAD}{signature}) {{", *used, *lines, f"return {result}", "}"])))
    first, second = models
    return Cut(first, second, [], {*first.graph, *second.graph}, True)


def _words(body: str) -> set[str]:
    return {word.strip(",()") for word in body.replace("(", " ( ").split()}


STABLE = "%m = ReduceMax(%x, %ax)\n%d = Sub(%x, %m)\n%e = Exp(%d)\n%s = ReduceSum(%e, %ax)\n%l = Log(%s)\n"
EQUAL = {
    "sums in another order": ("%x: f32[N,4], %y: f32[N,4]", "%a = Sub(%x, %y)\n%b = Add(%a, %y)", "%b = Identity(%x)"),
    "products of three": (
        "%x: f32[N,4]",
        "%a = MatMul(%x, %w)\n%b = Mul(%a, %half)",
        "%s = Mul(%x, %half)\n%b = MatMul(%s, %w)",
    ),
    "a sigmoid spelled out": (
        "%x: f32[N,3]",
        "%n = Neg(%x)\n%e = Exp(%n)\n%s = Add(%e, %two)\n%t = Sub(%s, %half)\n%u = Sub(%t, %half)\n%r = Reciprocal(%u)",
        "%r = Sigmoid(%x)",
    ),
    "tanh by sigmoid": (
        "%x: f32[N,3]",
        "%a = Mul(%x, %two)\n%b = Sigmoid(%a)\n%c = Mul(%b, %two)\n%d = Sub(%c, %half)\n%e = Sub(%d, %half)",
        "%e = Tanh(%x)",
    ),
    "erf is odd": ("%x: f32[N,3]", "%n = Neg(%x)\n%e = Erf(%n)", "%m = Erf(%x)\n%e = Neg(%m)"),
    "Relu twice": ("%x: f32[N,3]", "%a = Relu(%x)\n%b = Relu(%a)", "%b = Relu(%x)"),
    "Clip by Max and Min": ("%x: f32[N,3]", "%a = Max(%x, %zero)\n%b = Min(%a, %six)", "%b = Clip(%x, %zero, %six)"),
    "a convolution of a sum": (
        "%x: f32[N,2,6,5], %y: f32[N,2,6,5]",
        "%s = Add(%x, %y)\n%c = Conv(%s, %k) {pads = [1, 0, 1, 2], strides = [2, 1]}",
        "%a = Conv(%x, %k) {pads = [1, 0, 1, 2], strides = [2, 1]}\n"
        "%b = Conv(%y, %k) {pads = [1, 0, 1, 2], strides = [2, 1]}\n%c = Add(%a, %b)",
    ),
    "softmax with something taken off": (
        "%x: f32[N,3], %y: f32[N,1]",
        "%d = Sub(%x, %y)\n%e = Exp(%d)\n%s = ReduceSum(%e, %ax)\n%p = Div(%e, %s)",
        "%p = Softmax(%x)",
    ),
    "exp of a difference": (
        "%x: f32[N,3], %y: f32[N,3]",
        "%d = Sub(%x, %y)\n%e = Exp(%d)",
        "%a = Exp(%x)\n%b = Exp(%y)\n%e = Div(%a, %b)",
    ),
    "the other half of a sigmoid": (
        "%x: f32[N,3]",
        "%n = Neg(%x)\n%s = Sigmoid(%n)",
        "%a = Sigmoid(%x)\n%b = Sub(%a, %two)\n%c = Add(%b, %half)\n%d = Add(%c, %half)\n%s = Neg(%d)",
    ),
    "a stable logarithm of softmax": ("%x: f32[N,4]", f"{STABLE}%y = Sub(%d, %l)", "%y = LogSoftmax(%x) {axis = 1}"),
    "a stable logarithm of a sum": ("%x: f32[N,4]", f"{STABLE}%y = Add(%m, %l)", "%y = ReduceLogSumExp(%x, %ax)"),
    "the other half of a softplus": (
        "%x: f32[N,3]",
        "%n = Neg(%x)\n%s = Softplus(%n)\n%y = Add(%s, %x)",
        "%y = Softplus(%x)",
    ),
    "a logarithm of a product": (
        "%x: f32[N,3], %y: f32[N,3]",
        "%a = Softplus(%x)\n%b = Exp(%y)\n%c = Mul(%a, %b)\n%z = Log(%c)",
        "%a = Softplus(%x)\n%b = Log(%a)\n%z = Add(%b, %y)",
    ),
    "a sum of unknown rank": ("%x: f32[*]", "%a = Add(%x, %x)", "%a = Mul(%x, %two)"),
    "an interpolation of a sum": (
        "%x: f32[1,1,3,2], %y: f32[1,1,3,2]",
        '%f: f32[4] = const dense<[1, 1, 2, 1.5]>\n%s = Add(%x, %y)\n%c = Resize(%s, _, %f) {mode = "linear"}',
        "%f: f32[4] = const dense<[1, 1, 2, 1.5]>\n"
        '%a = Resize(%x, _, %f) {mode = "linear"}\n'
        '%b = Resize(%y, _, %f) {mode = "linear"}\n%c = Add(%a, %b)',
    ),
    "the largest of all, twice over": (
        "%x: f32[N,3]",
        "%f: i64[1] = const dense<[2]>\n%t, %i = TopK(%x, %f)\n%b = Mul(%t, %two)",
        "%f: i64[1] = const dense<[2]>\n%d = Add(%x, %x)\n%t, %i = TopK(%d, %f)\n%b = Identity(%t)",
    ),
    "mean of means": (
        "%x: f32[N,3,4]",
        "%a = ReduceMean(%x, %ax) {keepdims = 1}\n%b = Mul(%a, %two)",
        "%d = Add(%x, %x)\n%b = ReduceMean(%d, %ax) {keepdims = 1}",
    ),
}
DIFFERENT = {
    "a sign": ("%x: f32[N,4], %y: f32[N,4]", "%a = Sub(%x, %y)", "%a = Sub(%y, %x)"),
    "products of matrices do not commute": (
        "%x: f32[N,4]",
        "%a = MatMul(%x, %w)\n%b = MatMul(%a, %v)",
        "%a = MatMul(%x, %v)\n%b = MatMul(%a, %w)",
    ),
    "tanh for erf": ("%x: f32[N,3]", "%a = Erf(%x)", "%a = Tanh(%x)"),
    "equality counts": ("%x: f32[N,3]", "%a = Greater(%x, %zero)", "%a = GreaterOrEqual(%x, %zero)"),
    "a bound of a scalar": ("%x: f32[]", "%a = Clip(%x, %zero, %six)", "%a = Clip(%x, %zero)"),
    "pads at the other side": (
        "%x: f32[N,2,6,5]",
        "%c = Conv(%x, %k) {pads = [1, 0, 0, 0]}",
        "%c = Conv(%x, %k) {pads = [0, 0, 1, 0]}",
    ),
    "exp of a sum is no sum": ("%x: f32[N,3]", "%d = Add(%x, %x)\n%a = Exp(%d)", "%e = Exp(%x)\n%a = Add(%e, %e)"),
    "softmax with something of each element taken off": (
        "%x: f32[N,3], %y: f32[N,3]",
        "%d = Sub(%x, %y)\n%e = Exp(%d)\n%s = ReduceSum(%e, %ax)\n%p = Div(%e, %s)",
        "%p = Softmax(%x)",
    ),
    "a product is no sum of exponents": (
        "%x: f32[N,3], %y: f32[N,3]",
        "%d = Mul(%x, %y)\n%e = Exp(%d)",
        "%a = Exp(%x)\n%b = Exp(%y)\n%e = Mul(%a, %b)",
    ),
    "a maximum that is not put back": ("%x: f32[N,4]", f"{STABLE}%y = Sub(%x, %l)", "%y = LogSoftmax(%x) {axis = 1}"),
    "a logarithm of a sum is no sum": (
        "%x: f32[N,3], %y: f32[N,3]",
        "%a = Exp(%x)\n%b = Exp(%y)\n%c = Add(%a, %b)\n%z = Log(%c)",
        "%z = Add(%x, %y)",
    ),
    "a transposition, for one rank only": ("%x: f32[*]", "%a = Transpose(%x)", "%a = Identity(%x)"),
    "a coordinate": (
        "%x: f32[1,1,3,2]",
        '%f: f32[4] = const dense<[1, 1, 2, 2]>\n%c = Resize(%x, _, %f) {mode = "linear"}',
        "%f: f32[4] = const dense<[1, 1, 2, 2]>\n"
        '%c = Resize(%x, _, %f) {coordinate_transformation_mode = "asymmetric", mode = "linear"}',
    ),
    "a combination of two conditions": (
        "%x: f32[N,3], %p: bool[], %q: bool[]",
        "%c = And(%p, %q)\n%n = Neg(%x)\n%y = Where(%c, %n, %x)",
        "%n = Neg(%x)\n%y = Where(%p, %n, %x)",
    ),
    "an axis": ("%x: f32[N,3,3]", "%a = Softmax(%x) {axis = 1}", "%a = Softmax(%x) {axis = 2}"),
    "float32 has no exact third": (
        "%x: f32[N,3]",
        "%t: f32[] = const dense<3>\n%a = Div(%x, %t)",
        "%t: f32[] = const dense<0.33333>\n%a = Mul(%x, %t)",
    ),
}


@pytest.mark.parametrize("name", EQUAL)
def test_identities(name: str) -> None:
    found = check(pair(*EQUAL[name]))
    assert found.equal is True, found
    assert not found.proved


@pytest.mark.parametrize("name", DIFFERENT)
def test_near_misses(name: str) -> None:
    assert check(pair(*DIFFERENT[name])).equal is False


def test_movement_of_known_shapes_is_a_proof() -> None:
    before = "%a = Transpose(%x) {perm = [1, 0, 2]}\n%b = Transpose(%a) {perm = [2, 0, 1]}"
    found = check(pair("%x: f32[2,3,4]", before, "%b = Transpose(%x) {perm = [2, 1, 0]}"))
    assert (found.equal, found.proved) == (True, True)
    wrong = check(pair("%x: f32[2,2,2]", before, "%b = Transpose(%x) {perm = [0, 2, 1]}"))
    assert wrong.equal is False
    open_extent = check(pair("%x: f32[N,3,4]", before, "%b = Transpose(%x) {perm = [2, 1, 0]}"))
    assert (open_extent.equal, open_extent.proved) == (True, False)


def test_one_expression_is_a_proof_whatever_the_shapes() -> None:
    found = check(pair("%x: f32[*], %y: f32[*]", "%a = Add(%x, %y)\n%b = Sin(%a)", "%a = Add(%y, %x)\n%b = Sin(%a)"))
    assert (found.equal, found.proved) == (True, True)


def test_rounding_of_constants_is_bounded() -> None:
    """A third rounded to float32 differs from a third by less than the bound, five more bits do not."""
    third = "%t: f32[] = const dense<0.33333334>\n%a = Mul(%x, %t)"
    found = check(pair("%x: f32[N,3]", "%t: f32[] = const dense<3>\n%a = Div(%x, %t)", third))
    assert found.equal is True
    assert "rounding" in found.how
    coarse = "%t: f32[] = const dense<0.3333338>\n%a = Mul(%x, %t)"
    assert check(pair("%x: f32[N,3]", "%t: f32[] = const dense<3>\n%a = Div(%x, %t)", coarse)).equal is False
    same = check(pair("%x: f32[N,3]", "%a = Mul(%x, %half)\n%b = Mul(%a, %two)", "%b = Identity(%x)"))
    assert same.how == "equal as functions of real numbers"


@pytest.mark.parametrize(
    ("signature", "body"),
    [
        ("%x: f32[N,3]", "%s = Log(%x)"),  # of negative numbers
        ("%x: f32[N,3]", "%z = Sub(%x, %x)\n%s = Div(%x, %z)"),
        ("%x: f32[N,3]", "%s = RandomNormalLike(%x)"),
    ],
)
def test_what_cannot_be_evaluated_is_left_open(signature: str, body: str) -> None:
    assert check(pair(signature, body, "%s = Neg(%x)")).equal is not True


def test_a_logarithm_of_what_may_be_negative_is_left_open() -> None:
    """Its image knows no signs: ``log(x x) = 2 log(x)`` holds there, and not for negative numbers."""
    both = pair("%x: f32[N,3]", "%a = Mul(%x, %x)\n%b = Log(%a)", "%a = Log(%x)\n%b = Mul(%a, %two)")
    assert check(both).equal is None
