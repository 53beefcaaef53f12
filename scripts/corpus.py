"""Every model of onnx's backend tests: read, run a pipeline, write, and compare with the original.

For each model that ONNX Runtime can run: what planish writes passes onnx's checker where the original does,
has the same interface, and gives the original's outputs, run without the runtime's own optimizations. With
pipeline ``none`` outputs must be equal to the bit; otherwise within the test's tolerance, and within it of the
expected outputs where the original is. Models that ONNX Runtime cannot run go through everything but running.
With ``--each-pass`` every lossless pass alone and every pipeline, at the fuzzer's level of checking; this takes long,
so ``--log FILE`` keeps what each model gave, and a run that was cut short goes on behind it.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import time
import traceback
import warnings
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

from planish.driver.checks.validate import interface_problems
from planish.driver.fuzz.campaign import Plan, checked, default_pipelines
from planish.driver.fuzz.check import Failure as Problem
from planish.driver.fuzz.check import Subject
from planish.ir.clone import clone_model
from planish.ir.dtypes import BY_CODE, from_numpy
from planish.ir.errors import PlanishError
from planish.ir.graph import Model
from planish.ir.onnx_proto import tensor_from_proto
from planish.ir.onnx_reader import read_model
from planish.ir.onnx_writer import model_to_bytes
from planish.ir.verify import verify
from planish.models.onnx_tests import SUITES, Case, cases, frozen, passes_checker
from planish.passes.core import Context
from planish.passes.manager import Pipeline


@dataclass
class Tally:
    """What became of the models of one suite."""

    models: int = 0
    runnable: int = 0
    ok: int = 0
    random: int = 0
    changed: int = 0
    """Models in which something was rewritten."""
    rewrites: int = 0
    partial: int = 0
    """Runs that stopped on their way, each compared with the original."""
    failed: Counter[str] = field(default_factory=Counter)

    def add(self, other: dict[str, Any]) -> None:
        """Takes in another one, in plain form."""
        for key, n in other.items():
            if key == "failed":
                self.failed.update(n)
            else:
                setattr(self, key, getattr(self, key) + n)


TARGETS = ("x86-64-v4-vnni", "aarch64")
PARTIAL_RUNS = 8
"""Into so many parts the rewrites of a model are divided; the model must be right after each."""


class Failure(Exception):
    """A model failed at one stage, the first argument."""


# -- running


class Runner:
    """A session with one thread and no optimizations, over tensors of any element type."""

    def __init__(self, model: bytes, folder: Path | None) -> None:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        if folder is not None:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
        self.session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def interface(self) -> list[tuple[str, str, str, str]]:
        """Kind, name, type and shape of inputs, overridable inputs, and outputs."""
        s = self.session
        parts = (
            ("input", s.get_inputs()),
            ("default", s.get_overridable_initializers()),
            ("output", s.get_outputs()),
        )
        return [(kind, a.name, a.type, str(a.shape)) for kind, args in parts for a in args]

    def run(self, inputs: list[Any]) -> list[Any]:
        """Outputs as arrays, lists, ``None``, or for types numpy lacks ``(element type, shape, bytes)``."""
        names = [a.name for a in self.session.get_inputs()]
        feeds = {n: v for n, v in zip(names, inputs, strict=False) if v is not None}
        if all(_is_tensor(v) for v in feeds.values()) and not any(
            "seq(" in a.type or "optional(" in a.type or "map(" in a.type for a in self.session.get_outputs()
        ):
            values = {n: _ort_value(v) for n, v in feeds.items()}
            return [_from_ort(v) for v in self.session.run_with_ort_values(None, values)]
        return list(self.session.run(None, {n: _plain(v) for n, v in feeds.items()}))


def _is_tensor(v: Any) -> bool:
    if isinstance(v, onnx.TensorProto):
        return v.data_type != onnx.TensorProto.STRING
    return isinstance(v, (np.ndarray, np.generic)) and v.dtype.kind not in "OUS"


def _plain(v: Any) -> Any:
    if isinstance(v, onnx.TensorProto):
        return numpy_helper.to_array(v)
    return np.asarray(v) if isinstance(v, np.generic) else v


def _ort_value(v: Any) -> ort.OrtValue:
    if isinstance(v, onnx.TensorProto):
        constant = tensor_from_proto(v)
        dtype, shape, raw = constant.dtype, constant.shape, constant.tobytes()
    else:
        array = np.asarray(v)
        dtype = from_numpy(array.dtype)
        shape, raw = array.shape, np.ascontiguousarray(array).tobytes()
    made = ort.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype.code)
    if raw:
        ctypes.memmove(made.data_ptr(), raw, len(raw))
    return made


def _from_ort(v: ort.OrtValue) -> Any:
    if not v.has_value():
        return None
    code = v.element_type()
    dtype = BY_CODE[code]
    if dtype.kind == "string":
        return v.numpy()
    size = dtype.nbytes(int(np.prod(v.shape())))
    raw = ctypes.string_at(v.data_ptr(), size) if size else b""
    if dtype.numpy.isbuiltin == 1:
        return np.frombuffer(raw, dtype.numpy).reshape(v.shape())
    return (code, tuple(v.shape()), raw)


def identical(a: Any, b: Any) -> bool:
    """Whether two outputs have the same types, shapes and bits."""
    if isinstance(a, (list, dict)):
        if type(a) is not type(b) or len(a) != len(b):
            return False
        pairs = zip(a, b, strict=True) if isinstance(a, list) else ((a[k], b.get(k)) for k in a)
        return all(identical(x, y) for x, y in pairs)
    if isinstance(a, np.ndarray):
        if not isinstance(b, np.ndarray) or a.dtype != b.dtype or a.shape != b.shape:
            return False
        return a.tolist() == b.tolist() if a.dtype == object else a.tobytes() == b.tobytes()
    return type(a) is type(b) and bool(a == b)


def close(a: Any, b: Any, rtol: float, atol: float) -> bool:
    """Whether two outputs agree by the rule of onnx's own backend tests."""
    if isinstance(a, list) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(close(x, y, rtol, atol) for x, y in zip(a, b, strict=True))
    if isinstance(b, onnx.TensorProto):
        b = numpy_helper.to_array(b)
    if not isinstance(a, np.ndarray):
        return identical(a, b) if type(a) is type(b) else True  # types that numpy lacks: compared bit by bit only
    b = np.asarray(b)
    if a.shape != b.shape:
        return False
    if a.dtype == object or b.dtype == object:
        return a.astype(str).tolist() == b.astype(str).tolist()
    return np.allclose(a, b.astype(a.dtype), rtol=rtol, atol=atol, equal_nan=True)


# -- one model


def through(case: Case, pipeline: str, text: bool) -> bytes:
    """What planish makes of a model. Raises ``Failure`` with the stage."""
    model = _stage("read", lambda: read_model(case.model, folder=case.folder))
    if passes_checker(case.model):
        _stage("verify", lambda: verify(model, types=True))
    if text:
        model = _stage("text", lambda: _through_text(model))
    if pipeline != "none":
        model = _stage("pipeline", lambda: _optimized(model, pipeline))
        _stage("verify", lambda: verify(model))
    return _stage("write", lambda: model_to_bytes(model))


def _through_text(model: Model) -> Model:
    from planish.ir.text import parse_model, print_model

    kept: dict[str, Any] = {}
    printed = print_model(model, resources=kept)
    read = parse_model(printed, resources=kept)
    again = print_model(read, resources={})
    if again != printed:
        raise ValueError("the text changes when it is parsed and printed")
    return read


def _optimized(model: Model, pipeline: str) -> Model:
    Pipeline(pipeline).run(model)
    return model


def _stage(stage: str, step: Any) -> Any:
    try:
        return step()
    except PlanishError as error:
        raise Failure(stage, str(error)) from error
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise Failure(stage, f"UNEXPECTED {error!r} at {Path(where.filename).name}:{where.lineno}") from error


def check(case: Case, tally: Tally, pipeline: str, text: bool) -> None:
    """Puts one model through. Raises ``Failure``."""
    before = case.model.SerializeToString()
    original: Runner | None = None
    results: list[list[Any]] = []
    repeatable = True
    try:
        original = Runner(before, case.folder)
        for inputs, _ in case.data:
            results.append(original.run(inputs))
        again = Runner(before, case.folder)
        repeatable = all(identical(r, again.run(i)) for r, (i, _) in zip(results, case.data, strict=True))
        tally.runnable += 1
        tally.random += not repeatable
    except Exception:
        original = None
    after = through(case, pipeline, text)
    if passes_checker(case.model):
        _stage("checker", lambda: onnx.checker.check_model(after))
    if original is None:
        return
    rewritten = _stage("load", lambda: Runner(after, case.folder))
    if original.interface() != rewritten.interface():
        raise Failure("interface", f"{original.interface()} became {rewritten.interface()}")
    for (inputs, expected), want in zip(case.data, results, strict=True):
        got = _stage("run", lambda inputs=inputs: rewritten.run(inputs))
        if repeatable:
            _compare(case, want, got, expected, exact=pipeline == "none")


def _compare(case: Case, want: list[Any], got: list[Any], expected: list[Any] | None, *, exact: bool) -> None:
    same = identical if exact else (lambda a, b: close(a, b, case.rtol, case.atol))
    known = expected if expected and not exact else want
    for i, (a, b, e) in enumerate(zip(want, got, known, strict=True)):
        if not same(a, b) and not (same(e, b) and not same(e, a)):  # the runtime's own result may be the worse one
            raise Failure("output", f"output {i}: the original gives {_short(a)}, the result {_short(b)}")
    for i, (a, b, e) in enumerate(zip(want, got, expected or want, strict=False)):
        if close(a, e, case.rtol, case.atol) and not close(b, e, case.rtol, case.atol):
            raise Failure("expected", f"output {i}: expected {_short(e)}, the result is {_short(b)}")


def _short(v: Any) -> str:
    return " ".join(str(v).split())[:120]


# -- every pass


def plans() -> list[Plan]:
    """Every lossless pass alone, the named pipelines, and the default one for two targets."""
    return [Plan.parse(name) for name in (*default_pipelines(), *(f"default@{t}" for t in TARGETS))]


def check_each_pass(case: Case, tallies: dict[str, Tally], wanted: list[Plan]) -> Iterator[str]:
    """Puts one model through each of the plans; yields what goes wrong.

    Every result is checked as the fuzzer does (``driver/fuzz/check.py``), after every rewrite or a sample of them.
    Where the model does not run, or draws random numbers: that passes end, the graph verifies, the interface stays,
    and onnx's checker takes the file where it takes the original.
    """
    model = read_model(case.model, folder=case.folder)
    subject = _subject(case, model)
    for plan in wanted:
        tally = tallies[plan.name]
        tally.models += 1
        tally.runnable += subject is not None
        failure = _checked(subject, plan, tally) if subject is not None else _structure(case, model, plan, tally)
        tally.ok += failure is None
        if failure is not None:
            tally.failed[failure.kind] += 1
            yield f"{case.suite}/{case.name}: {plan.name}: {failure.kind}: {failure.message}"


class Log:
    """What each model gave, a line of JSON each (the last one counts), so that a run can be cut short and go on."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        lines = path.read_text("utf-8").splitlines() if path is not None and path.exists() else []
        self.done: dict[str, dict[str, Any]] = {entry["model"]: entry for entry in map(json.loads, lines)}

    def entry(self, case: Case, wanted: list[Plan]) -> dict[str, Any]:
        """The line of a model: ``tallies`` by plan and ``failures``. What an earlier run did is not done again."""
        label = f"{case.suite}/{case.name}"
        found = self.done.get(label, {"model": label, "tallies": {}, "failures": []})
        missing = [plan for plan in wanted if plan.name not in found["tallies"]]
        if missing:
            tallies: dict[str, Tally] = defaultdict(Tally)
            found["failures"] += check_each_pass(case, tallies, missing)
            found["tallies"] |= {name: {k: v for k, v in asdict(t).items() if v} for name, t in tallies.items()}
            self.done[label] = found
            if self.path is not None:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(found) + "\n")
        return found


def _subject(case: Case, model: Model) -> Subject | None:
    names = [v.name for v in model.graph.inputs]
    given = [{n: _plain(v) for n, v in zip(names, inputs, strict=False) if v is not None} for inputs, _ in case.data]
    try:
        return Subject(model, given)
    except Exception:  # whatever the runtime or its bindings do not take
        return None


def _checked(subject: Subject, plan: Plan, tally: Tally) -> Problem | None:
    subject.target = plan.target
    failure = checked(subject, plan.pipeline, parsed=plan.parsed)
    count = sum(subject.hits.values())
    tally.changed += count > 0
    tally.rewrites += count
    for fuel in sorted({round(i * count / PARTIAL_RUNS) for i in range(1, PARTIAL_RUNS)} - {0, count}):
        failure = failure or checked(subject, plan.pipeline, parsed=plan.parsed, fuel=fuel)
        tally.partial += 1
    return failure


def _structure(case: Case, model: Model, plan: Plan, tally: Tally) -> Problem | None:
    after = clone_model(model)
    try:
        changes = plan.parsed.run(after, Context(target=plan.target)).changes
        tally.changed += changes > 0
        tally.rewrites += changes
        verify(after, types=passes_checker(case.model))
        problems = interface_problems(model, after)
        if problems:
            return Problem(plan.name, "interface", problems[0])
        if changes and passes_checker(case.model):
            onnx.checker.check_model(model_to_bytes(after))
    except onnx.checker.ValidationError as error:
        return Problem(plan.name, "checker", str(error))
    except Exception as error:
        return Problem(plan.name, "crash", str(error))
    return None


# -- the report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", default="none", help="text of a pipeline, or 'none' (default)")
    parser.add_argument("--each-pass", action="store_true", help="every pass alone and every pipeline")
    parser.add_argument("--only", action="append", metavar="PLAN", help="with --each-pass: of these rows (repeated)")
    parser.add_argument("--log", type=Path, help="with --each-pass: keeps what each model gave, and goes on behind it")
    parser.add_argument("--text", action="store_true", help="print and parse the textual form on the way")
    parser.add_argument("--share", default="1/1", help="K/N: the K-th of N fixed parts of the models")
    parser.add_argument("--filter", default="", help="only models whose suite/name contains this")
    parser.add_argument("--suite", action="append", choices=SUITES, help="only this suite (may be repeated)")
    parser.add_argument("--freeze", type=int, metavar="N", help="make all inputs but the first N constants")
    parser.add_argument("--list", type=int, default=100, metavar="N", help="list at most N failures")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.pipeline != "none":
        try:
            Pipeline(args.pipeline)
        except PlanishError as error:
            parser.error(str(error))
    part, parts = map(int, args.share.split("/"))
    tallies: dict[str, Tally] = defaultdict(Tally)
    failures: list[str] = []
    wanted = [plan for plan in plans() if not args.only or plan.name in args.only] if args.each_pass else []
    log = Log(args.log)
    start = time.monotonic()
    count = 0
    for case in cases(set(args.suite or SUITES)):
        label = f"{case.suite}/{case.name}"
        if args.filter not in label or zlib.crc32(label.encode()) % parts != part - 1:
            continue
        count += 1
        if args.freeze is not None:
            try:
                case = frozen(case, args.freeze)
            except (ValueError, TypeError):
                continue
        if args.each_pass:
            entry = log.entry(case, wanted)
            failures += entry["failures"]
            for plan in wanted:
                tallies[plan.name].add(entry["tallies"][plan.name])
            continue
        tally = tallies[case.suite]
        tally.models += 1
        try:
            check(case, tally, args.pipeline, args.text)
            tally.ok += 1
        except Failure as failure:
            stage, why = failure.args
            tally.failed[stage] += 1
            failures.append(f"{label}: {stage}: {why}")
    print(f"{count} models in {time.monotonic() - start:.0f} s", file=sys.stderr)
    (report_passes if args.each_pass else report)(tallies, failures[: args.list], len(failures))
    return 1 if failures or not tallies else 0


def report(tallies: dict[str, Tally], failures: list[str], count: int) -> None:
    """The table by suite, then the failures."""
    print(f"{'suite':18} {'models':>7} {'run':>6} {'random':>7} {'ok':>6}  failed")
    for suite, t in tallies.items():
        kinds = ", ".join(f"{n} {stage}" for stage, n in t.failed.items()) or "0"
        print(f"{suite:18} {t.models:7} {t.runnable:6} {t.random:7} {t.ok:6}  {kinds}")
    _list(failures, count)


def report_passes(tallies: dict[str, Tally], failures: list[str], count: int) -> None:
    """The table by pass, then the failures."""
    print(f"{'pass or pipeline':32} {'models':>6} {'run':>6} {'changed':>7} {'rewrites':>8} {'partial':>7}  failed")
    for name, t in tallies.items():
        kinds = ", ".join(f"{n} {stage}" for stage, n in t.failed.items()) or "0"
        print(f"{name:32} {t.models:6} {t.runnable:6} {t.changed:7} {t.rewrites:8} {t.partial:7}  {kinds}")
    _list(failures, count)


def _list(failures: list[str], count: int) -> None:
    for line in failures:
        print(line)
    if count > len(failures):
        print(f"... and {count - len(failures)} more")


if __name__ == "__main__":
    sys.exit(main())
