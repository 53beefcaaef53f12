"""The lists of pyproject.toml and constraints.txt are complete, and a wheel works without the checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
NOT_PACKAGES = {"tests", "benchmarks", "scripts", "docs", "build", "dist", "shared"}
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES: list[str] = PYPROJECT["tool"]["setuptools"]["packages"]
DATA = ("*.json", "*.md", "*.hpp", "*.cc")


def packages_on_disk() -> list[str]:
    found: list[str] = []
    for folder, below, files in os.walk(ROOT):
        parts = Path(folder).relative_to(ROOT).parts
        # A folder without __init__.py is none, nor is anything under it: that leaves out virtual environments too.
        below[:] = [name for name in below if name[0] != "." and (parts or name not in NOT_PACKAGES)]
        if "__init__.py" in files:
            found.append(".".join(("planish", *parts)))
        else:
            below.clear()
    return sorted(found)


def test_pyproject_lists_every_package() -> None:
    on_disk = packages_on_disk()
    assert sorted(PACKAGES) == on_disk, f"[tool.setuptools] wants packages = {on_disk}".replace("'", '"')


def test_version_is_written_once_more_in_the_package_and_is_the_same() -> None:
    assert f'__version__ = "{PYPROJECT["project"]["version"]}"' in (ROOT / "__init__.py").read_text(encoding="utf-8")


def pins(file: str) -> set[str]:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return {canonicalize_name(line.split("==")[0]) for line in lines if re.fullmatch(r"[\w.-]+==[\w.]+", line)}


def test_constraints_pin_everything_that_is_installed() -> None:
    project = PYPROJECT["project"]
    queue = [text for part in (project["dependencies"], *project["optional-dependencies"].values()) for text in part]
    needed: set[str] = set()
    while queue:
        requirement = Requirement(queue.pop())
        name = canonicalize_name(requirement.name)
        if name == "planish" or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        if name not in needed:
            needed.add(name)
            # What is not installed here (an extra left out) counts by itself, without what it needs in turn.
            queue += metadata.requires(name) or [] if is_installed(name) else []
    assert needed - pins("constraints.txt") == set()


def is_installed(name: str) -> bool:
    return next(iter(metadata.distributions(name=name)), None) is not None


def test_zoo_packages_are_pinned_alike_in_both_files() -> None:
    lines = (ROOT / "requirements-zoo.txt").read_text(encoding="utf-8").splitlines()
    zoo = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines if not line.startswith("#")}
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8").lower()
    assert all(f"{name}=={version}\n" in text.replace("_", "-") for name, version in zoo.items())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a copy of the listed packages: old build folders of the checkout must not leak into it."""
    scratch = tmp_path_factory.mktemp("wheel")
    source = scratch / "source"
    source.mkdir()
    for package in PACKAGES:
        folder = Path(*package.split(".")[1:])
        (source / folder).mkdir(parents=True, exist_ok=True)
        for file in (ROOT / folder).iterdir():
            if file.is_file():
                shutil.copy(file, source / folder / file.name)
    (source / "tests").mkdir()
    (source / "tests" / "test_not_for_the_wheel.py").touch()
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(scratch), str(source)]
    subprocess.run([sys.executable, "-P", "-m", "pip", *build], check=True, timeout=300)
    (built,) = scratch.glob("*.whl")
    return built


def test_wheel_holds_the_packages_and_their_data_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = [file for package in PACKAGES for file in ROOT.joinpath(*package.split(".")[1:]).glob("*.py")]
    # Data is looked for in every folder: what lies in one that is no package would be missing from the wheel.
    parts = {package.split(".")[1] for package in PACKAGES if "." in package}
    files += [file for part in parts for kind in DATA for file in (ROOT / part).rglob(kind)]
    expected = {f"planish/{file.relative_to(ROOT).as_posix()}" for file in [*files, ROOT / "py.typed"]}
    assert names == expected


def test_wheel_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    install = ["install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, "-P", "-m", "pip", "--python", str(python), *install], check=True, timeout=300)
    # The dependencies are this environment's: a path line gives their folder, but not the .pth files in it, through
    # which an editable install would give the checkout.
    (site_packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")

    def run(*command: str) -> str:
        environment = {"PATH": os.defpath, "HOME": str(tmp_path)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert PYPROJECT["project"]["version"] in run(str(python.with_name("planish")), "--version")
    imports = f"import {', '.join(PACKAGES)}; print(planish.__file__)"
    assert Path(run(str(python), "-c", imports).strip()).is_relative_to(site_packages)
