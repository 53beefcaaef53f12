"""The command line: what goes where, exit codes, and no traceback for anything foreseeable."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from planish import cli
from planish.driver import optimize as optimize_module
from planish.ir.builder import Builder
from planish.ir.dtypes import DType
from planish.ir.errors import NotEquivalentError
from planish.ir.onnx_writer import write_model
from planish.passes.target import EXPORT_TARGETS, FIRMWARE_TARGETS, PROCESSORS, TARGETS, get_target

from .networks import array, classifier, images

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(classifier(), tmp_path / "m.onnx")
    np.savez(tmp_path / "s.npz", x=images())
    return tmp_path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        code = cli.run([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def optimize(folder: Path, *more: object) -> list[object]:
    base = ["optimize", folder / "m.onnx", "-s", folder / "s.npz", "-o", folder / "o.onnx", "--no-measure"]
    return [*base, "-p", "remove-identity,fold-batchnorm", *more]


def test_optimize_writes_and_reports(folder: Path, run: Run) -> None:
    code, out, err = run(*optimize(folder))
    assert (code, err) == (0, "")
    assert (folder / "o.onnx").exists()
    assert "validated: equivalent on 3 samples (s.npz)" in out
    assert "\x1b" not in out


def test_json_is_all_that_stdout_carries(folder: Path, run: Run) -> None:
    code, out, _ = run(*optimize(folder, "--json"))
    plain = json.loads(out)
    assert code == 0
    assert plain["written"] is True
    assert plain["validation"]["method"] == "numeric"
    assert plain["after"]["nodes"] < plain["before"]["nodes"]


KEYS = {
    "optimize": "after before budget decision footprint measured notes passes pipeline reasons schema seconds session "
    "source target tuning validation versions written",
    "compile": "after before budget decision footprint manifest measured notes passes pipeline reasons schema seconds "
    "session source target tuning validation versions",
    "inspect": "activation_bytes constant_bytes constant_types flops flops_unknown functions inputs ir_version "
    "metadata nodes ops opsets outputs parameters problems producer schema source symbols untyped",
    "bisect": "file guilty lines pipeline ranges reproducer runs schema seconds",
    "fuzz": "found models nodes rejected rules schema seconds seed tallies",
    "check-pass": "contract found hits idle models name nodes passed rejected schema seconds seed tallies",
    "diff": "added changed equal interface ops removed same schema text",
    "bench": "clock comparisons names samples schema threads times",
    "passes": "passes pipelines schema",
    "targets": "schema targets",
    "explain": "changes name notes prepared raised rules schema",
    "validate": "because bound contract equivalent level method optimized_outputs origin outputs part problems ranges "
    "reference rewrites samples schema tolerance warnings",
}


@pytest.mark.parametrize("command", KEYS)
def test_json_keys_are_stable(folder: Path, run: Run, command: str) -> None:
    model = folder / "m.onnx"
    arguments: dict[str, list[object]] = {
        "optimize": optimize(folder),
        "compile": ["compile", model, "-o", folder / "artifact", "-p", "remove-identity", "--no-measure"],
        "inspect": ["inspect", model],
        "diff": ["diff", model, model],
        "bench": ["bench", model, "--seconds", "0.05"],
        "bisect": ["bisect", model, "-p", "remove-identity"],
        "fuzz": ["fuzz", "-p", "clean", "--models", "2"],
        "check-pass": ["check-pass", "merge-casts", "--models", "2"],
        "passes": ["passes"],
        "targets": ["targets"],
        "explain": ["explain", "fold-batchnorm", model],
        "validate": ["validate", model, model],
    }
    code, out, err = run(*arguments[command], "--json")
    assert (code, err) == (0, "")
    assert " ".join(sorted(json.loads(out))) == KEYS[command]


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (["-p", "no-such-pass"], 2, "no pass or pipeline"),
        (["-p", "fold-batchnorm{"], 2, "error["),
        (["-t", "z80"], 2, "no target"),
        (["--validate", "much"], 2, "each-pass"),
        (["--dim", "N"], 2, "NAME=SIZE"),
        (["--dim", "M=1"], 2, "no dimension named M"),
        (["-s", "missing.npz"], 2, "missing.npz"),
        (["-o", "missing/o.onnx"], 2, "missing does not exist"),
        (["-o", "/"], 2, "is a folder"),
        (["--fuel", "-1"], 2, "fuel"),
        (["--no-such-option"], 2, "no-such-option"),
    ],
)
def test_wrong_usage(folder: Path, run: Run, change: list[str], code: int, words: str) -> None:
    found, out, err = run(*optimize(folder, *change))
    assert found == code
    assert words in err
    assert "Traceback" not in err
    assert out == ""
    assert not (folder / "o.onnx").exists()


@pytest.mark.parametrize("content", [b"", b"garbage", b"<html>", None])
def test_not_a_model(folder: Path, run: Run, content: bytes | None) -> None:
    if content is None:
        (folder / "m.onnx").unlink()
    else:
        (folder / "m.onnx").write_bytes(content)
    code, _, err = run(*optimize(folder))
    assert code == 1
    assert err.startswith("error[read]: ")
    assert "Traceback" not in err


def test_errors_are_json_too(folder: Path, run: Run) -> None:
    code, out, err = run("inspect", folder / "s.npz", "--json")
    assert code == 1
    assert json.loads(out)["error"]["type"] == "ReadError"
    assert "error[read]" in err


def test_not_equivalent(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise NotEquivalentError("output y differs", where="validate")

    monkeypatch.setattr(optimize_module, "optimize", fails)
    code, _, err = run(*optimize(folder))
    assert code == 1
    assert "output y differs" in err


def test_structure_only_must_be_asked_for(folder: Path, run: Run) -> None:
    b = Builder(opsets={"": 21, "my.ops": 1})
    b.output(b.op("Mystery", b.Identity(b.input("x", DType.F32, (2,))), _domain="my.ops"), "y")
    write_model(b.model(), folder / "m.onnx")
    arguments = ["optimize", folder / "m.onnx", "-o", folder / "o.onnx", "-p", "remove-identity"]
    code, out, err = run(*arguments)
    assert code == 1
    assert "structure only because" in out
    assert "--validate structure" in err
    assert not (folder / "o.onnx").exists()
    code, out, err = run(*arguments, "--validate", "structure", "--no-measure")
    assert (code, err) == (0, "")
    assert (folder / "o.onnx").exists()


def test_internal_errors_ask_for_a_report(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise KeyError("planted")

    monkeypatch.setattr(optimize_module, "optimize", fails)
    code, _, err = run(*optimize(folder))
    assert code == 70
    assert "internal error: KeyError" in err
    assert "report" in err
    assert "Traceback" not in err
    code, _, err = run(*optimize(folder), "--traceback")
    assert "Traceback" in err


def test_interrupt_in_the_middle(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(optimize_module, "optimize", fails)
    code, out, err = run(*optimize(folder))
    assert (code, out) == (130, "")
    assert "interrupted" in err


def test_help_names_every_command() -> None:
    text = CliRunner().invoke(cli.app, ["--help"]).stdout
    for command in (
        "optimize",
        "validate",
        "inspect",
        "diff",
        "bench",
        "run",
        "passes",
        "targets",
        "explain",
        "new-pass",
    ):
        assert f"\n  {command} " in text


def test_targets_are_explained(run: Run) -> None:
    code, out, _ = run("targets", "rpi5")
    assert code == 0
    assert re.search(r"has dotprod +int8 products by sdot\n", out)
    assert re.search(r"compiled for +aarch64-linux-gnu cortex-a76\n", out)
    code, out, _ = run("targets")
    assert code == 0
    named = [line.split()[0] for line in out.splitlines() if line.startswith("  ")]
    known = [*TARGETS, *PROCESSORS, *EXPORT_TARGETS, *FIRMWARE_TARGETS]
    assert sorted(name for name in named if name in known) == sorted(known)
    features = {feature for name in known for feature in get_target(name).features}
    assert features <= set(named)
    assert run("targets", "rpi9")[0] == 2


def test_diff_and_explain(folder: Path, run: Run) -> None:
    run(*optimize(folder))
    code, out, _ = run("diff", folder / "m.onnx", folder / "o.onnx", "--exit-code")
    assert code == 1
    assert "BatchNormalization  1  0" in out
    code, out, _ = run("explain", "fold-batchnorm", folder / "o.onnx")
    assert code == 0
    assert "tried" in out
    assert run("explain", "no-rule-like-this", folder / "o.onnx")[0] == 2
    assert run("explain", "fold-batchnorm/Nothing", folder / "o.onnx")[0] == 2


def test_inspect_prints_the_text(folder: Path, run: Run) -> None:
    code, out, _ = run("inspect", folder / "m.onnx", "--text")
    assert code == 0
    assert "graph @" in out
    assert "BatchNormalization" in out


def test_print_after_change_goes_to_stderr(folder: Path, run: Run) -> None:
    _, out, err = run(*optimize(folder, "--print-after-change"))
    assert "// after remove-identity" in err
    assert "graph @" not in out


def test_run_refuses_what_is_no_reproducer(folder: Path, run: Run) -> None:
    (folder / "x.ir").write_text("graph @main() {}")
    assert run("run", folder / "x.ir")[0] == 2
    assert run("run", folder / "none.ir")[0] == 2


def test_new_pass_in_a_package_of_its_own_passes_its_tests(tmp_path: Path, run: Run) -> None:
    plugin = tmp_path / "plugin"
    code, out, _ = run("new-pass", "fuse-two-relus", "--plugin", plugin, "--json")
    assert code == 0
    assert len(json.loads(out)["files"]) == 4
    done = _python("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=plugin, path=plugin)
    assert done.returncode == 0, done.stdout
    assert run("new-pass", "fuse-two-relus", "--plugin", plugin)[0] == 2
    assert run("new-pass", "remove-identity", "--plugin", tmp_path / "other")[0] == 2
    assert run("new-pass", "Bad_Name", "--plugin", tmp_path / "other")[0] == 2


# -- real processes


def _environment(path: Path | None = None) -> dict[str, str]:
    import planish

    parents = [str(path)] if path else []
    found = next((p for p in sys.path if p and (Path(p) / "planish").is_dir()), None)
    if found is not None and Path(planish.__file__ or "").exists():
        parents.append(found)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*parents, os.environ.get("PYTHONPATH", "")])}


def _python(*arguments: object, cwd: Path | None = None, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=_environment(path))


def test_a_process_from_a_pipe(folder: Path) -> None:
    done = _python("-m", "planish", *optimize(folder))
    assert (done.returncode, done.stderr) == (0, "")
    assert "validated: equivalent" in done.stdout


def test_a_reader_that_leaves_is_no_error(folder: Path) -> None:
    command = f"{sys.executable} -P -m planish inspect {folder / 'm.onnx'} --text | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=_environment())
    assert "Traceback" not in done.stderr
    assert "Broken" not in done.stderr


def _listen_to_interrupts() -> None:
    # A shell starts its background jobs with the signal ignored, and what they start inherits that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_leaves_nothing_half_written(folder: Path) -> None:
    b = Builder()
    h = b.input("x", DType.F32, (1500, 1500))
    for seed in range(20):  # seconds of work
        h = b.MatMul(b.Identity(h), b.const(array(1500, 1500, seed=seed % 2)))
    b.output(h, "y")
    model, out = folder / "m.onnx", folder / "o.onnx"
    write_model(b.model(), model)
    out.write_bytes(b"old")
    before = sorted(p.name for p in folder.iterdir())
    command = [sys.executable, "-P", "-m", "planish", "optimize", model, "-o", out, "-p", "remove-identity"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(),
        preexec_fn=_listen_to_interrupts,
    )
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert sorted(p.name for p in folder.iterdir()) == before
    assert out.read_bytes() == b"old"


def test_import_is_cheap() -> None:
    code = (
        "import time, numpy; t = time.process_time(); import planish; planish.__version__;"
        "print(time.process_time() - t)"
    )
    done: Any = _python("-c", code)
    assert float(done.stdout) < 0.1, done.stdout
