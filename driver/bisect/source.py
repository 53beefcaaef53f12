"""Where a rule is written."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...ir.errors import PlanishError
from ...passes.core import Pass, RewritePass
from ...passes.manager import Pipeline


@dataclass(frozen=True)
class Place:
    """A class in a file."""

    file: str
    """Relative to the folder that holds the package."""
    line: int
    name: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} (class {self.name})"


def place_of(label: str) -> Place | None:
    """The place of ``pass`` or ``pass/Rule``; ``None`` where it cannot be told."""
    name, _, rule = label.partition("/")
    try:
        steps = Pipeline(name).steps
    except PlanishError:
        return None
    if len(steps) != 1 or not isinstance(steps[0], Pass):
        return None
    found = type(steps[0])
    return _place(next((c for c in _classes(found) if c.__name__ == rule), found) if rule else found)


def _classes(cls: type[Pass]) -> Iterable[type]:
    """The classes of the pass's rules, then all of its module."""
    if issubclass(cls, RewritePass):
        yield from (type(rule) for rule in cls().rules())
    module = sys.modules.get(cls.__module__)
    yield from (c for c in vars(module).values() if inspect.isclass(c)) if module is not None else ()


def _place(cls: type) -> Place | None:
    try:
        file = Path(inspect.getsourcefile(cls) or "")
        line = inspect.getsourcelines(cls)[1]
    except (OSError, TypeError):
        return None
    package = cls.__module__.split(".")
    # As many folders as the module's name has parts: planish/passes/clean/merge_casts.py.
    return Place(Path(*file.parts[-len(package) :]).as_posix() if len(package) > 1 else file.name, line, cls.__name__)
