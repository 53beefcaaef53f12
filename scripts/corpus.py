"""Every model of onnx's backend tests: read, run a pipeline, write, and compare with the original.

For each model that ONNX Runtime can run: what planish writes passes onnx's checker where the original does,
has the same interface, and gives the original's outputs, run without the runtime's own optimizations. With
pipeline ``none`` outputs must be equal to the bit; otherwise within the test's tolerance, and within it of the
expected outputs where the original is. Models that ONNX Runtime cannot run go through everything but running.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import time
import traceback
import warnings
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

from planish.ir.dtypes import BY_CODE, from_numpy
from planish.ir.errors import PlanishError
from planish.ir.graph import Model
from planish.ir.onnx_proto import tensor_from_proto
from planish.ir.onnx_reader import read_model
from planish.ir.onnx_writer import model_to_bytes
from planish.ir.verify import verify
from planish.passes.manager import Pipeline

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
NEWEST_IR, NEWEST_OPSET = 13, 26
"""What ONNX Runtime 1.31 loads."""
SUITES = ("node", "model", "simple", "light", "pytorch-converted", "pytorch-operator")


@dataclass
class Case:
    """One model with its data sets of inputs and expected outputs."""

    suite: str
    name: str
    model: onnx.ModelProto
    folder: Path | None
    data: list[tuple[list[Any], list[Any] | None]]
    rtol: float = 1e-3
    atol: float = 1e-7


@dataclass
class Tally:
    """What became of the models of one suite."""

    models: int = 0
    runnable: int = 0
    ok: int = 0
    random: int = 0
    failed: Counter[str] = field(default_factory=Counter)


class Failure(Exception):
    """A model failed at one stage, the first argument."""


# -- the models


def cases(wanted: set[str]) -> Iterator[Case]:
    """All cases of the wanted suites, in a fixed order."""
    if "node" in wanted:
        from onnx.backend.test.case.node import collect_testcases

        yield from sorted((_generated("node", c) for c in collect_testcases(None)), key=lambda c: c.name)
    if "model" in wanted:
        from onnx.backend.test.case.model import collect_testcases as collect_models

        for c in sorted(collect_models(), key=lambda c: c.name):
            if c.model is not None:
                yield _generated("model", c)
    if "light" in wanted:
        yield from map(_light, sorted((DATA / "light").glob("*.onnx")))
    for suite in ("simple", "pytorch-converted", "pytorch-operator"):
        if suite in wanted:
            yield from (_stored(suite, f) for f in sorted((DATA / suite).iterdir()) if (f / "model.onnx").exists())


def _generated(suite: str, case: Any) -> Case:
    data = [(list(i), list(o)) for i, o in case.data_sets]
    return Case(suite, case.name, _loadable(case.model), None, data, case.rtol, case.atol)


def _loadable(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model as of the newest versions that ONNX Runtime loads, where it is valid under them.

    The generator stamps models with versions newer than any runtime's, mostly for operators that only got more types.
    """
    lowered = onnx.ModelProto()
    lowered.CopyFrom(model)
    lowered.ir_version = min(model.ir_version, NEWEST_IR)
    for entry in lowered.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = min(entry.version, NEWEST_OPSET)
    return lowered if _checks(lowered, types=True) else model


def _light(path: Path) -> Case:
    model = onnx.load(path)
    constants = {t.name for t in model.graph.initializer}
    inputs: list[Any] = []
    for info in model.graph.input:
        if info.name not in constants:
            shape = [d.dim_value or 1 for d in info.type.tensor_type.shape.dim]
            count = int(np.prod(shape))
            inputs.append((np.arange(count).reshape(shape) / count).astype(np.float32))
    return Case("light", path.stem, model, path.parent, [(inputs, None)])


def _stored(suite: str, folder: Path) -> Case:
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    data: list[tuple[list[Any], list[Any] | None]] = []
    for stored in sorted(folder.glob("test_data_set_*")):
        inputs = _tensors(stored, "input", model.graph.input)
        data.append((inputs, _tensors(stored, "output", model.graph.output)))
    return Case(suite, folder.name, model, folder, data)


def _tensors(folder: Path, stem: str, infos: Any) -> list[Any]:
    found: list[Any] = []
    for i in range(len(list(folder.glob(f"{stem}_*.pb")))):
        raw = (folder / f"{stem}_{i}.pb").read_bytes()
        kind = infos[i].type.WhichOneof("value")
        if kind == "sequence_type":
            found.append(numpy_helper.to_list(onnx.SequenceProto.FromString(raw)))
        elif kind == "optional_type":
            found.append(numpy_helper.to_optional(onnx.OptionalProto.FromString(raw)))
        else:
            found.append(onnx.TensorProto.FromString(raw))
    return found


def frozen(case: Case, keep: int) -> Case:
    """The case with its inputs made constants, but the first ``keep``: what constant folding gets to see."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    known = {t.name for t in model.graph.initializer}
    free = [i.name for i in model.graph.input if i.name not in known]
    (values, expected), *_ = case.data
    for name, value in list(zip(free, values, strict=False))[keep:]:
        if not isinstance(value, (np.ndarray, np.generic, onnx.TensorProto)):
            raise ValueError("only tensors can be frozen")
        tensor = model.graph.initializer.add()
        tensor.CopyFrom(value if isinstance(value, onnx.TensorProto) else numpy_helper.from_array(np.asarray(value)))
        tensor.name = name
        del model.graph.input[[i.name for i in model.graph.input].index(name)]
    model.ir_version = max(4, model.ir_version)
    return replace(case, model=model, data=[(values[:keep], expected)])


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
    if _checks(case.model):
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
    if _checks(case.model):
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
    for i, (a, b) in enumerate(zip(want, got, strict=True)):
        if not same(a, b):
            raise Failure("output", f"output {i}: the original gives {_short(a)}, the result {_short(b)}")
    for i, (a, b, e) in enumerate(zip(want, got, expected or want, strict=False)):
        if close(a, e, case.rtol, case.atol) and not close(b, e, case.rtol, case.atol):
            raise Failure("expected", f"output {i}: expected {_short(e)}, the result is {_short(b)}")


def _short(v: Any) -> str:
    return " ".join(str(v).split())[:120]


def _checks(model: onnx.ModelProto, *, types: bool = False) -> bool:
    try:
        onnx.checker.check_model(model, full_check=types)
    except Exception:
        return False
    return True


# -- the report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", default="none", help="text of a pipeline, or 'none' (default)")
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
    start = time.monotonic()
    for case in cases(set(args.suite or SUITES)):
        label = f"{case.suite}/{case.name}"
        if args.filter not in label or zlib.crc32(label.encode()) % parts != part - 1:
            continue
        if args.freeze is not None:
            try:
                case = frozen(case, args.freeze)
            except (ValueError, TypeError):
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
    count = sum(t.models for t in tallies.values())
    print(f"{count} models in {time.monotonic() - start:.0f} s", file=sys.stderr)
    report(tallies, failures[: args.list], len(failures))
    return 1 if failures or not tallies else 0


def report(tallies: dict[str, Tally], failures: list[str], count: int) -> None:
    """The table by suite, then the failures."""
    print(f"{'suite':18} {'models':>7} {'run':>6} {'random':>7} {'ok':>6}  failed")
    for suite, t in tallies.items():
        kinds = ", ".join(f"{n} {stage}" for stage, n in t.failed.items()) or "0"
        print(f"{suite:18} {t.models:7} {t.runnable:6} {t.random:7} {t.ok:6}  {kinds}")
    for line in failures:
        print(line)
    if count > len(failures):
        print(f"... and {count - len(failures)} more")


if __name__ == "__main__":
    sys.exit(main())
