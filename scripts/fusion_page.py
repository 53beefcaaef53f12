"""Writes docs/fusion.md: every fusion with its formula, precondition, an example, and the targets on which it is on.

Everything comes from the passes' docstrings, their golden suites, the pipelines and the tables of operators. A fusion
is on for a target where the default pipeline holds it and it fires there, with the options it has in that pipeline, on
a positive case of its suite. With ``--check`` nothing is written: the exit code is 1 where the page is not current.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from planish.backends.ort.kernels import kernel_table
from planish.ir.text.parser import parse_model
from planish.passes.core import Context, Pass, pass_name
from planish.passes.manager import Pipeline
from planish.passes.pipeline import flatten
from planish.passes.pipelines import GROUPS, PIPELINES
from planish.passes.registry import Entry, entries
from planish.passes.shared.decompose_contrib import CONTRIB_EQUATIONS
from planish.passes.shared.decompose_quantized import QUANTIZED_EQUATIONS
from planish.passes.shared.whole_operators import CUDA_KERNELS, SINGLE, WHOLE
from planish.passes.target import TARGETS, Target

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "fusion.md"
MS = "com.microsoft"
FIELDS = ("Why", "Needs", "Leaves", "Numbers", "Source")
_FIELD = re.compile(rf"^\*\*({'|'.join(FIELDS)})\*\* ", re.M)
INTRODUCTION = """# Fusions

Written by `scripts/fusion-page` from the passes, their golden suites, and the tables of operators; a test holds it
current. What a pass is worth on real models is in `results/`; what pays on a model is measured (`tuning.md`).

A fusion is *on* for a target where the pipeline `default` holds it and it fires there, with the options it has in that
pipeline, on a positive case of its suite. Those that are on nowhere are there by name, in a pipeline of one's own.
`planish explain PASS MODEL` says why one does not fire, `--disable PASS` leaves it out.
"""
OPERATORS = """## Fused operators of ONNX Runtime

Every operator of `com.microsoft` with a kernel, by the registry of ONNX Runtime 1.31.1 for processors and by its
docs/OperatorKernels.md for CUDA. `expand-fused` decomposes those that are marked; each decomposition is compared with
the kernel, or with the schema's formula where no processor has one. Without options it takes those on floats; those on
quantized data may round by a step differently and are expanded where `ops` names them. What a target has no kernel for
is expanded for it.
"""


@dataclass
class Fusion:
    """One pass."""

    entry: Entry
    summary: str
    formula: str
    fields: dict[str, str]
    cases: list[Any]
    """Of its golden suite."""
    groups: list[str]
    """Named pipelines of the default that hold it, or ``smallest``."""
    targets: list[str]


@cache
def suite() -> Any:
    """The reader of golden suites, which belongs to the tests."""
    spec = importlib.util.spec_from_file_location("golden_suite", ROOT / "tests" / "golden" / "suite.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def fusions() -> list[Fusion]:
    """All passes of the family, by name."""
    found: list[Fusion] = []
    default = list(flatten(Pipeline(PIPELINES["default"]).steps))
    for entry in sorted(entries().values(), key=lambda e: e.name):
        if entry.family != "fusion" or entry.owner != "planish":
            continue
        stem = entry.name.replace("-", "_")
        text = (ROOT / "passes" / "fusion" / f"{stem}.py").read_text("utf-8")
        head, fields = split_docstring(ast.get_docstring(ast.parse(text)) or "")
        summary, _, formula = head.partition("\n")
        cases = suite().cases(ROOT / "tests" / "golden" / "fusion" / f"{stem}.md")
        groups = [g for g in reversed(GROUPS) if entry.name in passes_of(g)]
        groups = groups or [g for g in ("smallest",) if entry.name in passes_of(g)]
        own = [p for p in default if pass_name(type(p)) == entry.name]
        on = [t.name for t in TARGETS.values() if any(fires(p, cases, t) for p in own)]
        found.append(Fusion(entry, summary.strip(), formula.strip("\n"), fields, cases, groups, on))
    return found


@cache
def passes_of(pipeline: str) -> frozenset[str]:
    return frozenset(pass_name(type(p)) for p in flatten(Pipeline(PIPELINES[pipeline]).steps))


def split_docstring(text: str) -> tuple[str, dict[str, str]]:
    """What stands before the fields, and each field's text."""
    starts = list(_FIELD.finditer(text))
    ends = [m.start() for m in starts[1:]] + [len(text)]
    fields = {m[1]: " ".join(text[m.end() : end].split()) for m, end in zip(starts, ends, strict=True)}
    return text[: starts[0].start()].strip() if starts else text, fields


def fires(step: Pass, cases: list[Any], target: Target) -> bool:
    """Whether the pass changes one of the positive cases on the target."""
    ctx = Context(target=target)
    return any(Pipeline([step]).run(parse_model(c.before), ctx).changes for c in cases if c.after is not None)


# -- the page


def page() -> str:
    found = fusions()
    parts = [INTRODUCTION, *overview(found)]
    for fusion in found:
        parts += section(fusion)
    parts += operators()
    return "\n".join(parts).rstrip() + "\n"


def targets_text(names: list[str]) -> str:
    """All targets, all but some, or the names."""
    missing = [t for t in TARGETS if t not in names]
    if not names:
        return "none by default"
    if not missing:
        return "all"
    return f"all but {', '.join(missing)}" if len(missing) < 3 else ", ".join(names)


def overview(found: list[Fusion]) -> Iterator[str]:
    yield "| fusion | what it does | group | on for | numbers |"
    yield "|---|---|---|---|---|"
    for f in found:
        group = ", ".join(f.groups) or "-"
        numbers = f.entry.load().numbers.value
        cells = (f"[{f.entry.name}](#{f.entry.name})", f.summary.rstrip("."), group, targets_text(f.targets), numbers)
        yield f"| {' | '.join(c.replace('|', chr(92) + '|') for c in cells)} |"
    yield ""


def section(fusion: Fusion) -> Iterator[str]:
    yield f"## {fusion.entry.name}\n"
    yield f"{fusion.summary}\n"
    if fusion.formula:
        yield f"{fusion.formula}\n"
    for name in FIELDS:
        if name in fusion.fields:
            yield f"* **{name}** {fusion.fields[name]}"
    yield f"* **On for** {targets_text(fusion.targets)}."
    declined = [c for c in fusion.cases if c.after is None]
    yield f"* **Near misses** {len(declined)} in its suite: {'; '.join(c.heading for c in declined)}.\n"
    example = next(c for c in fusion.cases if c.after is not None)
    yield f"Example, {example.heading}:\n"
    yield f"```\n{example.before.rstrip()}\n```\n"
    yield f"becomes\n\n```\n{(example.after or '').rstrip()}\n```\n"


def operators() -> Iterator[str]:
    yield OPERATORS
    yield "| operator | x86_64 | aarch64 | CUDA | decomposed |\n|---|---|---|---|---|"
    x86, arm = kernel_table("x86_64"), kernel_table("aarch64")
    names = {op for domain, op in CONTRIB_EQUATIONS if domain == MS} | WHOLE.keys()
    for op in sorted(names):
        key = f"{MS}:{op}"
        marks = ["yes" if there else "-" for there in (key in x86, key in arm, op in CUDA_KERNELS)]
        how = "yes" if (MS, op) in CONTRIB_EQUATIONS else f"no: {WHOLE[op]}"
        if (MS, op) in QUANTIZED_EQUATIONS:
            how = "yes, by name"
        yield f"| {op} | {' | '.join(marks)} | {how} |"
    yield f"\nOperators with kernels that fuse nothing: {', '.join(sorted(SINGLE))}."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where the page is not current")
    found = page()
    if parser.parse_args().check:
        current = PAGE.exists() and PAGE.read_text("utf-8") == found
        print("docs/fusion.md is current" if current else "docs/fusion.md is not current: run scripts/fusion-page")
        return 0 if current else 1
    PAGE.write_text(found, "utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {len(found.splitlines())} lines")
    return 0


if __name__ == "__main__":
    sys.exit(main())
