"""Golden suites: Markdown files whose headings are cases. How to write one is in ``tests/golden/README.md``."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
_FENCE = re.compile(r"^```(\S*)[ \t]*(.*?)[ \t]*\n(.*?)^```[ \t]*$", re.M | re.S)
_HEADING = re.compile(r"^#+[ \t]+(.*?)[ \t]*$", re.M)

BEFORE_OPTIONS = frozenset(
    "pipeline options values dims shapes norun zeros tolerance fuel target samples".split()  # see README.md
)


@dataclass
class Case:
    """One heading: a program, and what becomes of it."""

    file: Path
    heading: str
    line: int
    """Of the first fence, 1-based."""
    before: str
    options: dict[str, str]
    """Options of the first fence."""
    after: str | None
    """``None``: the program must stay as it is."""
    because: str
    """Part of a recorded reason (only where nothing changes)."""
    span: tuple[int, int] = field(repr=False)
    """Where the second fence stands in the file."""

    @property
    def pass_name(self) -> str:
        return self.file.stem.replace("_", "-")

    @property
    def pipeline(self) -> str:
        """The pipeline to run: the pass of the file's name, unless the fence says otherwise."""
        if "pipeline" in self.options:
            return self.options["pipeline"]
        return self.pass_name + (f"{{{self.options['options']}}}" if "options" in self.options else "")

    @property
    def id(self) -> str:
        return f"{self.file.relative_to(HERE).with_suffix('')}:{self.heading}"


def suite_files() -> list[Path]:
    """All suites: ``<family>/<pass_name>.md``."""
    return sorted(HERE.glob("*/*.md"))


def cases(file: Path) -> list[Case]:
    """The cases of a suite. Raises ``ValueError`` with file and line for anything that is not one."""
    text = file.read_text(encoding="utf-8")
    # A comment line inside a fence may look like a heading: only those outside count.
    fences = list(_FENCE.finditer(text))
    inside = [(m.start(), m.end()) for m in fences]
    headings = [m for m in _HEADING.finditer(text) if not any(a <= m.start() < b for a, b in inside)]
    found: list[Case] = []
    for i, heading in enumerate(headings):
        end = headings[i + 1].start() if i + 1 < len(headings) else len(text)
        own = [m for m in fences if heading.end() <= m.start() < end and m[1] == "ir"]
        if own:
            found.append(_case(file, text, heading[1], own))
    names = [c.heading for c in found]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{file.name}: two cases are named {name!r}")
    return found


def _case(file: Path, text: str, heading: str, own: list[re.Match[str]]) -> Case:
    line = text.count("\n", 0, own[0].start()) + 1
    where = f"{file.name}:{line}: case {heading!r}"
    if len(own) != 2:
        raise ValueError(f"{where} has {len(own)} `ir` fences, expected a program and what becomes of it")
    words, options = _info(own[0][2], where)
    if words or not options.keys() <= BEFORE_OPTIONS:
        raise ValueError(
            f"{where}: {own[0][2]!r} found, options of the first fence are {', '.join(sorted(BEFORE_OPTIONS))}"
        )
    kind, given = _info(own[1][2], where)
    if kind == ["after"] and not given:
        after = own[1][3]
    elif kind == ["unchanged"] and set(given) == {"because"}:
        after = None
    else:
        raise ValueError(f'{where}: the second fence is {own[1][2]!r}, expected `after` or `unchanged because="..."`')
    return Case(file, heading, line, own[0][3], options, after, given.get("because", ""), own[1].span())


def _info(info: str, where: str) -> tuple[list[str], dict[str, str]]:
    try:
        parts = shlex.split(info)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    words = [p for p in parts if "=" not in p]
    return words, dict(p.split("=", 1) for p in parts if "=" in p)


def accept_result(case: Case, printed: str | None, reason: str) -> None:
    """Writes what the case gave: ``printed``, or ``None`` for unchanged because of ``reason``."""
    text = case.file.read_text(encoding="utf-8")
    current = next(c for c in cases(case.file) if c.heading == case.heading)
    if printed is None:
        because = reason.replace("\\", "\\\\").replace('"', '\\"')
        fence = f'```ir unchanged because="{because}"\n```'
    else:
        fence = f"```ir after\n{printed.rstrip()}\n```"
    start, end = current.span
    case.file.write_text(text[:start] + fence + text[end:], encoding="utf-8")
