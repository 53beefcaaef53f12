"""``planish plan``: CSV in, CSV with offsets out; every wrong file gets a message that names the line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from planish.cli import run
from planish.driver.memory.buffers import plan
from planish.ir.errors import ReadError, UsageError

INSTANCE = Path(__file__).parent / "minimalloc" / "C.1048576.csv"


def test_an_instance_is_planned_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.csv"
    assert run(["plan", str(INSTANCE), "--capacity", "1MiB", "-o", str(out)]) == 0
    assert "203 buffers in 1,0" in capsys.readouterr().out
    with INSTANCE.open() as before, out.open() as after:
        for row, placed in zip(csv.DictReader(before), csv.DictReader(after), strict=True):
            assert {**row, "offset": placed["offset"]} == placed
            assert 0 <= int(placed["offset"]) <= 1_048_576 - int(row["size"])


def test_what_does_not_fit_is_not_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.csv"
    assert run(["plan", str(INSTANCE), "--capacity", "1000000", "-o", str(out), "--json"]) == 1
    assert not out.exists()
    shown = json.loads(capsys.readouterr().out)
    assert not shown["fits"]
    assert shown["bound_bytes"] == 1_039_360 <= shown["height_bytes"]


def test_other_columns_stay_and_old_offsets_go(tmp_path: Path) -> None:
    file = tmp_path / "in.csv"
    file.write_text("name, id,upper,lower,size,offset,alignment\nx,a,4,0,10,7,\ny,b,5,3,6,7,8\n")
    found = plan(file)
    assert found.placement.height == found.placement.bound == 16 or found.placement.offsets == [8, 0]
    assert found.csv().splitlines()[0] == "name,id,upper,lower,size,alignment,offset"
    assert found.csv().splitlines()[1].startswith("x,a,4,0,10,,")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no column id, lower, upper, size"),
        ("id,lower,size\n1,2,3\n", "no column upper"),
        ("id,lower,upper,size,size\n", "a column twice"),
        ("id,lower,upper,size\n1,2,3\n", "in.csv:2"),
        ("id,lower,upper,size\n1,2,3,4,5\n", "in.csv:2"),
        ("id,lower,upper,size\n1,2,three,4\n", "upper of buffer '1' is 'three'"),
        ("id,lower,upper,size\n1,2,3,1e9\n", "size of buffer '1' is '1e9'"),
        ("id,lower,upper,size\n1,2,3,99999999999999999999\n", "an integer below 2^56"),
        ("id,lower,upper,size\n1,5,3,4\n", "ends at 3, before it begins at 5"),
        ("id,lower,upper,size\n1,2,3,-4\n", "has -4 bytes"),
        ("id,lower,upper,size\n1,2,3,4\n1,2,3,4\n", "is there twice"),
        ("id,lower,upper,size,alignment\n1,2,3,4,0\n", "is aligned to 0 bytes"),
        ("id,lower,upper,size\n1,2,3,\xff\n", "cannot read"),
    ],
)
def test_wrong_files_get_a_message(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "in.csv"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ReadError) as caught:
        plan(file)
    assert words in str(caught.value)


def test_wrong_arguments_get_a_message(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="cannot read"):
        plan(tmp_path / "missing.csv")
    with pytest.raises(UsageError, match="capacity"):
        plan(INSTANCE, 0)
    with pytest.raises(UsageError, match="does not exist"):
        plan(INSTANCE, output=tmp_path / "no" / "out.csv")
    assert plan(INSTANCE, nodes=0).placement.nodes == 0


def test_no_buffers_take_no_bytes(tmp_path: Path) -> None:
    file = tmp_path / "in.csv"
    file.write_text("id,lower,upper,size\n")
    assert plan(file).placement.height == 0
    file.write_text("id,lower,upper,size\na,3,3,10\nb,0,9,0\n")
    assert plan(file).placement.height == 0
