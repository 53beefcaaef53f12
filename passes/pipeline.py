"""Pipelines as text that parses and prints back.

pipeline := item ("," item)*
item     := name [ "{" option=value,... "}" ]        a pass, or the name of a pipeline, which expands
          | "(" pipeline ")"                         rewrite passes run together: one worklist, all rules
          | "(" pipeline ")*"                        repeated until nothing changes, at most REPEAT_LIMIT times

clean,fuse-activation{erf=true},(fold-constants,remove-identity)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..ir.errors import PipelineError
from .core import Pass, RewritePass, parse_option, pass_name

REPEAT_LIMIT = 8
_DEPTH_LIMIT = 32
_TOKEN = re.compile(r'\s*(?:([+-]?[\w.][\w.+-]*)|(\)\*)|([(){}\[\],=])|("(?:[^"\\]|\\.)*"))')


@dataclass
class Together:
    """Rewrite passes whose rules share one worklist."""

    passes: list[RewritePass]

    def __str__(self) -> str:
        return "(" + ",".join(map(str, self.passes)) + ")"


@dataclass
class Repeat:
    """Steps repeated until none changes the model."""

    steps: list[Step]

    def __str__(self) -> str:
        return "(" + ",".join(map(str, self.steps)) + ")*"


Step: TypeAlias = Pass | Together | Repeat
Lookup: TypeAlias = Callable[[str], "type[Pass] | str"]
"""Name to pass class, or to the text of a named pipeline; raises ``PipelineError`` for an unknown name."""


def parse_pipeline(text: str, lookup: Lookup) -> list[Step]:
    """The steps that ``text`` names. Raises ``PipelineError`` with the position for anything malformed."""
    parser = _Parser(text, lookup)
    steps = parser.items(0, end=None)
    return steps


def pipeline_text(steps: list[Step]) -> str:
    """The text of ``steps``; parsing it gives equal steps."""
    return ",".join(map(str, steps))


def flatten(steps: list[Step]) -> Iterator[Pass]:
    """Every pass in the steps."""
    for step in steps:
        if isinstance(step, Together):
            yield from step.passes
        elif isinstance(step, Repeat):
            yield from flatten(step.steps)
        else:
            yield step


class _Parser:
    def __init__(self, text: str, lookup: Lookup, depth: int = 0) -> None:
        self.text, self.lookup, self.depth = text, lookup, depth
        self.tokens: list[tuple[str, int]] = []
        position = 0
        while position < len(text.rstrip()):
            found = _TOKEN.match(text, position)
            if found is None:
                raise self._error(f"unexpected {text[position:].strip()[:1]!r}", position)
            self.tokens.append(
                (found.group().strip(), found.start() + len(found.group()) - len(found.group().lstrip()))
            )
            position = found.end()
        self.i = 0

    def _error(self, what: str, position: int | None = None) -> PipelineError:
        if position is None:
            position = self.tokens[self.i][1] if self.i < len(self.tokens) else len(self.text)
        return PipelineError(
            f"{what} at column {position + 1}",
            where="pipeline",
            at=self.text,
            help="for example: clean,(fold-constants,remove-identity)",
        )

    def _peek(self) -> str | None:
        return self.tokens[self.i][0] if self.i < len(self.tokens) else None

    def _next(self) -> str:
        token = self._peek()
        if token is None:
            raise self._error("the pipeline ends early")
        self.i += 1
        return token

    def _expect(self, token: str) -> None:
        if self._peek() != token:
            raise self._error(f"expected {token!r}, found {self._peek() or 'the end'!r}")
        self.i += 1

    def items(self, depth: int, end: str | None) -> list[Step]:
        steps: list[Step] = []
        if self._peek() is None and end is None:
            return steps
        while True:
            steps.extend(self._item(depth))
            token = self._peek()
            if token == ",":
                self.i += 1
                continue
            if token is None and end is None:
                return steps
            if end is not None and token in (")", ")*"):
                return steps
            raise self._error(f"expected ',' or {end or 'the end'!r}, found {token or 'the end'!r}")

    def _item(self, depth: int) -> list[Step]:
        if depth + self.depth > _DEPTH_LIMIT:
            raise self._error(f"pipelines nested more than {_DEPTH_LIMIT} deep")
        token = self._next()
        if token == "(":
            return [self._group(depth)]
        if not re.fullmatch(r"[A-Za-z_][\w.-]*", token):
            self.i -= 1
            raise self._error(f"expected the name of a pass, found {token!r}")
        options = self._options() if self._peek() == "{" else {}
        found = self.lookup(token)
        if isinstance(found, str):
            if options:
                raise self._error(f"{token} is a pipeline and takes no options")
            return _Parser(found, self.lookup, self.depth + depth + 1).items(0, end=None)
        return [found(**dict(parse_option(found, k, v) for k, v in options.items()))]

    def _group(self, depth: int) -> Step:
        steps = self.items(depth + 1, end=")")
        if self._next() == ")*":
            return Repeat(steps)
        passes: list[RewritePass] = []
        for step in steps:
            if isinstance(step, Together):
                passes.extend(step.passes)
            elif isinstance(step, RewritePass):
                passes.append(step)
            else:
                name = pass_name(type(step)) if isinstance(step, Pass) else str(step)
                raise PipelineError(
                    f"{name} cannot run together with others, it is not made of rules",
                    where="pipeline",
                    at=self.text,
                    help="take it out of the parentheses",
                )
        return Together(passes)

    def _options(self) -> dict[str, Any]:
        self._expect("{")
        options: dict[str, Any] = {}
        while self._peek() != "}":
            name = self._next()
            self._expect("=")
            options[name] = self._value()
            if self._peek() == ",":
                self.i += 1
        self._expect("}")
        return options

    def _value(self) -> Any:
        token = self._next()
        if token == "[":
            values: list[Any] = []
            while self._peek() != "]":
                values.append(self._value())
                if self._peek() == ",":
                    self.i += 1
            self._expect("]")
            return values
        if token.startswith('"'):
            return re.sub(r"\\(.)", r"\1", token[1:-1])
        if token in "(){},=])*":
            self.i -= 1
            raise self._error(f"expected a value, found {token!r}")
        return token
