"""Codes of few bits with a product of low rank beside, at equal sizes: beside codes alone and low rank alone.

    python benchmarks/lowrank_codes.py [--models minilm] [--target native] [--markdown OUT.md]

Every way gets the same form for all layers (no selection), with the calibration samples of ``lowrank.py``; what is
measured is what that measures. Bits are those of the layers' weights, scales and zero points included.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # also where ``python -P`` leaves it out

from fusion import machine, session
from lowrank import LEAST, Task, task_of
from lowrank_baselines import counts

PRODUCTS = "ops=[MatMul,Gemm]"
CODES = f"quantize-weights{{bits=4,{PRODUCTS}"
BESIDE = "factorize-residual{bits=4,min-parameters=4096"
WAYS: tuple[tuple[str, str], ...] = (
    ("4 bits", f"{CODES}}}"),
    ("4 bits, blocks of 16", f"{CODES},block=16}}"),
    ("4 bits, rank 16", f"{BESIDE},ranks=[16]}}"),
    ("4 bits, rank 32", f"{BESIDE},ranks=[32]}}"),
    ("4 bits, rank 64", f"{BESIDE},ranks=[64]}}"),
    ("4 bits, rank 32 in floats", f"{BESIDE},ranks=[32],factor-bits=0}}"),
    ("8 bits", f"quantize-weights{{bits=8,{PRODUCTS}}}"),
    ("low rank, 65 % kept, 8 bits", f"factorize-matmul{{kept=[0.65]}},quantize-weights{{bits=8,{PRODUCTS}}}"),
    ("low rank, 18 % kept, floats", "factorize-matmul{kept=[0.18]}"),
)


@dataclass(frozen=True)
class Row:
    way: str
    bits: float
    """For each parameter of the layers."""
    cosine: float
    order: float


def measured(name: str, target: str) -> list[Row]:
    import planish
    from planish.driver.calibrate import observer
    from planish.ir.clone import clone_model
    from planish.models.zoo import get
    from planish.passes.core import Context
    from planish.passes.target import get_target

    entry = get(name)
    task: Task = task_of(entry)
    whole = planish.optimize(entry.path(), target, validate="none", measure=False).model
    reference, observe = task.outputs(session(entry.path()).run), observer(task.samples)
    layers = sum(node.inputs[1].data.count for node in whole.all_nodes() if counts(node, LEAST))
    rows: list[Row] = []
    for way, pipeline in WAYS:
        made = clone_model(whole)
        planish.Pipeline(pipeline).run(made, Context(target=get_target(target), observe=observe))
        bits = 32 - 8 * (_bytes(whole) - _bytes(made)) / layers
        rows.append(Row(way, bits, *task.score(task.outputs(session(made).run), reference)))
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def _bytes(model: Any) -> int:
    return sum(v.data.nbytes for graph in model.all_graphs() for v in graph.constants if v.data is not None)


def table(name: str, rows: list[Row]) -> str:
    lines = [f"## {name}: codes and low rank", "", "| all layers in | bits | cosine | order |", "|---|---:|---:|---:|"]
    lines += [
        f"| {r.way} | {r.bits:.2f} | {r.cosine:.4f} | {r.order:.4f} |" for r in sorted(rows, key=lambda r: r.bits)
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="minilm")
    parser.add_argument("--target", default="native")
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    tables = [table(name, measured(name, args.target)) for name in args.models.split(",")]
    text = "\n\n".join([f"# Codes and low rank\n\n{machine()}", *tables, ""])
    print(text)
    if args.markdown:
        args.markdown.write_text(text)


if __name__ == "__main__":
    main()
