"""Orders and arenas: ours beside the file's order, greedy orders, TVM's planner and ONNX Runtime's measured peak.

    python benchmarks/schedule.py [--models NAME,...] [--steps N] [--no-runtime] [--out docs/results/schedule.md]

Models of the zoo with the extents of their first sample, and networks of irregular cells. ``--out`` also writes a
picture of one profile beside it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from planish.backends.ort.session import SessionSettings
from planish.driver.deploy import static_dims
from planish.driver.dims import with_dims
from planish.driver.document import bytes_text
from planish.driver.peak_memory import Peak, peak_memory
from planish.ir.graph import Model
from planish.ir.onnx_reader import read_model
from planish.ir.onnx_writer import model_to_bytes
from planish.models import zoo
from planish.models.cells import CELLS
from planish.passes.manager import Pipeline
from planish.passes.shared.arena.place import place
from planish.passes.shared.liveness import Sharing, liveness
from planish.passes.shared.order.search import STEPS, Ordering, best_order
from planish.passes.shared.order.tasks import Alive, Tasks, tasks_of

PICTURED = "randwire-ws-48"
Rule = Callable[[int, int, int], tuple[int, ...]]
GREEDY: dict[str, Rule] = {
    "least while it runs": lambda during, after, age: (during, after, age),
    "least behind it": lambda during, after, age: (after, during, age),
    "depth first": lambda during, after, age: (-age,),
    "breadth first": lambda during, after, age: (age,),
}
"""What the next of the ready nodes has least of; age counts when a node became ready."""


@dataclass
class Row:
    name: str
    nodes: int
    file: int
    greedy: dict[str, int]
    ours: Ordering
    seconds: float
    arena: int
    arena_bound: int
    unknown: int
    """Values whose size depends on data: counted as nothing."""
    tvm: int | None = None
    runtime: list[Peak | None] = field(default_factory=list[Peak | None])
    """Under defaults, without the memory pattern, and so in our order."""


def greedy(tasks: Tasks, rule: Rule) -> int:
    """The peak of always doing the ready node that a rule likes best."""
    waiting = [len(before) for before in tasks.before]
    readers: list[list[int]] = [[] for _ in waiting]
    for i, before in enumerate(tasks.before):
        for j in before:
            readers[j].append(i)
    ready = {i: 0 for i, n in enumerate(waiting) if n == 0}
    state, order = Alive(tasks), list[int]()
    while ready:
        steps = {i: (state.during(i), _after(state, i), age) for i, age in ready.items()}
        node = min(steps, key=lambda i: (*rule(*steps[i]), i))
        del ready[node]
        state.done(node)
        order.append(node)
        for i in readers[node]:
            waiting[i] -= 1
            if not waiting[i]:
                ready[i] = len(order)
    return tasks.peak(order)


def _after(state: Alive, node: int) -> int:
    tasks = state.tasks
    freed = {s for s in (*tasks.touched[node], *tasks.made[node]) if state.waiting[s] == 1 and not tasks.kept[s]}
    return state.bytes + sum(tasks.size[s] for s in tasks.made[node]) - sum(tasks.size[s] for s in freed)


def tvm_bytes(model: Model) -> int | None:
    """What TVM's StaticPlanBlockMemory allocates for the graph in its order; kernels are stand-ins of the same shapes.

    Inputs and results of the graph are not planned by it, and added at their size.
    """
    try:
        import tvm
        from tvm import relax
    except ImportError:
        return None
    library, r = Any, Any
    library, r = tvm, relax
    live = liveness(model.graph, Sharing(in_place=False))
    if live.workspace:
        return None  # its functions have no bodies
    owner = {v: s for s in live.storages for v in s.values}
    b: Any = r.BlockBuilder()
    inputs = {
        id(owner[v]): r.Var(f"x{i}", _tensor(r, owner[v].size)) for i, v in enumerate(model.graph.inputs) if v in owner
    }
    known: dict[int, Any] = dict(inputs)
    with b.function("main", list(inputs.values())):
        with b.dataflow():
            for node in live.nodes:
                operands = [known[id(owner[v])] for v in node.inputs if v in owner and id(owner[v]) in known]
                for v in node.outputs:
                    if v in owner and id(owner[v]) not in known:
                        call = r.call_dps_packed("kernel", operands, _tensor(r, owner[v].size))
                        known[id(owner[v])] = b.emit(call)
            out = b.emit_output(r.Tuple([known[id(owner[v])] for v in model.graph.outputs if v in owner]))
        b.emit_func_output(out)
    passes = [r.transform.CallTIRRewrite(), r.transform.StaticPlanBlockMemory()]
    planned = library.transform.Sequential(passes)(b.finalize())
    found = [0]

    def visit(e: Any) -> None:
        if isinstance(e, r.Call) and getattr(e.op, "name", "") in (
            "relax.memory.alloc_storage",
            "relax.builtin.alloc_tensor",
        ):
            shape = e.args[0].values
            found[0] += int(np.prod([int(d) for d in shape]))

    r.analysis.post_order_visit(planned["main"], visit)
    return found[0] + sum(owner[v].size for v in dict.fromkeys(model.graph.inputs) if v in owner)


def _tensor(relax: Any, size: int) -> Any:
    return relax.TensorType([max(size, 1)], "uint8")


def row_of(name: str, model: Model, sample: dict[str, Any] | None, steps: int) -> Row:
    live = liveness(model.graph)
    _, tasks = tasks_of(model.graph, live.workspace)
    start = time.process_time()
    ours = best_order(tasks, steps=steps)
    seconds = time.process_time() - start
    others = {n: greedy(tasks, rule) for n, rule in GREEDY.items()}
    row = Row(name, len(tasks), live.peak, others, ours, seconds, 0, 0, len(live.unknown))
    before = model_to_bytes(model)
    Pipeline(f"order-nodes{{steps={steps}}}").run(model)
    live = liveness(model.graph)
    assert live.peak == ours.peak or live.unknown
    placed = place(live.buffers(64))
    row.arena, row.arena_bound = placed.height, placed.bound
    row.tvm = tvm_bytes(model)
    if sample is not None:
        settings = SessionSettings(threads=1)
        lean = SessionSettings(threads=1, memory_pattern=False)
        ordered = SessionSettings(threads=1, memory_pattern=False, execution_order="priority")
        row.runtime = [
            peak_memory(before, settings, [sample]),
            peak_memory(before, lean, [sample]),
            peak_memory(model_to_bytes(model), ordered, [sample]),
        ]
    return row


def subjects(wanted: set[str]) -> Iterator[tuple[str, Model, dict[str, Any] | None]]:
    for name, entry in zoo.ZOO.items():
        if (wanted and name not in wanted) or not entry.installed or name.startswith("seeded_"):
            continue
        with TemporaryDirectory() as folder:
            path, samples = zoo.export(name, Path(folder), count=1)
            with np.load(samples) as archive:
                sample = {k: np.asarray(archive[k][0]) for k in archive.files}
            model = read_model(path)
            dims = static_dims(model, {}, sample)
            yield name, with_dims(model, dims) if dims else model, sample
    for name, build in CELLS.items():
        if not wanted or name in wanted:
            model = build()
            shape = model.graph.inputs[0].shape
            assert shape is not None
            extents = [d for d in shape if isinstance(d, int)]
            yield name, model, {"input": np.random.default_rng(0).standard_normal(extents, np.float32)}


def table(rows: list[Row]) -> list[str]:
    head = ["model", "nodes", "file's order", "best greedy", "which", "ours", "bound", "s", "arena", "TVM's plan"]
    lines = [head, ["---"] * len(head)]
    for r in rows:
        which = min(r.greedy, key=lambda name: r.greedy[name])
        best = r.greedy[which]
        proof = "=" if r.ours.peak == r.ours.bound else f"{bytes_text(r.ours.bound)} ({r.ours.gap:.1%})"
        above = "=" if r.arena == r.ours.peak else f"{bytes_text(r.arena)} ({r.arena / r.ours.peak - 1:.2%})"
        tvm = "" if r.tvm is None else f"{bytes_text(r.tvm)} ({r.tvm / r.ours.peak:.2f})"
        texts = (bytes_text(r.file), bytes_text(best), which, bytes_text(r.ours.peak), proof)
        lines.append([r.name, f"{r.nodes}{'*' if r.unknown else ''}", *texts, f"{r.seconds:.1f}", above, tvm])
    return [f"| {' | '.join(line)} |" for line in lines]


def runtime_table(rows: list[Row]) -> list[str]:
    head = [
        "model",
        "live at the peak: file's order",
        "ours",
        "resident (arena): defaults",
        "no pattern",
        "no pattern, our order",
    ]
    lines = [head, ["---"] * len(head)]
    for r in rows:
        if r.runtime and None not in r.runtime:
            peaks = [f"{bytes_text(p.resident)} ({bytes_text(p.arena)})" for p in r.runtime if p is not None]
            lines.append([r.name, bytes_text(r.file), bytes_text(r.ours.peak), *peaks])
    return [f"| {' | '.join(line)} |" for line in lines]


def picture(path: Path) -> None:
    """The profile of one model in both orders."""
    from planish.driver.select.front import new_picture

    graph = CELLS[PICTURED]().graph
    _, tasks = tasks_of(graph, liveness(graph).workspace)
    found = best_order(tasks, steps=STEPS)
    figure, kind = new_picture(path)
    axes = figure.add_subplot()
    for label, order in (("file's order", list(range(len(tasks)))), ("ours", found.order)):
        axes.step(range(len(tasks)), [n / 1e6 for n in tasks.profile(order)], where="post", label=label, linewidth=0.8)
    axes.axhline(found.bound / 1e6, color="C3", linestyle=":", label="bound")
    axes.set_xlabel(f"node of {PICTURED}")
    axes.set_ylabel("MB alive")
    axes.legend()
    figure.savefig(path, format=kind, metadata={"Date": None} if kind == "svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description="Orders and arenas of the zoo and of irregular cells.")
    parser.add_argument("--models", default="")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--no-runtime", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows: list[Row] = []
    for name, model, sample in subjects({n for n in options.models.split(",") if n}):
        rows.append(row_of(name, model, None if options.no_runtime else sample, options.steps))
        print(table(rows[-1:])[-1], rows[-1].runtime, flush=True)
    text = "\n".join([*_HEAD, "", *table(rows), "", *_RUNTIME, "", *runtime_table(rows), ""])
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")
        picture(options.out.with_suffix(".svg"))
    else:
        print(text)


_HEAD = f"""# Orders of nodes and arenas

Bytes that are alive at the peak, without weights, by the model of `passes/shared/liveness.py`, with the extents of each
model's first sample. `=` in the column *bound*: the order is proved to be the best; in the column *arena*: offsets
(multiples of 64) were found in no more bytes than are alive at the peak. The best of four greedy orders is named. TVM:
bytes that `StaticPlanBlockMemory` allocates for the nodes in our order, and its ratio to ours; it writes over nothing
in place. Seconds are processor time of the search. `*`: some sizes depend on data and are not counted;
`order-nodes` leaves such graphs alone.
Made by `python benchmarks/schedule.py --out docs/results/schedule.md`.

![profile of {PICTURED}](schedule.svg)
""".splitlines()
_RUNTIME = """## What ONNX Runtime takes

Growth of the resident memory of a process of its own while a model is loaded and run three times on one thread, with
weights; in brackets what the runtime's arena took from the system for values, in powers of two, which differs between
runs only with the pattern. The live set does not count weights, packed copies of them, and what convolutions need while
they run. Resident peaks of two runs differ by up to 5 MB, Basic Pitch's by 8. What is gained is the memory pattern's:
half of the peak of PP-OCR's detector. Our order changes no model's arena, and resident memory beyond that noise only of
RandWire WS(48), by 7 MB: of the zoo's models it is hardly better than the file's where the runtime follows it, the
weights that light_* models make by nodes are folded when a session loads, and on the irregular cells the runtime's own
fusions add nodes where they like (`docs/memory.md`).
""".splitlines()


if __name__ == "__main__":
    main()
