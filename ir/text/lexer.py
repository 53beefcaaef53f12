"""Tokens of the textual form, and errors that show where in the text they are.

A token is one of: ``ident`` (``Conv``, ``com.microsoft``, ``_``), ``value`` (``%x``, ``%"odd name"``),
``at`` (``@main``), ``hash`` (``#1f..``), ``number`` (unsigned), ``nan`` (``nan:0x7fc00001``), ``string``,
``bytes``, ``quoted`` (a symbol in single quotes), ``punct``, ``end``. ``//`` starts a comment that ends
with its line; the one behind a statement is kept in ``note``, because it may name the node.
"""

from __future__ import annotations

import re

from ..errors import TextError
from ..types import TensorType
from .literals import unquote

MAX_DEPTH = 64
"""How deep graphs, types, dimensions and lists may nest."""
MAX_NUMBER = 400
"""Characters of the longest number (float64 needs 24; an integer of more digits fits no element type)."""

_STRING = r'"(?:[^"\\\n]|\\.)*"'
_TOKEN = re.compile(
    r"\s*(?:"
    rf"(?P<value>%(?:[A-Za-z0-9_.]+|{_STRING}))"
    r"|(?P<comment>//[^\n]*)"
    r"|(?P<punct>->|::|[()\[\]{}<>=:,*+?|-])"
    r"|(?P<nan>nan:0x[0-9a-fA-F]+)"
    rf"|(?P<bytes>b{_STRING})"
    r"|(?P<ident>[^\W\d][\w.]*)"
    r"|(?P<number>[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?)"
    rf"|(?P<string>{_STRING})"
    rf"|(?P<at>@(?:[A-Za-z0-9_.]+|{_STRING}))"
    r"|(?P<hash>#[0-9a-f]+)"
    r"|(?P<quoted>'(?:[^'\\\n]|\\.)*')"
    r"|(?P<end>\Z)"
    r")"
)
_NAMES = {"ident": "the word", "at": "the name", "string": "the string", "hash": "the hash"}


class Lexer:
    """Walks over ``text``; ``kind`` and ``token`` are what comes next."""

    __slots__ = ("depth", "end", "kind", "note", "prev_end", "start", "text", "token", "types")

    def __init__(self, text: str, start: int = 0) -> None:
        self.text = text
        self.end = start
        self.depth = 0
        self.token = ""
        self.types: dict[str, TensorType] = {}
        """Types seen, by their text: lines repeat a few of them."""
        self.advance()

    def advance(self) -> str:
        """Goes to the next token and returns the one that was left."""
        left = self.token
        at = self.prev_end = self.end
        self.note: str | None = None
        """The comment behind the token just left, on its line."""
        while True:
            m = _TOKEN.match(self.text, at)
            if m is None:
                raise self._bad_character(at)
            kind = m.lastgroup
            assert kind is not None
            if kind != "comment":
                break
            start = m.start("comment")
            if self.note is None and "\n" not in self.text[at:start]:
                self.note = m["comment"]
            at = m.end()
        self.kind: str = kind
        self.token: str = m[kind]
        self.start: int = m.start(kind)
        self.end: int = m.end()
        if kind == "number" and len(self.token) > MAX_NUMBER:
            raise self.error(f"a number of at most {MAX_NUMBER} characters", f"one of {len(self.token)}")
        return left

    def seek(self, at: int) -> None:
        """Goes to the token that starts at or behind ``at``."""
        self.end = at
        self.advance()

    def at_punct(self, mark: str) -> bool:
        return self.token == mark and self.kind == "punct"

    def at_word(self, text: str) -> bool:
        return self.token == text and self.kind == "ident"

    def take(self, mark: str) -> bool:
        """Steps over ``mark`` where it comes next."""
        if self.token == mark and self.kind == "punct":
            self.advance()
            return True
        return False

    def take_word(self, text: str) -> bool:
        """Steps over the word ``text`` where it comes next."""
        if self.token == text and self.kind == "ident":
            self.advance()
            return True
        return False

    def expect(self, mark: str, what: str = "") -> None:
        """Steps over ``mark``. Raises ``TextError`` when something else comes."""
        if self.token != mark or self.kind != "punct":
            raise self.error(what or f"{mark!r}")
        self.advance()

    def expect_kind(self, kind: str, what: str) -> str:
        """Steps over a token of the kind and returns it."""
        if self.kind != kind:
            raise self.error(what)
        return self.advance()

    def string(self, what: str = "a string in double quotes") -> str:
        """Steps over a string and returns its contents."""
        if self.kind != "string":
            raise self.error(what)
        text = self.unquoted(self.token)
        self.advance()
        return text

    def unquoted(self, token: str) -> str:
        """The contents of a quoted token, which is the current one."""
        try:
            return unquote(token)
        except (ValueError, OverflowError) as error:
            raise self.error('escapes \\\\ \\" \\n \\t \\r \\0 \\xHH \\uHHHH \\UHHHHHHHH', str(error)) from None

    def sigiled(self, kind: str, what: str) -> str:
        """Steps over ``%name`` or ``@name`` and returns the name."""
        if self.kind != kind:
            raise self.error(what)
        name = self.token[1:]
        if name[0] == '"':
            name = self.unquoted(name)
        self.advance()
        return name

    def word(self, what: str) -> str:
        """Steps over an identifier or a quoted name."""
        if self.kind == "ident":
            return self.advance()
        return self.string(what)

    def integer(self, what: str = "an integer") -> int:
        """Steps over an integer that may have a sign."""
        at = self.start
        negative = self.take("-")
        if self.kind != "number" or not self.token.isdigit():
            raise self.error(what)
        value = int(self.token)
        if value >= 1 << 64:
            raise self.error("an integer of at most 64 bits", pos=at)
        self.advance()
        return -value if negative else value

    def number(self, what: str = "a number") -> str:
        """Steps over a number, ``inf``, ``nan`` or ``nan:0x...`` and returns its text."""
        sign = "-" if self.take("-") else ""
        if self.kind in ("number", "nan") or (self.kind == "ident" and self.token in ("inf", "nan")):
            if sign and self.token.startswith("nan"):
                raise self.error("a not-a-number without a sign (its bits say it: nan:0xffc00000)")
            return sign + self.advance()
        raise self.error(what)

    def enter(self) -> None:
        """One level deeper. Raises ``TextError`` beyond ``MAX_DEPTH``; pair with :meth:`leave`."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.error(f"nesting of at most {MAX_DEPTH} levels", "a deeper one")

    def leave(self) -> None:
        self.depth -= 1

    # -- errors

    def found(self) -> str:
        """The current token for a message."""
        if self.kind == "end":
            return "the end of the text"
        text = self.token if len(self.token) <= 40 else self.token[:37] + "..."
        return f"{_NAMES[self.kind]} {text}" if self.kind in _NAMES else repr(text)

    def error(
        self, expected: str, found: str | None = None, pos: int | None = None, help: str | None = None
    ) -> TextError:
        """The error that at ``pos`` (default: the current token) something else stands than ``expected``."""
        message = f"found {self.found() if found is None else found}, expected {expected}"
        return self.fault(message, self.start if pos is None else pos, help)

    def fault(self, message: str, pos: int, help: str | None = None) -> TextError:
        """An error with the line around ``pos`` and a caret under it."""
        line = self.text.count("\n", 0, pos) + 1
        start = self.text.rfind("\n", 0, pos) + 1
        stop = self.text.find("\n", pos)
        whole = self.text[start : len(self.text) if stop < 0 else min(stop, pos + 200)].rstrip("\r")
        column = pos - start
        cut = max(0, column - 80)
        shown = ("..." if cut else "") + whole[cut : cut + 140].replace("\t", " ")
        caret = " " * (8 + column - cut + (3 if cut else 0)) + "^"
        return TextError(
            f"line {line}, column {column + 1}: {message}", where="text", at=f"{shown}\n{caret}", help=help
        )

    def _bad_character(self, at: int) -> TextError:
        while at < len(self.text) and self.text[at].isspace():
            at += 1
        self.start = at
        char = self.text[at]
        if char in "\"'" or self.text[at : at + 2] in ('%"', '@"', 'b"'):
            return self.fault("found a string that does not end on its line, expected a closing quote", at)
        return self.fault(f"found the character {char!r}, expected a token", at)
