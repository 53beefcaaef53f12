"""What the TVM backend computes itself: operators of the zoo and of onnx's own node tests, counted and checked.

    python -P scripts/tvm_coverage.py --markdown docs/results/tvm_coverage.md

Each node test is a model of one operator. It is lowered, decomposed first where that helps, or left to ONNX Runtime;
what is lowered runs, and its outputs are compared with the test's within the rounding that its element type allows.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from planish.backends.tvm.api import relax, tvm
from planish.backends.tvm.backend import TvmBackend
from planish.backends.tvm.kernels.machine import Machine
from planish.backends.tvm.lower.program import Module
from planish.backends.tvm.partition import FLOW
from planish.backends.tvm.ready import left_to_ort, readied
from planish.ir.errors import PlanishError
from planish.ir.graph import Model, Value
from planish.ir.infer import infer_model
from planish.ir.onnx_reader import read_model
from planish.models import zoo
from planish.models.onnx_tests import Case, cases
from planish.passes.core import Context
from planish.passes.manager import Pipeline
from planish.passes.target import get_target

TARGET = replace(get_target("native"), runtime="tvm", contrib=False)
LOWERED, DECOMPOSED, ORT, WRONG = "lowered", "decomposed", "ONNX Runtime", "wrong"
BATCH = 50
"""Tests that are built together."""
ORDER = (LOWERED, DECOMPOSED, ORT, WRONG)


@dataclass
class Outcome:
    """What became of one test."""

    name: str
    op: str
    how: str
    why: str = ""


@dataclass
class Ready:
    """A test that TVM runs."""

    outcome: Outcome
    case: Case
    model: Model
    inputs: list[Any]
    outputs: list[Any]


def node_tests(only: str) -> Iterator[Outcome]:
    """Every node test with arrays as inputs and outputs."""
    ready: list[Ready] = []
    for case in cases({"node"}):
        if "_expanded" in case.name or not case.data or not case.model.graph.node or only not in case.name:
            continue
        inputs, outputs = case.data[0]
        if outputs is None or not all(isinstance(x, np.ndarray) for x in (*inputs, *outputs)):
            continue
        found = judged(case, inputs, outputs)
        if isinstance(found, Outcome):
            yield found
            continue
        ready.append(found)
        if len(ready) == BATCH:
            yield from checked(ready)
            ready = []
    yield from checked(ready)


def judged(case: Case, inputs: list[Any], outputs: list[Any]) -> Outcome | Ready:
    op = case.model.graph.node[0].op_type
    try:
        model = read_model(case.model.SerializeToString())
        with_shapes(model, inputs)
        how = decomposed(model)
        legal = model
        model, pieces = readied(legal, Machine(TARGET))
    except PlanishError as error:
        return Outcome(case.name, op, ORT, error.message)
    refused = [why for piece in pieces for why in piece.reasons.values()]
    if refused:
        return Outcome(case.name, op, ORT, refused[0])
    outcome = Outcome(case.name, op, how)
    if any(piece.backend == FLOW for piece in pieces):  # which a loader runs
        names = [value.name for value in legal.graph.inputs]
        found = TvmBackend().lower(legal, TARGET).run(dict(zip(names, inputs, strict=False)))
        problem = differs(found, outputs, case)
        return replace(outcome, how=WRONG, why=problem) if problem else outcome
    return Ready(outcome, case, model, inputs, outputs)


def checked(tests: list[Ready]) -> Iterator[Outcome]:
    """Their outcomes once they have run: built together, since a build of its own for each takes minutes."""
    try:
        results = run(tests)
    except Exception as error:  # TVM's own: one at a time tells whose it is
        if len(tests) > 1:
            for test in tests:
                yield from checked([test])
            return
        outcome = tests[0].outcome
        yield replace(outcome, how=WRONG, why=f"cannot be built: {str(error).strip().splitlines()[-1][:120]}")
        return
    for test, found in zip(tests, results, strict=True):
        problem = differs(found, test.outputs, test.case)
        yield replace(test.outcome, how=WRONG, why=problem) if problem else test.outcome


def with_shapes(model: Model, inputs: list[Any]) -> None:
    """Operands that are constants in models become so; extents are those of the arrays."""
    from planish.ir.constants import ArrayConstant

    graph = model.graph
    for value, array in zip(list(graph.inputs), inputs, strict=False):
        if value.tensor is not None and fixed_in_models(value, array):
            constant = graph.add_constant(ArrayConstant(array), value.name)
            shapes = any(user.op == "ConstantOfShape" for user in value.users)
            used = [(user, i) for user, i in value.uses if (i > 0 or shapes) and not user.is_return]
            for user, i in used:
                user.set_input(i, constant)
            if not used:
                graph.remove_constant(constant)
    infer_model(model)


WEIGHTS = {"LSTM": 3, "GRU": 3, "RNN": 3, "Resize": 2, "Upsample": 1, "QLinearMatMul": 7, "QLinearConv": 7}
"""Operators with the last of their operands behind the first that are weights, scales and the like."""


def fixed_in_models(value: Value, array: Any) -> bool:
    """Small whole numbers (axes, extents, numbers of elements), weights of cells, scales."""
    small = array.dtype in (np.int64, np.int32) and array.ndim <= 1 and array.size <= 16
    users = [(user.op, i) for user, i in value.uses if not user.is_return]
    weights = bool(users) and all(0 < i <= WEIGHTS.get(op, 0) for op, i in users)
    return small or (weights and array.size > 0)


def decomposed(model: Model) -> str:
    text = TvmBackend().legalize(model, TARGET)
    Pipeline("clean" if text == "none" else text).run(model, Context(target=replace(TARGET, runtime="ort")))
    return LOWERED if text == "none" else DECOMPOSED


def run(tests: list[Ready]) -> list[list[Any]]:
    """In this process, as functions of one module."""
    module = Module(Machine(TARGET))
    programs = [module.lower(test.model.graph, f"test{i}") for i, test in enumerate(tests)]
    machine: Any = relax.VirtualMachine(module.build(), tvm.cpu())
    found: list[list[Any]] = []
    for program, test in zip(programs, tests, strict=True):
        arrays = [*test.inputs[: len(test.model.graph.inputs)], *(module.weights.arrays[i] for i in program.params)]
        result = machine[program.name](*(tvm.runtime.tensor(np.ascontiguousarray(a).reshape(a.shape)) for a in arrays))
        found.append([r.numpy() for r in ([result] if hasattr(result, "numpy") else list(result))])
    return found


def differs(found: list[Any], wanted: list[Any], case: Case) -> str:
    """How, or nothing. Floats: the rounding of some hundred operations, or what the test itself allows."""
    for a, b in zip(found, wanted, strict=True):
        if a.dtype != b.dtype or a.shape != b.shape:
            return f"{a.dtype}{list(a.shape)} for {b.dtype}{list(b.shape)}"
        if a.dtype.kind != "f":
            off = np.flatnonzero(a.reshape(-1) != b.reshape(-1)).size
            # A quotient that lies on a tie may be rounded either way when it is computed in another precision.
            if off and not ("quantize" in case.name and np.abs(a.astype(np.int64) - b.astype(np.int64)).max() <= 1):
                return f"{off} of {a.size} elements differ"
            continue
        finite: Any = b[np.isfinite(b)]
        scale = float(max(finite.max(initial=0), -finite.min(initial=0)))
        kind: Any = ml_dtypes.finfo
        bound = max(64 * float(kind(a.dtype).eps) * scale, case.atol)
        # Some tests were written down with four digits.
        coarse = b.size < 1000 and bool((b.round(4) == b).all())
        rtol = case.rtol if coarse or a.dtype == np.float16 else min(case.rtol, 1e-5)
        if not np.allclose(a, b, rtol=rtol, atol=bound, equal_nan=True):
            apart = np.nanmax(np.abs(a.astype(np.float64) - b.astype(np.float64)))
            return f"largest difference {apart:.2g} of {scale:.2g}, {np.isnan(a).sum()} NaN for {np.isnan(b).sum()}"
    return ""


def zoo_rows() -> list[tuple[str, int, int, int, str]]:
    """Model, nodes, nodes lowered, pieces on ONNX Runtime, and why."""
    rows: list[tuple[str, int, int, int, str]] = []
    for name in zoo.available():
        entry = zoo.get(name)
        model = read_model(entry.path())
        sample = entry.samples(1, 0)[0]
        for value in model.graph.inputs:
            value.type = value.type.with_shape(tuple(sample[value.name].shape))  # type: ignore[union-attr]
        infer_model(model)
        Pipeline("default").run(model, Context(target=replace(TARGET, runtime="ort")))
        decomposed(model)
        refused = left_to_ort(model.graph, Machine(TARGET))
        reasons = "; ".join(sorted({f"{n.op}: {why}" for n, why in refused.items()}))
        rows.append((name, len(list(model.graph)), len(list(model.graph)) - len(refused), len(refused), reasons))
    return rows


def page(outcomes: list[Outcome], models: list[tuple[str, int, int, int, str]]) -> str:
    by_op: dict[str, Counter[str]] = defaultdict(Counter)
    for o in outcomes:
        by_op[o.op][o.how] += 1
    total = Counter(o.how for o in outcomes)
    full = sum(1 for c in by_op.values() if not c[ORT] and not c[WRONG])
    lines = [
        "# What the TVM backend computes itself",
        "",
        "Made by `python -P scripts/tvm_coverage.py --markdown docs/results/tvm_coverage.md`.",
        "",
        "## Models of the zoo, after the default pipeline, with the extents of their first sample",
        "",
        "| model | nodes | lowered | on ONNX Runtime | why |",
        "| --- | ---: | ---: | ---: | --- |",
        *(f"| {n} | {a} | {b} | {c} | {why} |" for n, a, b, c, why in models),
        "",
        "## onnx's node tests",
        "",
        f"{len(outcomes)} tests of {len(by_op)} operators: "
        + ", ".join(f"{total[how]} {how}" for how in ORDER if total[how])
        + f". {full} operators run on TVM in all their tests. Outputs of what is lowered or decomposed were compared "
        "with the tests' own, within 64 eps of the largest element or what the test allows, whole numbers exactly.",
        "",
        "| operator | lowered | decomposed | ONNX Runtime | why |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for op, count in sorted(by_op.items()):
        why = Counter(o.why for o in outcomes if o.op == op and o.how in (ORT, WRONG)).most_common(2)
        said = "; ".join(w for w, _ in why).replace("|", "/")[:160]
        lines.append(f"| {op} | {count[LOWERED] or ''} | {count[DECOMPOSED] or ''} | {count[ORT] or ''} | {said} |")
    return "\n".join([*lines, ""])


def main() -> int:
    parser = argparse.ArgumentParser(description="Coverage of the TVM backend.")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--only", help="part of the names of tests")
    options = parser.parse_args()
    outcomes: list[Outcome] = []
    for outcome in node_tests(options.only or ""):
        outcomes.append(outcome)
        if outcome.how == WRONG:
            sys.stdout.write(f"WRONG {outcome.name}: {outcome.why}\n")
            sys.stdout.flush()
    text = page(outcomes, zoo_rows() if options.only is None else [])
    if options.markdown:
        options.markdown.write_text(text, "utf-8")
    sys.stdout.write(text)
    return 1 if any(o.how == WRONG for o in outcomes) else 0


if __name__ == "__main__":
    raise SystemExit(main())
