"""Which passes exist: our own files by name, without importing them, and plugins by entry point.

File ``passes/fusion/fold_conv_batchnorm.py`` is the pass ``fold-conv-batchnorm``; it is imported when
it is first used. Other packages declare an entry point in the group ``planish.passes`` whose name is
the pass's name and whose value is its class. Two owners of one name are an error that names both.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..ir.errors import PipelineError
from .core import Pass
from .pipelines import PIPELINES

ENTRY_POINTS = "planish.passes"
_NOT_FAMILIES = ("rewrite", "shared", "__pycache__")


@dataclass(frozen=True)
class Entry:
    """Where a pass comes from."""

    name: str
    family: str
    """Folder under ``passes/``, or ``plugin``."""
    owner: str
    """``planish`` or the plugin's distribution."""
    module: str
    attribute: str | None
    """Class name; ``None`` for our own files, which hold exactly one pass class."""

    def load(self) -> type[Pass]:
        """Imports the pass. Raises ``PipelineError`` when its module fails or holds no pass."""
        try:
            module = importlib.import_module(self.module)
            found: Any = getattr(module, self.attribute) if self.attribute else _only_pass(module)
        except Exception as error:
            raise PipelineError(
                f"pass {self.name} of {self.owner} cannot be loaded: {type(error).__name__}: {error}",
                where="registry",
                help=f"{self.owner} is at fault; reinstall or uninstall it",
            ) from error
        if not (inspect.isclass(found) and issubclass(found, Pass)):
            raise PipelineError(
                f"{self.module}:{self.attribute} is not a Pass class",
                where="registry",
                help=f"{self.owner} is at fault",
            )
        found.name = self.name
        found.family = self.family
        return found


@cache  # a pipeline names some passes several times
def _only_pass(module: Any) -> type[Pass]:
    names: list[str] = dir(module)
    members: list[Any] = [getattr(module, n) for n in names]
    found = [
        c
        for c in members
        if inspect.isclass(c) and issubclass(c, Pass) and c.__module__ == module.__name__ and c.__name__[0] != "_"
    ]
    if len(found) != 1:
        raise TypeError(f"{module.__name__} holds {len(found)} public pass classes, expected 1")
    return found[0]


@cache
def entries() -> dict[str, Entry]:
    """All passes by name, ours first, then plugins; sorted within each. Raises ``PipelineError`` for a clash."""
    found: dict[str, Entry] = {}
    here = Path(__file__).parent
    for file in sorted(here.glob("*/*.py")):
        family = file.parent.name
        if family in _NOT_FAMILIES or file.stem.startswith("_"):
            continue
        name = file.stem.replace("_", "-")
        module = f"{__package__}.{family}.{file.stem}"
        _add(found, Entry(name, family, "planish", module, None))
    for entry in _plugins():
        _add(found, entry)
    return found


def _plugins() -> list[Entry]:
    from importlib.metadata import entry_points

    plugins: list[Entry] = []
    for point in entry_points(group=ENTRY_POINTS):
        owner = point.dist.name if point.dist is not None else point.module
        plugins.append(Entry(point.name, "plugin", owner, point.module, point.attr))
    return sorted(plugins, key=lambda e: (e.owner, e.name))


def _add(found: dict[str, Entry], entry: Entry) -> None:
    before = found.get(entry.name)
    if before is not None:
        raise PipelineError(
            f"two passes are named {entry.name}: one of {before.owner} ({before.module}), "
            f"one of {entry.owner} ({entry.module})",
            where="registry",
            help="uninstall one of the two packages, or have one rename its pass",
        )
    found[entry.name] = entry


def find(name: str) -> type[Pass] | str:
    """The pass class, or the text of a named pipeline. An unknown name is answered with the nearest three."""
    text = PIPELINES.get(name)
    if text is not None:
        return text
    entry = entries().get(name)
    if entry is None:
        near = difflib.get_close_matches(name, [*entries(), *PIPELINES], 3, 0.4)
        hint = f"did you mean {', '.join(near)}?" if near else "`planish passes` lists them"
        raise PipelineError(f"there is no pass or pipeline {name!r}", where="pipeline", help=hint)
    return entry.load()
