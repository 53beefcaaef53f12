"""The layers of the design, enforced over the syntax trees: which part of the package may import which."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("ir", "passes", "backends", "models", "driver")
CORE_OF_PASSES = ("rewrite", "shared")

# What a unit may import besides itself. A unit is a part of the package, but for pass files and backends, of which
# each one is a unit of its own, so that none can import another.
MAY_IMPORT = {
    "ir": (),
    "passes": ("ir",),
    "pass file": ("ir", "passes"),
    "backends": ("ir", "passes"),
    "backend": ("ir", "passes", "backends"),
    "models": ("ir",),
    "driver": ("ir", "passes", "pass file", "backends", "backend", "models"),
    "planish": (*PARTS, "pass file", "backend"),
    "cli": (*PARTS, "pass file", "backend", "planish"),
}
NOT_AT_IMPORT = ("onnx", "onnxruntime", "onnx_graphsurgeon", "tvm", "networkx", "scipy", "ortools", "typer", "rich")


def unit_of(root: Path, module: tuple[str, ...]) -> tuple[str, str]:
    """The kind of unit that a module (a path below the package) belongs to, and which one of that kind."""
    part, name = (*module, "", "")[:2]
    if part in ("cli", "__main__"):
        return "cli", ""
    if part == "passes" and len(module) > 2 and name not in CORE_OF_PASSES:
        return "pass file", f"{name}/{module[2]}"
    if part == "backends" and name and (root / part / name).is_dir():
        return "backend", name
    return part or "planish", ""


def library_files(root: Path) -> Iterator[Path]:
    yield from sorted(root.glob("*.py"))
    for part in PARTS:
        yield from sorted((root / part).rglob("*.py"))


def imported_modules(root: Path, file: Path, node: ast.stmt) -> Iterator[tuple[str, ...] | str]:
    """The modules of the package that an import statement names, as paths below it, or what is wrong with it."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        names = [node.module or ""] if node.level == 0 else []
    else:
        return
    for name in names:
        if name.split(".")[0] in ("planish", "cli", *PARTS):
            yield f"imports {name} by its absolute name"
    if isinstance(node, ast.Import) or node.level == 0:
        return

    package = file.relative_to(root).parent.parts
    if node.level - 1 > len(package):
        yield "imports from above the package"
        return
    base = (*package[: len(package) - (node.level - 1)], *(node.module or "").split("."))
    base = tuple(part for part in base if part)
    for alias in node.names:
        inner = root.joinpath(*base, alias.name)
        yield (*base, alias.name) if inner.is_dir() or inner.with_suffix(".py").is_file() else base


def violations(root: Path) -> list[str]:
    """`file:line: what is wrong`, for each import in the library that the layers forbid."""
    found: list[str] = []
    for file in library_files(root):
        relative = file.relative_to(root)
        own = relative.with_suffix("").parts
        kind, which = unit_of(root, own[:-1] if own[-1] == "__init__" else own)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            for module in imported_modules(root, file, node):
                where = f"{relative.as_posix()}:{node.lineno}"
                if isinstance(module, str):
                    found.append(f"{where}: {module}")
                elif (other := unit_of(root, module)) != (kind, which) and other[0] not in MAY_IMPORT[kind]:
                    found.append(f"{where}: {kind} imports {'.'.join(('planish', *module))}")
    return found


def test_nothing_imports_upward_or_sideways() -> None:
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("file", "code", "complaint"),
    [
        ("ir/graph.py", "from ..passes.core import Pass", "ir imports planish.passes.core"),
        ("ir/graph.py", "from .. import __version__", "ir imports planish"),
        ("ir/graph.py", "import planish.ir.types", "imports planish.ir.types by its absolute name"),
        ("ir/graph.py", "from passes import core", "imports passes by its absolute name"),
        ("ir/graph.py", "from ... import x", "imports from above the package"),
        ("ir/graph.py", "if TYPE_CHECKING:\n    from ..driver import x", "ir imports planish.driver"),
        ("ir/graph.py", "def f():\n    from ..models import zoo", "ir imports planish.models.zoo"),
        ("passes/core.py", "from .clean.fold import x", "passes imports planish.passes.clean.fold"),
        ("passes/rewrite/rule.py", "from ...backends.ort import x", "passes imports planish.backends.ort"),
        ("passes/clean/fuse.py", "from .fold import x", "pass file imports planish.passes.clean.fold"),
        ("passes/clean/fuse.py", "from . import fold", "pass file imports planish.passes.clean.fold"),
        ("passes/fusion/fuse.py", "from ..clean.fold import x", "pass file imports planish.passes.clean.fold"),
        ("backends/tvm/lower.py", "from ..ort import x", "backend imports planish.backends.ort"),
        ("backends/tvm/lower.py", "from ...passes.clean.fold import x", "backend imports planish.passes.clean.fold"),
        ("models/zoo.py", "from ..passes.core import x", "models imports planish.passes.core"),
        ("driver/optimize.py", "from ..cli import main", "driver imports planish.cli"),
        ("driver/optimize.py", "from .. import load", "driver imports planish"),
        ("__init__.py", "from .cli import main", "planish imports planish.cli"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, file: str, code: str, complaint: str) -> None:
    make_tree(tmp_path, {file: code})
    assert len(found := violations(tmp_path)) == 1
    assert found[0].endswith(": " + complaint)


def test_the_imports_of_the_design_are_allowed(tmp_path: Path) -> None:
    make_tree(
        tmp_path,
        {
            "passes/core.py": "from ..ir.graph import x\nfrom .rewrite.rule import x",
            "passes/rewrite/rule.py": "from ..core import x\nfrom ...ir import graph\nimport numpy",
            "passes/clean/fuse.py": "from ..core import x\nfrom ..shared import x\nfrom ...ir.graph import x",
            "backends/base.py": "from ..passes.core import x",
            "backends/tvm/lower.py": "from ..base import x\nfrom . import rules\nfrom ...passes.core import x",
            "models/zoo.py": "from ..ir.graph import x\nimport onnx.helper",
            "driver/optimize.py": "from ..backends.ort import run\nfrom ..models import zoo",
            "__init__.py": "from .driver.optimize import x",
            "__main__.py": "from .cli import main",
            "cli.py": "from . import __version__\nfrom .driver import optimize",
        },
    )
    assert violations(tmp_path) == []


def make_tree(root: Path, contents: dict[str, str]) -> None:
    files = ["passes/clean/fold.py", "passes/shared/x.py", "backends/ort/run.py", "models/zoo.py", "passes/core.py"]
    for file in [*files, "driver/optimize.py", "cli.py", *contents]:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(contents.get(file, ""), encoding="utf-8")


def test_importing_planish_loads_no_heavy_package() -> None:
    code = "import json, sys, planish; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    ran = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert set(json.loads(ran.stdout)).isdisjoint(NOT_AT_IMPORT)
