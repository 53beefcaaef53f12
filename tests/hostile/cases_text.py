"""The textual form: ``planish run FILE.ir`` takes it from whoever sends a reproducer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .parts import SURVIVES, Case, raw

HEAD = "// pipeline: clean\n"


def _text(body: str | Callable[[], str]) -> Callable[[Path], Path]:
    return raw(lambda: (HEAD + (body if isinstance(body, str) else body())).encode(), "repro.ir")


def _lines(*lines: str, head: str = "%x: f32[2]", result: str = "%y") -> str:
    inner = "".join(f"  {line}\n" for line in lines)
    return f"graph @main({head}) {{\n{inner}  return {result}\n}}\n"


def _constant(t: str, value: str) -> str:
    return _lines(f"%c: {t} = const {value}", "%y = Identity(%x)", result="%y, %c")


def _dim(text: str) -> str:
    return _lines("%y = Neg(%x)", head=f"%x: f32[{text}]")


def _case(name: str, wrong: str, body: str | Callable[[], str], says: str) -> Case:
    return Case(name, wrong, _text(body), says, command="run")


CASES = [
    _case("text-noise", "bytes that are no text", "\x00\x01\x02\x7f", "line 2"),
    Case(
        "text-encoding", "another encoding than UTF-8", raw(b"\xff\xfe\x00", "repro.ir"), "cannot read", command="run"
    ),
    Case(
        "text-headless", "no header", raw(_lines("%y = Neg(%x)").encode(), "repro.ir"), "no reproducer", command="run"
    ),
    _case("text-cut", "cut off in a line", "graph @main(%x: f32[2]) {\n  %y = Ad", "line 3"),
    _case("text-string-open", "a string without an end", _lines('%y = Neg(%x) // "'), SURVIVES),
    _case("text-undefined", "a value that nothing defines", _lines("%y = Neg(%ghost)"), "%ghost is not defined"),
    _case("text-twice", "a value defined twice", _lines("%y = Neg(%x)", "%y = Abs(%x)"), "%y again"),
    _case(
        "text-nested-lists",
        "a million opening brackets",
        lambda: 'graph @main() extra {"a" = ' + "[" * 1_000_000,
        "nesting of at most",
    ),
    _case(
        "text-nested-types",
        "types within types",
        lambda: _lines("%y = Neg(%x)", head="%x: " + "seq<" * 100_000),
        "nesting of at most",
    ),
    _case(
        "text-nested-graphs",
        "bodies within bodies",
        lambda: _lines("%y = If(%x) {then_branch = graph @t() { " * 10_000),
        "nesting of at most",
    ),
    _case("text-nested-dims", "calls within calls", lambda: _dim("max(1," * 100_000), "nesting of at most"),
    _case("text-sum", "a sum of a million terms", lambda: _dim("+".join(["a"] * 1_000_000)), "a sum of at most"),
    _case(
        "text-product",
        "a product of a million factors",
        lambda: _dim("*".join(["a"] * 1_000_000)),
        "a product of at most",
    ),
    _case("text-extent", "an extent of 2^64", _dim(str(1 << 64)), "64 bits"),
    _case(
        "text-digits",
        "a number of a million digits",
        lambda: _constant("f32[1]", f"dense<[{'9' * 1_000_000}]>"),
        "a number of at most",
    ),
    _case("text-splat", "a constant of 2^70 elements", _constant("f32[1180591620717411303424]", "splat<1>"), "64 bits"),
    _case(
        "text-splat-product",
        "a constant of 2^80 elements",
        _constant("f32[1099511627776,1099511627776]", "splat<1>"),
        "at most 2.63-1 elements",
    ),
    _case(
        "text-splat-large",
        "a splat of 2^40 elements",
        _constant("f32[1099511627776]", "splat<1>"),
        "no sample could be made up",
    ),
    _case(
        "text-rand-large",
        "2^40 random numbers",
        _constant("f32[1099511627776]", "rand<7>"),
        "random constants of .* bytes",
    ),
    _case(
        "text-dense-short", "fewer elements than the type has", _constant("f32[3]", "dense<[1, 2]>"), "2 elements found"
    ),
    _case(
        "text-dense-long",
        "more elements than the type has",
        lambda: _constant("f32[3]", f"dense<[{'1, ' * 1_000_000}1]>"),
        "more than the 3 elements",
    ),
    _case(
        "text-sparse",
        "a sparse constant of a petabyte",
        _constant("f32[1125899906842624]", "sparse<dense<f32[1] [1]>, dense<i64[1] [0]>>"),
        "bytes when dense",
    ),
    _case(
        "text-digest",
        "a constant that is not there",
        _constant("f32[100]", "#00ff"),
        "the data of constant #00ff is missing",
    ),
    _case(
        "text-resource",
        "a resource that is not base64",
        _constant("f32[1]", "#00ff") + 'resources {\n  #00ff: "***"\n}\n',
        "the data of #00ff is damaged",
    ),
    _case(
        "text-resource-hash",
        "a resource of another content",
        _constant("f32[1]", "#00ff") + 'resources {\n  #00ff: "AAAAAA=="\n}\n',
        "the data of #00ff hashes to",
    ),
    _case("text-quoted", "quotes upon quotes", lambda: _lines("%y = Neg(%x) // " + '"' * 100_000), SURVIVES),
    _case(
        "text-note",
        "a comment that makes expressions backtrack",
        lambda: _lines('%y = Neg(%x) // "a" from ' + '"b" , ' * 20_000 + "!"),
        SURVIVES,
    ),
    _case("text-spaces", "ten megabytes of spaces", lambda: _lines("%y = Neg(%x)" + " " * 10_000_000), SURVIVES),
    _case(
        "text-results",
        "20,000 results",
        lambda: _lines(", ".join(f"%r{i}" for i in range(20_000)) + " = Split(%x)", result="%r0"),
        SURVIVES,
    ),
    Case(
        "text-random",
        "random constants of 4 GiB, from a few letters",
        raw(
            (
                "// pipeline: clean\ngraph @main(%x: f32[1]) {\n"
                + "".join(f"  %c{i}: f32[268435456] = const rand<{i}>\n" for i in range(4))
                + "  %y = Neg(%x)\n  return %y\n}\n"
            ).encode(),
            "repro.ir",
        ),
        "random constants of 2147483648 bytes up to %c1, the limit is 1073741824",
        command="run",
    ),
    _case(
        "text-opset",
        "version 0 of the operators",
        'model ir=10 opset {"" = 0} ' + _lines("%y = Neg(%x)"),
        "a version number from 1",
    ),
    _case(
        "text-recursion",
        "a function that calls itself",
        'model ir=10 opset {"" = 21, "f" = 1} '
        + _lines("%y = f::f(%x)")
        + "function @f::f(%a) -> (%b) {\n  %b = f::f(%a)\n  return %b\n}\n",
        "itself|circle|f::f",
    ),
    Case(
        "text-pipeline",
        "a pipeline that is none",
        raw(("// pipeline: clean,{{{\n" + _lines("%y = Neg(%x)")).encode(), "repro.ir"),
        "pipeline|pass",
        command="run",
    ),
    Case(
        "text-seed",
        "a seed that is no number",
        raw(("// pipeline: clean\n// seed: 1e999\n" + _lines("%y = Neg(%x)")).encode(), "repro.ir"),
        "seed",
        command="run",
    ),
    Case(
        "text-fuel",
        "fuel that is no number",
        raw(("// pipeline: clean\n// fuel: much\n" + _lines("%y = Neg(%x)")).encode(), "repro.ir"),
        "fuel",
        command="run",
    ),
]
