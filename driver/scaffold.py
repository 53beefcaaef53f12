"""``new-pass``: a pass with its test, as a file of a checkout or as a package of its own; both run as written."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from ..ir.errors import UsageError
from ..passes.registry import entries

PASS = '''"""{name}: ``relu(relu(x)) = relu(x)``. Replace this line by your mathematics.

**Why**    what it gains.
**Needs**  what must hold.
**Leaves** what it declines although it looks alike.
**Numbers** exact.
**Source** where a paper or a specification stands behind it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from {core} import Numbers, RewritePass
from {rewrite} import Match, NoMatch, Rewriter, Rule


@dataclass
class {cls}(RewritePass):
    """One line about what it does. Options are fields, with a docstring below each."""

    numbers = Numbers.EXACT

    def rules(self) -> Iterable[Rule]:
        return [{rule}()]


{body}'''

BODY = '''class {rule}(Rule):
    """Replace this rule by yours: a pattern, a guard that says why not, a rewrite."""

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Relu(op.Relu(x))

    def guard(self, m: Match) -> None:
        if m.x.dtype is None:
            raise NoMatch("the element type is unknown")

    def rewrite(self, r: Rewriter, m: Match) -> Any:
        return r.Relu(m.x)
'''

SUITE = """# {name}

What the pass does is in `passes/{family}/{module}.py`.

## the usual case
```ir
graph @main(%x: f32[N,4]) {{
  %a = Relu(%x)
  %y = Relu(%a)
  return %y
}}
```
```ir after
graph @main(%x: f32[N,4]) {{
  %y: f32[N,4] = Relu(%x)
  return %y
}}
```

## the inner result has a second user
```ir
graph @main(%x: f32[N,4]) {{
  %a: f32[N,4] = Relu(%x)
  %y: f32[N,4] = Relu(%a)
  return %a, %y
}}
```
```ir unchanged because="{because}"
```

## another function inside
```ir
graph @main(%x: f32[N,4]) {{
  %a: f32[N,4] = Sigmoid(%x)
  %y: f32[N,4] = Relu(%a)
  return %y
}}
```
```ir unchanged because="{other}"
```
"""

PROJECT = """[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "{distribution}"
version = "0.1.0"
description = "A pass for planish"
requires-python = ">=3.11"
dependencies = ["planish"]

[project.entry-points."planish.passes"]
{name} = "{package}:{cls}"

[tool.setuptools]
packages = ["{package}"]
"""

TEST = '''"""The pass rewrites what it should, leaves what it should, and changes no number."""

from {package} import {cls}
from planish.driver.checks.validate import validate
from planish.ir.clone import clone_model
from planish.ir.text.parser import parse_model
from planish.ir.verify import verify
from planish.passes.manager import Pipeline

BEFORE = """
graph @main(%x: f32[N,4]) {{
  %a = Relu(%x)
  %y = Relu(%a)
  return %y
}}
"""


def run(text):
    original = parse_model(text)
    model = clone_model(original)
    record = Pipeline([{cls}()]).run(model)
    verify(model)
    assert validate(original, model).equivalent
    return [node.op for node in model.graph], record.changes


def test_the_usual_case():
    assert run(BEFORE)[0] == ["Relu"]


def test_an_inner_result_with_a_second_user_stays():
    assert run(BEFORE.replace("return %y", "return %a, %y")) == (["Relu", "Relu"], 0)
'''

README = """# {distribution}

The pass `{name}` for planish. Install it beside planish and use it by name:

    pip install .
    planish passes
    planish optimize model.onnx -o out.onnx --pipeline "default,{name}"
    python -m pytest
"""


def new_pass(name: str, *, family: str = "clean", plugin: Path | None = None, root: Path | None = None) -> list[Path]:
    """Writes a pass and its test; returns the files. Nothing that exists is overwritten.

    With ``plugin`` a package in that (new or empty) folder, else two files in the checkout at ``root`` (by
    default the one planish runs from). Raises ``UsageError`` for a bad or taken name, or where there is no
    checkout.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or keyword.iskeyword(name):
        raise UsageError(f"{name!r} is no pass name", where="new-pass", help="verb and object, as fold-conv-bias")
    taken = entries().get(name)
    if taken is not None:
        raise UsageError(
            f"there is a pass {name} already, of {taken.owner}", where="new-pass", help="choose another name"
        )
    texts = _plugin_files(name, plugin) if plugin is not None else _checkout_files(name, family, root or _checkout())
    for path in texts:
        if path.exists():
            raise UsageError(f"{path} exists already", where="new-pass", help="choose another name, or another folder")
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    entries.cache_clear()
    return list(texts)


def _checkout() -> Path:
    root = Path(__file__).resolve().parents[1]
    if not (root / "tests" / "golden").is_dir():
        raise UsageError(
            "planish runs from an installed package, not from a checkout",
            where="new-pass",
            help="write a plugin instead: planish new-pass NAME --plugin FOLDER",
        )
    return root


def _class_name(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("-"))


def _pass_text(name: str, core: str, rewrite: str) -> str:
    rule = "Twice"
    return PASS.format(
        name=name, cls=_class_name(name), core=core, rewrite=rewrite, rule=rule, body=BODY.format(rule=rule)
    )


def _checkout_files(name: str, family: str, root: Path) -> dict[Path, str]:
    module = name.replace("-", "_")
    families = sorted(p.parent.name for p in (root / "passes").glob("*/__init__.py"))
    families = [f for f in families if f not in ("rewrite", "shared")]
    if family not in families:
        raise UsageError(f"there is no family {family!r}", where="new-pass", help=f"families: {', '.join(families)}")
    suite = SUITE.format(name=name, family=family, module=module, because=SECOND_USER, other=OTHER_OP)
    return {
        root / "passes" / family / f"{module}.py": _pass_text(name, "..core", "..rewrite"),
        root / "tests" / "golden" / family / f"{module}.md": suite,
    }


def _plugin_files(name: str, folder: Path) -> dict[Path, str]:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not an empty folder", where="new-pass", help="give a new one")
    package = f"planish_{name.replace('-', '_')}"
    distribution = f"planish-{name}"
    cls = _class_name(name)
    values = {"name": name, "package": package, "distribution": distribution, "cls": cls}
    return {
        folder / "pyproject.toml": PROJECT.format(**values),
        folder / "README.md": README.format(**values),
        folder / package / "__init__.py": _pass_text(name, "planish.passes.core", "planish.passes.rewrite"),
        folder / "tests" / f"test_{name.replace('-', '_')}.py": TEST.format(**values),
    }


SECOND_USER = "has another user"
OTHER_OP = "is not Relu"
