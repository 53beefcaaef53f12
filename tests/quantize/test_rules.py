"""The rules of runtimes: complete for every target, and one with what the linter of ONNX Runtime knows."""

from __future__ import annotations

import pytest

from planish.backends.ort.lint.units import CHECKS
from planish.ir.dtypes import DType
from planish.passes.shared.quant.rules import RULES, QuantRules, Role, role_of, rules_for, weight_channel_axis
from planish.passes.target import EXPORT_TARGETS, TARGETS

EVERY = [*TARGETS.values(), *EXPORT_TARGETS.values()]


def test_every_target_has_rules() -> None:
    assert {rules_for(t).name for t in EVERY} == set(RULES)


def test_processors_without_vnni_keep_to_seven_bits() -> None:
    assert rules_for(TARGETS["x86-64-v3"]).reduced_weights
    assert rules_for(TARGETS["generic"]).reduced_weights
    assert not rules_for(TARGETS["x86-64-v4-vnni"]).reduced_weights
    assert not rules_for(TARGETS["aarch64"]).reduced_weights


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_first_choices_have_a_kernel(rules: QuantRules) -> None:
    if rules.activations:
        assert rules.takes(rules.activations[0], rules.weights[0])
    assert {a for a, _ in rules.pairs} == set(rules.activations)
    assert all(rule.roles for rule in rules.units.values())
    assert not any(rule.equal and len(rule.roles) > 1 for rule in rules.units.values())


def test_units_of_the_processor_are_those_that_the_linter_knows() -> None:
    assert set(RULES["ort-x86"].units) == set(CHECKS)


def test_roles() -> None:
    rules = RULES["ort-x86"]
    conv, concat = rules.unit("Conv"), rules.unit("Concat")
    assert conv is not None
    assert concat is not None
    assert [role_of(conv, i) for i in range(4)] == [Role.DATA, Role.WEIGHT, Role.BIAS, Role.PLAIN]
    assert role_of(concat, 7) is Role.DATA
    assert rules.unit("MaxPool", 11) is None
    assert rules.unit("MaxPool", 12) is not None
    assert rules.unit("Tanh") is None


def test_axis_of_channels() -> None:
    units = RULES["ort-x86"].units
    assert weight_channel_axis("Conv", units["Conv"], 4) == 0
    assert weight_channel_axis("MatMul", units["MatMul"], 2) == 1
    assert weight_channel_axis("Gemm", units["Gemm"], 2) == 1
    assert weight_channel_axis("Gemm", units["Gemm"], 2, transposed=True) == 0
    assert weight_channel_axis("MatMul", RULES["qnn"].units["MatMul"], 2) is None


def test_tensorrt_is_symmetric_and_coreml_has_no_pairs() -> None:
    assert RULES["tensorrt"].symmetric_activations
    assert RULES["tensorrt"].activations == (DType.I8, DType.F8E4M3FN)
    assert not RULES["coreml"].takes_pairs
