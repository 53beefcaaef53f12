"""How fast the optimizer itself is: reading, default pipeline and writing, beside other simplifiers.

    python benchmarks/optimizer_speed.py [--sizes 1000,10000,100000] [--zoo minilm,ppocr_rec] [--rounds 3]
                                         [--timeout 120] [--json OUT]

Each tool runs in a process of its own that imports it, optimizes a small model once (so that lazily
loaded parts are in), then reads, optimizes and writes the model; CPU seconds (user and system) of that
last part are reported, the median of interleaved rounds; then the same for real models of the zoo. A
tool that is not installed is left out (``pip install -e .[bench]`` installs them all). ``import planish``
and the resident memory of a model with 4 GB of external weights are measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

TOOLS = ("planish", "onnxslim", "onnxsim", "onnxscript", "onnxoptimizer")


# -- the model


def chain(nodes: int) -> bytes:
    """A chain of ``nodes`` nodes in blocks of ten, of which most can be folded, merged or removed.

    Each block: a no-op Identity, a transpose and its inverse, two reshapes in a row, a multiplication by
    one, a bias (a constant of its own, equal in every block), a Constant-fed product, Relu, a Cast to the
    same type.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    bias = np.linspace(-1, 1, 8, dtype=np.float32)
    inits = [
        numpy_helper.from_array(np.array([1, 8, 2], np.int64), "split"),
        numpy_helper.from_array(np.array([1, 16], np.int64), "joined"),
        numpy_helper.from_array(np.array([1, 2, 8], np.int64), "shape"),
        numpy_helper.from_array(np.float32(1), "one"),
    ]
    made = []
    last = "x"

    def node(op: str, *inputs: str, **attrs: object) -> None:
        nonlocal last
        out = f"v{len(made)}"
        made.append(helper.make_node(op, [last, *inputs], [out], name=f"n{len(made)}", **attrs))
        last = out

    while len(made) < nodes:
        i = len(made)
        inits.append(numpy_helper.from_array(bias, f"bias{i}"))
        inits.append(numpy_helper.from_array(np.full(8, 0.5, np.float32), f"scale{i}"))
        node("Identity")
        node("Transpose", perm=[0, 2, 1])
        node("Transpose", perm=[0, 2, 1])
        node("Reshape", "joined")
        node("Reshape", "shape")
        node("Mul", "one")
        node("Add", f"bias{i}")
        node("Mul", f"scale{i}")
        node("Relu")
        node("Cast", to=TensorProto.FLOAT)
    made[-1].output[0] = "y"
    graph = helper.make_graph(
        made,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 8])],
        inits,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


# -- the tools; each returns a function that reads, optimizes and writes


def _planish() -> Callable[[Path, Path], None]:
    import planish

    def run(source: Path, out: Path) -> None:
        model = planish.load(source)
        planish.Pipeline("default").run(model)
        planish.save(model, out)

    return run


def _onnxslim() -> Callable[[Path, Path], None]:
    import onnxslim

    return lambda source, out: onnxslim.slim(str(source), str(out))


def _onnxsim() -> Callable[[Path, Path], None]:
    import onnx
    import onnxsim

    def run(source: Path, out: Path) -> None:
        onnx.save(onnxsim.simplify(onnx.load(source))[0], out)

    return run


def _onnxscript() -> Callable[[Path, Path], None]:
    import onnx
    from onnxscript import optimizer

    def run(source: Path, out: Path) -> None:
        onnx.save(optimizer.optimize(onnx.load(source)), out)

    return run


def _onnxoptimizer() -> Callable[[Path, Path], None]:
    import onnx
    import onnxoptimizer

    def run(source: Path, out: Path) -> None:
        onnx.save(onnxoptimizer.optimize(onnx.load(source)), out)

    return run


def worker(tool: str, source: Path) -> None:
    """Measures one tool on one model; prints one JSON line."""
    import onnx

    run = globals()[f"_{tool}"]()
    with tempfile.TemporaryDirectory() as folder:
        small, out = Path(folder, "small.onnx"), Path(folder, "out.onnx")
        small.write_bytes(chain(20))
        run(small, out)
        start = time.process_time()
        run(source, out)
        seconds = time.process_time() - start
        left = len(onnx.load(out).graph.node)
    print(json.dumps({"seconds": seconds, "nodes": left}))


# -- the run


def measure(tool: str, source: Path, timeout: float) -> dict[str, float] | str:
    """CPU seconds and nodes left, or why there is no figure."""
    command = [sys.executable, __file__, "--worker", tool, str(source)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=env)
    except subprocess.TimeoutExpired:
        return f"> {timeout:.0f} s"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["?"])[-1]
        return "not installed" if "ModuleNotFoundError" in last else f"failed: {last[:60]}"
    return json.loads(done.stdout.strip().splitlines()[-1])


def import_seconds(module: str) -> float:
    """CPU seconds that importing ``module`` takes above importing numpy, median of seven processes."""
    code = f"import numpy, time; t = time.process_time(); import {module}; print(time.process_time() - t)"
    command = [sys.executable, "-c", code]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(7)]
    return statistics.median(float(run.stdout) for run in runs)


def passthrough(gigabytes: int = 4, scaled: bool = False) -> dict[str, float]:
    """Peak resident memory (MB) and CPU seconds of reading, default pipeline and writing with external weights.

    ``scaled``: every product is followed by a scale, which goes into its weights.
    """
    code = """
import json, resource, sys, time
import planish
t = time.process_time()
model = planish.load(sys.argv[1])
planish.Pipeline("default").run(model)
planish.save(model, sys.argv[2])
assert not any(node.op == "Mul" for node in model.graph)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"peak_mb": peak, "seconds": time.process_time() - t}))
"""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "in", "big.onnx"), Path(folder, "out", "big.onnx")
        source.parent.mkdir()
        out.parent.mkdir()
        write_big(source, gigabytes, scaled)
        done = subprocess.run([sys.executable, "-c", code, str(source), str(out)], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        return json.loads(done.stdout)


def write_big(path: Path, gigabytes: int, scaled: bool = False) -> None:
    """A chain of matrix products whose weights, 64 MB each, lie in one sparse external file (distinct first bytes)."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    size, count = 64 << 20, gigabytes * 16
    nodes, inits = [], []
    with open(path.with_suffix(".data"), "wb") as data:
        for i in range(count):
            data.seek(i * size)
            data.write(np.float32(i + 1).tobytes())
            tensor = TensorProto(name=f"w{i}", data_type=TensorProto.FLOAT, dims=[4096, 4096])
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", path.with_suffix(".data").name), ("offset", i * size), ("length", size)):
                entry = tensor.external_data.add()
                entry.key, entry.value = key, str(value)
            inits.append(tensor)
            source, result = f"h{i}" if i else "x", f"h{i + 1}" if i + 1 < count else "y"
            product = f"p{i}" if scaled else result
            nodes.append(helper.make_node("MatMul", [source, f"w{i}"], [product]))
            if scaled:
                inits.append(numpy_helper.from_array(np.linspace(1, 2, 4096, dtype=np.float32), f"s{i}"))
                nodes.append(helper.make_node("Mul", [product, f"s{i}"], [result]))
        data.truncate(count * size)
    graph = helper.make_graph(
        nodes,
        "big",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4096])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4096])],
        inits,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


def compare(label: str, size: int, source: Path, args: argparse.Namespace, result: dict[str, object]) -> None:
    """Measures all tools on one model in turns; prints a row for each."""
    found: dict[str, list[dict[str, float]]] = {}
    failed: dict[str, str] = {}
    for _ in range(args.rounds):
        for tool in args.tools.split(","):
            if tool in failed:
                continue
            got = measure(tool, source, args.timeout)
            if isinstance(got, str):
                failed[tool] = got
            else:
                found.setdefault(tool, []).append(got)
    for tool in args.tools.split(","):
        if tool in failed:
            print(f"| {tool} | {label} | {failed[tool]} | | |")
            result[f"{tool}/{label}"] = failed[tool]
        else:
            seconds = statistics.median(r["seconds"] for r in found[tool])
            left = int(found[tool][0]["nodes"])
            print(f"| {tool} | {label} | {seconds:.3f} | {seconds / size * 1e6:.1f} | {left} |", flush=True)
            result[f"{tool}/{label}"] = {"seconds": seconds, "nodes": left}


def node_count(source: Path) -> int:
    import onnx

    return len(onnx.load(source, load_external_data=False).graph.node)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1000,10000,100000")
    parser.add_argument("--zoo", default="minilm,ppocr_rec", help="real models, by their names in the zoo")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=120)
    parser.add_argument("--tools", default=",".join(TOOLS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-memory", action="store_true", help="leave out the model with 4 GB of weights")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker[0], Path(args.worker[1]))
        return
    result: dict[str, object] = {}
    if not args.no_memory:  # first: what this process holds later counts as its children's peak too
        for name, scaled in (("as it is", False), ("all scaled", True)):
            result[f"passthrough_4gb, {name}"] = big = passthrough(scaled=scaled)
            what = f"4 GB of external weights, {name}"
            print(f"{what}: peak {big['peak_mb']:.0f} MB resident, {big['seconds']:.1f} s CPU\n")
    print("| tool | nodes or model | CPU s (median) | us per node | nodes left |\n|---|---|---|---|---|")
    for size in map(int, filter(None, args.sizes.split(","))):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "chain.onnx")
            source.write_bytes(chain(size))
            compare(str(size), size, source, args, result)
    for name in filter(None, args.zoo.split(",")):
        from planish.models.zoo import get

        source = get(name).path()
        compare(name, node_count(source), source, args, result)
    result["import_planish_seconds"] = import_seconds("planish")
    print(f"\n`import planish` above numpy: {result['import_planish_seconds'] * 1000:.0f} ms CPU")
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
