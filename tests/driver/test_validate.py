"""Planted differences are found, rounding is not mistaken for one, and what noise decides is said to be unstable."""

from __future__ import annotations

import numpy as np
import pytest

from planish.driver.checks.compare import check_output, surroundings
from planish.driver.checks.noise import noisy_model
from planish.driver.checks.reference import Reference
from planish.driver.checks.validate import interface_problems, validate
from planish.ir.builder import Builder
from planish.ir.constants import ArrayConstant
from planish.ir.dtypes import DType
from planish.ir.graph import Model
from planish.ir.onnx_writer import model_to_bytes
from planish.ir.verify import verify
from planish.passes.manager import Pipeline

from .networks import array, classifier, detector, embedder, images, unstable

SAMPLES = {"x": images()}


def test_a_model_equals_itself_to_the_bit() -> None:
    found = validate(classifier(), classifier(), SAMPLES)
    assert found.equivalent
    assert found.method == "numeric"
    assert found.samples == 3
    assert [c.status for c in found.outputs] == ["bit-equal"]


@pytest.mark.parametrize(
    "planted",
    [{"negate": True}, {"scale": 1.001}, {"scale": 1.0001}, {"transpose": True}, {"nan": True}],
    ids=["sign", "1e-3", "1e-4", "transposed", "nan"],
)
def test_a_planted_difference_is_found(planted: dict[str, float]) -> None:
    found = validate(classifier(), classifier(**planted), SAMPLES)  # type: ignore[arg-type]
    assert found.equivalent is False
    assert "output y" in found.problems[0]
    assert found.outputs[0].worst["index"]


def test_the_report_names_the_worst_element() -> None:
    found = validate(classifier(), classifier(scale=1.01), SAMPLES)
    worst = found.outputs[0].worst
    assert worst["sample"] in range(3)
    assert abs(worst["expected"] - worst["found"]) > worst["bound"] > 0
    assert f"element {worst['index']}" in found.problems[0]


def test_folding_weights_stays_within_the_bound_and_is_not_bit_equal() -> None:
    folded = classifier()
    assert Pipeline("remove-identity,fold-batchnorm").run(folded).changes
    found = validate(classifier(), folded, SAMPLES)
    assert found.equivalent, found.problems
    assert found.outputs[0].status == "within-bound"
    assert found.outputs[0].used < 0.5


def test_a_score_is_held_to_the_scale_of_scores_not_of_boxes() -> None:
    found = validate(detector(), detector(score_factor=1.001))
    assert found.equivalent is False
    assert found.outputs[0].error < 2e-3  # tiny beside boxes of 640
    assert found.outputs[0].worst["index"][1] >= 4
    assert validate(detector(), detector()).equivalent


def test_surroundings_follow_channels() -> None:
    boxes_and_scores = np.concatenate([np.full((1, 2, 32), 600.0), np.full((1, 2, 32), 0.5)], axis=1)
    assert surroundings(boxes_and_scores)[0, :, 0].tolist() == [600, 600, 0.5, 0.5]
    assert surroundings(np.array([3.0, 0.1])).tolist() == [3, 3]  # too few elements to tell


def test_integers_must_be_equal() -> None:
    model, other = embedder(), embedder()
    table = next(v for v in other.graph.constants if v.name == "table")
    assert table.data is not None
    table.data = ArrayConstant(np.roll(table.data.numpy(), 1, axis=1))
    found = validate(model, other)
    assert {c.output: c.status for c in found.outputs}["best"] == "different"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_must_be_in_the_same_places(value: float) -> None:
    a = np.ones((4, 4), np.float32)
    b = a.copy()
    b[1, 2] = value
    assert check_output("y", a, a).status == "bit-equal"
    assert check_output("y", b, b).status == "bit-equal"
    found = check_output("y", a, b)
    assert (found.status, found.worst["index"]) == ("different", [1, 2])


@pytest.mark.parametrize(
    ("a", "b", "word"),
    [
        (np.zeros(3, np.float32), np.zeros(4, np.float32), "shape"),
        (np.zeros(3, np.float32), np.zeros(3, np.float64), "element type"),
        (np.array(["a", "b"], object), np.array(["a", "c"], object), "must be equal"),
        (np.array([True]), np.array([False]), "must be equal"),
        (None, np.zeros(1), "absent"),
    ],
)
def test_what_else_can_differ(a: np.ndarray | None, b: np.ndarray, word: str) -> None:
    found = check_output("y", a, b)
    assert found.status == "different"
    assert word in found.reason


def test_zeros_may_change_sign() -> None:
    assert check_output("y", np.array([0.0]), np.array([-0.0])).status == "bit-equal"


def test_empty_outputs_are_equal() -> None:
    assert check_output("y", np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32)).status == "bit-equal"


def test_an_unstable_model_is_said_to_be_one() -> None:
    other = unstable()
    sample = [{"x": array(4, 64, seed=3)}]
    node = next(n for n in other.graph if n.op == "MatMul")
    # The same in real arithmetic: (x + 1e6) * 3 / 3.
    b = Builder(other.graph)
    tripled = b.Mul(node.inputs[0], 3.0)
    third = b.Div(tripled, 3.0)
    for added in (tripled.producer, third.producer):
        added.move_before(node)
    node.set_input(0, third)
    found = validate(unstable(), other, sample)
    assert found.equivalent, found.problems
    assert [c.status for c in found.outputs] == ["unstable"]
    assert any("unstable" in w for w in found.warnings)


def test_noise_leaves_shapes_and_interface_alone() -> None:
    for model in (classifier(), embedder(), detector()):
        noisy = noisy_model(model, 1)
        verify(noisy)
        assert interface_problems(model, noisy) == []
        assert model_to_bytes(noisy_model(model, 1)) == model_to_bytes(noisy)


def test_noise_is_a_few_roundings() -> None:
    model = classifier()
    reference = Reference(model)
    reference.samples = [{"x": images()[0]}]
    noise = reference.noise(0)["y"]
    assert 1e-8 < noise.amount.max() < 1e-5


def interface(names: tuple[str, ...], shape: tuple[int | str, ...], dtype: DType = DType.F32) -> Model:
    b = Builder()
    for name in names:
        b.input(name, dtype, shape)
    for i, value in enumerate(list(b.graph.inputs)):
        b.output(b.Abs(value), f"y{i}")
    return b.model()


@pytest.mark.parametrize(
    ("other", "word"),
    [
        (interface(("b", "a"), (2, "N")), "inputs were a, b"),
        (interface(("a",), (2, "N")), "inputs were"),
        (interface(("a", "b"), (3, "N")), "input 'a' was f32[2,N]"),
        (interface(("a", "b"), (2, "N"), DType.F64), "f64[2,N]"),
        (interface(("a", "b"), (2, "N", 1)), "f32[2,N,1]"),
    ],
)
def test_the_interface_is_compared_first(other: Model, word: str) -> None:
    problems = interface_problems(interface(("a", "b"), (2, "N")), other)
    assert any(word in p for p in problems), problems


def test_a_random_model_is_compared_by_structure_only() -> None:
    b = Builder()
    x = b.input("x", DType.F32, (8,))
    b.output(b.Add(x, b.RandomNormalLike(x)), "y")
    found = validate(b.model(), b.model())
    assert found.method == "structure"
    assert found.short
    assert "random" in found.because


def test_a_model_that_is_random_for_some_samples_only_is_a_random_model() -> None:
    b = Builder()
    x, training = b.input("x", DType.F32, (64,)), b.input("training", DType.BOOL, ())
    b.output(b.Dropout(x, np.float32(0.5), training), "y")
    given = [{"x": np.ones(64, np.float32), "training": np.array(flag)} for flag in (False, True)]
    reference = Reference(b.model())
    reference.samples += given[:1]
    assert reference.is_random() is None
    reference.samples += given[1:]
    assert "Dropout" in (reference.is_random() or "")


def test_a_model_that_the_runtime_cannot_load_is_compared_by_structure_only() -> None:
    b = Builder(opsets={"": 21, "my.ops": 1})
    b.output(b.op("Mystery", b.input("x", DType.F32, (2,)), _domain="my.ops"), "y")
    found = validate(b.model(), b.model())
    assert found.method == "structure"
    assert found.equivalent
    assert "Mystery" in found.because


@pytest.mark.parametrize("size", [400, 256])
def test_noise_of_transforms_is_what_they_are_off_by(size: int) -> None:
    """As much as the runtime's own transforms differ from exact ones, but no tenfold."""
    b = Builder()
    window = np.hanning(size + 1)[:-1].astype(np.float32)
    x = b.input("x", DType.F32, (1, 1200, 1))
    b.output(b.STFT(x, b.const(np.int64(160)), b.const(window)), "y")
    reference = Reference(b.model())
    sound = np.random.default_rng(0).standard_normal(1200).astype(np.float32)
    reference.samples = [{"x": sound.reshape(1, 1200, 1)}]
    frames = np.stack([sound[i : i + size] for i in range(0, 1201 - size, 160)]).astype(np.float64)
    exact = np.fft.rfft(frames * window).view(np.float64).reshape(1, len(frames), -1, 2)
    off = np.sqrt(np.mean((reference.outputs(0)[0] - exact) ** 2))
    noise = np.sqrt(np.mean(reference.noise(0)["y"].amount ** 2))
    assert 0.5 * off < noise < 10 * off
