"""The clean pipeline on every model of onnx's backend tests, and on those models with inputs made constant."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Where float16 chains are folded, each step is rounded, while ONNX Runtime keeps float32 between its casts.
HALVES = "attention_4d_causal_fp16_expanded"


@pytest.mark.parametrize(
    ("share", "freeze"),
    [
        ("2/24", "0"),
        *(pytest.param("1/1", freeze, marks=pytest.mark.slow) for freeze in (None, "1", "0")),
    ],
)
def test_clean_keeps_what_the_corpus_computes(share: str, freeze: str | None) -> None:
    command = [sys.executable, "-P", str(ROOT / "scripts" / "corpus.py"), "--pipeline", "clean", "--share", share]
    if freeze is not None:
        command += ["--freeze", freeze]
    ran = subprocess.run(command, capture_output=True, text=True)
    failures = [line for line in ran.stdout.splitlines() if ": " in line and "/" in line.split(":")[0]]
    assert [line for line in failures if HALVES not in line] == [], ran.stdout
    assert "node" in ran.stdout, ran.stderr
