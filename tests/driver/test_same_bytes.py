"""The same command gives the same bytes in two processes with different hash seeds: models, manifests, reproducers."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from planish.ir.onnx_writer import write_model

from .networks import classifier, embedder

pytestmark = pytest.mark.slow

BREAK = """
import sys
from planish.cli import entry
from planish.passes.rewrite import rewriter
from planish.passes.clean.remove_identity import RemoveIdentity

def run(self, model, r):
    node = next(iter(model.graph))
    r.replace(node, [r.const(__import__("numpy").zeros(1, "float32"))])

RemoveIdentity.run = run
sys.exit(entry.run(sys.argv[1:]))
"""


def planish(folder: Path, hash_seed: int, *words: str, code: str = "") -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(p or os.getcwd() for p in sys.path)
    env = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": paths}
    start = ["-c", code] if code else ["-m", "planish"]
    return subprocess.run([sys.executable, *start, *words], cwd=folder, env=env, capture_output=True, text=True)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What the commands leave in two folders of the same name."""
    made: list[Path] = []
    for hash_seed in (1, 77):
        folder = tmp_path_factory.mktemp(f"seed{hash_seed}") / "work"
        folder.mkdir()
        write_model(classifier(), folder / "a.onnx")
        write_model(embedder(), folder / "b.onnx")
        done = planish(folder, hash_seed, "optimize", "b.onnx", "-o", "b.small.onnx", "--no-measure")
        assert done.returncode == 0, done.stderr
        done = planish(
            folder, hash_seed, "compile", "a.onnx", "-o", "artifact", "--no-measure", "--validate", "structure"
        )
        assert done.returncode == 0, done.stderr
        words = ("optimize", "a.onnx", "-o", "x.onnx", "-p", "remove-identity", "--no-measure", "--repro-dir", "repro")
        done = planish(folder, hash_seed, *words, code=BREAK)
        assert done.returncode == 1, done.stdout + done.stderr
        made.append(folder)
    return made


def test_all_files_are_the_same(folders: list[Path]) -> None:
    first, second = map(digests, folders)
    assert first == second
    assert "b.small.onnx" in first
    assert any(name.startswith("artifact") for name in first)


def test_the_manifest_locks_versions_options_and_hashes(folders: list[Path]) -> None:
    (path,) = (folders[0] / "artifact").glob("*.json")
    manifest = json.loads(path.read_text())
    text = json.dumps(manifest)
    assert hashlib.sha256((folders[0] / "a.onnx").read_bytes()).hexdigest() in text
    (model,) = (folders[0] / "artifact").glob("*.onnx")
    assert hashlib.sha256(model.read_bytes()).hexdigest() in text
    assert {"planish", "onnx", "onnxruntime", "numpy"} <= set(manifest["versions"])
    assert manifest["pipeline"]
    assert manifest["target"]


def test_the_reproducer_holds_model_pipeline_and_versions(folders: list[Path]) -> None:
    (repro,) = (folders[0] / "repro").glob("*.ir")
    text = repro.read_text()
    for part in ("// pipeline: remove-identity", "// versions: planish", "// seed:", "// error:", "graph @"):
        assert part in text
    replayed = planish(folders[0], 1, "run", str(repro))
    assert replayed.returncode in (0, 1), replayed.stderr
    assert "remove-identity" in replayed.stdout
