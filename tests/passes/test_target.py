"""Targets by name, and the one that fits this machine."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from planish.ir.errors import UsageError
from planish.passes import target
from planish.passes.target import BOARDS, PROCESSORS, TARGETS, get_target, native


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", "sse4_2", "x86-64-v2"),
        ("x86_64", "sse4_2 avx2 fma", "x86-64-v3"),
        ("x86_64", "avx2 fma avx512f avx512bw avx512vl", "x86-64-v4"),
        ("x86_64", "avx2 fma avx512f avx512bw avx512vl avx512_vnni", "x86-64-v4-vnni"),
        ("aarch64", "asimd", "aarch64"),
        ("aarch64", "asimd asimddp", "aarch64-dotprod"),
        ("aarch64", "asimd asimddp i8mm", "aarch64-i8mm"),
        ("riscv64", "", "generic"),
    ],
)
def test_native_follows_the_processor(machine: str, flags: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(target, "cpu_flags", lambda: set(flags.split()))
    assert native() == expected
    assert get_target("native").name == expected


def test_flags_are_read_from_the_first_processor(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nflags\t\t: sse4_2 avx2 fma\n\nprocessor\t: 1\nflags\t\t: other\n")
    assert target.cpu_flags(info) == {"sse4_2", "avx2", "fma"}
    assert target.cpu_flags(tmp_path / "missing") == set()


def test_an_unknown_target_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="x86-64-v3"):
        get_target("x86-64v3")


def test_generic_promises_nothing_beyond_the_standard() -> None:
    generic = TARGETS["generic"]
    assert not generic.contrib
    assert generic.newest_opset == 0


@pytest.mark.parametrize(("board", "processor"), BOARDS.items())
def test_boards_are_names_of_processors(board: str, processor: str) -> None:
    assert get_target(board) is PROCESSORS[processor]
    assert board in get_target(board).description


def test_compiled_targets_say_what_a_compiler_needs() -> None:
    for t in [*TARGETS.values(), *PROCESSORS.values()]:
        if t.arch in ("any", "cuda"):
            assert not t.emulated
            continue
        assert t.mcpu, t.name
        assert t.triple.split("-")[0] == t.arch, t.name
        assert bool(t.emulated) == (t.arch != "x86_64"), t.name


def test_features_and_compiler_options_agree() -> None:
    """What a pass believes of a processor, the compiler is told too, where the name does not imply it."""
    for t in TARGETS.values():
        for feature, attribute in (("dotprod", "+dotprod"), ("i8mm", "+i8mm"), ("vnni", "+avx512vnni")):
            if t.mcpu:
                assert (feature in t.features) == (attribute in t.mattr), t.name
