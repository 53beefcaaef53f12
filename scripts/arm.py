"""64-bit ARM programs on this machine, by QEMU's user emulation; from Debian's packages and PyPI alone, without root.

    scripts/arm prepare                     # emulator, arm64 system, cross compiler, TVM's runtime: what C++ needs
    scripts/arm prepare --python            # also Python's packages: numpy, onnxruntime, TVM's Python side
    scripts/arm run cortex-a72 PROGRAM ARGUMENT...     # an aarch64 program, on that processor
    scripts/arm run cortex-a72 build/arm/runner/run FOLDER INPUT.npy... -o PREFIX      # a model that planish built
    scripts/arm python cortex-a76 SCRIPT ARGUMENT...   # aarch64 Python (prepared with --python)
    scripts/arm prepare --riscv64           # also a C compiler and an emulator for 64-bit RISC-V
    scripts/arm run rv64 PROGRAM ARGUMENT...           # a riscv64 program
    scripts/arm env                         # what is there, as JSON

Everything is unpacked into build/arm (``--folder``), nothing is installed; a second call finds it done. Packages come
from the release that apt is configured for, in a state of our own: apt checks their signatures, pip the hashes of the
index; versions of wheels are those of constraints.txt. Exit status 3: this machine cannot prepare it (no apt, no
network); what a program under ``run`` died of comes back as its exit status, 128 and the signal.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "arm"
TRIPLE = "aarch64-linux-gnu"
UNAVAILABLE = 3

LOADER = [ROOT / "backends" / "tvm" / "loader" / name for name in ("planish_model.hpp", "planish_steps.hpp", "run.cc")]
RUNNER = LOADER[-1]

RISCV, RISCV_TRIPLE = "rv64", "riscv64-linux-gnu"
"""QEMU's name of such a processor."""
RISCV_COMPILER = (f"gcc-{RISCV_TRIPLE}", "libc6-dev-riscv64-cross")

EMULATOR = ("qemu-user-static",)
COMPILER = (f"g++-{TRIPLE}",)
SYSTEM = ("python3-minimal", "libpython3-stdlib", "libstdc++6", "libgomp1")
# Of what those depend on: this machine has its own libc; nobody here profiles or sanitizes, or installs packages.
LEFT_OUT = re.compile(r"(libc6|libgcc-s1|libstdc\+\+6|lib(a|t|l|ub|hwa)san\d.*|libitm1.*|gcc-\d+-base|dpkg|tar)$")
KEPT_IN_SYSTEM = ("libc6", "libgcc-s1", "libstdc++6")

WHEELS = ("onnxruntime", "numpy", "ml_dtypes", "protobuf", "flatbuffers", "packaging", "typing_extensions")
TVM_WHEELS = ("apache-tvm", "apache-tvm-ffi")
# The compiler is 240 of the wheel's 260 MB, and here it would only be emulated.
NOT_RUNTIME = re.compile(r"tvm/(lib/libtvm_(compiler|runtime_cuda)|include/|3rdparty/|src/|licenses/)|.*/testing/")

PROCESSORS = {
    "cortex-a53": ("0xd03", ""),
    "cortex-a72": ("0xd08", ""),
    "cortex-a76": ("0xd0b", "atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"),
    "neoverse-n1": ("0xd0c", "atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"),
    "max": ("0xd40", "atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp sve i8mm bf16"),
}
"""QEMU's models: the part number and the features that Linux reports beyond ``fp asimd evtstrm aes crc32``."""


class Unavailable(Exception):
    """This machine cannot have it, whatever planish does."""


def say(text: str) -> None:
    print(f"arm: {text}", file=sys.stderr, flush=True)


def call(command: Sequence[str | Path], failing: str, cwd: Path | None = None) -> str:
    """Output of a command; ``Unavailable`` with ``failing`` and its last words when it fails."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, cwd=cwd, check=False)
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise Unavailable(f"{failing}: {' / '.join(words)}")
    return done.stdout


class Apt:
    """apt with a state of its own, for this machine's architecture and arm64; nothing of the system is touched."""

    def __init__(self, state: Path) -> None:
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise Unavailable(
                "apt-get and dpkg-deb are missing: this needs Debian or Ubuntu (or a container of one, debian:12)"
            )
        self.state = state
        self.native = call(["dpkg", "--print-architecture"], "dpkg does not answer").strip()
        for folder in ("lists/partial", "archives/partial"):
            (state / folder).mkdir(parents=True, exist_ok=True)
        (state / "status").touch()

    def __call__(self, architecture: str, *words: str, failing: str, cwd: Path | None = None) -> str:
        options = {
            "APT::Architecture": architecture,
            "APT::Sandbox::User": "",
            "APT::Install-Recommends": "false",
            "APT::Update::Error-Mode": "any",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "Debug::NoLocking": "true",
            "Dir::State": self.state,
            "Dir::State::lists": self.state / "lists",
            "Dir::State::status": self.state / "status",
            "Dir::Cache": self.state,
        }
        both = dict.fromkeys((architecture, self.native, "arm64"))
        listed = [f"-oAPT::Architectures::={a}" for a in both] + [f"-o{k}={v}" for k, v in options.items()]
        return call(["apt-get", "-qq", "-y", "-oAPT::Architectures=", *listed, *words], failing, cwd)

    def update(self) -> None:
        self(self.native, "update", failing="apt-get update failed (is there a network?)")

    def closure(self, architecture: str, names: Sequence[str], keep: Sequence[str] = ()) -> dict[str, str]:
        """Versions of the packages and all they depend on, without what is left out."""
        wanted = self(architecture, "install", "--print-uris", *names, failing=f"no packages {' '.join(names)}")
        files = re.findall(r"^'\S+' (\S+)_(\S+)_\w+\.deb ", wanted, re.M)
        found = {name: version.replace("%3a", ":") for name, version in files}
        if not found:
            raise Unavailable(f"apt knows no way to install {' '.join(names)} for {architecture}")
        return {n: v for n, v in found.items() if n in keep or not LEFT_OUT.match(n)}

    def unpack(self, architecture: str, versions: dict[str, str], folder: Path, only: str = ".") -> None:
        """Downloads packages and unpacks them (or their files whose paths begin with ``only``) into ``folder``."""
        with tempfile.TemporaryDirectory(dir=self.state) as name:
            packages = [f"{n}={v}" for n, v in versions.items()]
            self(architecture, "download", *packages, failing="apt-get download failed", cwd=Path(name))
            for deb in sorted(Path(name).glob("*.deb")):
                with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as tar:
                    extract = ["tar", "-x", "-C", folder, "--no-same-owner", "--wildcards", f"{only}*"]
                    if subprocess.run(extract, stdin=tar.stdout, check=False).returncode:
                        raise Unavailable(f"{deb.name} cannot be unpacked into {folder}")


class Environment:
    """The folder with everything, part by part; each part is complete or not there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tools, self.system = folder / "tools", folder / "system"
        self.tvm, self.site, self.bin = folder / "tvm", folder / "site", folder / "bin"
        self.runner = folder / "runner"
        self.riscv = folder / "riscv64"
        self._apt: Apt | None = None

    def prepare(self, python: bool, riscv: bool) -> None:
        """Makes what is missing. Raises ``Unavailable``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with contextlib.ExitStack() as stack:
                self._state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="planish-apt-")))
                self._part(self.tools, f"{EMULATOR} {COMPILER}", self._make_tools)
                self._part(self.system, f"{SYSTEM}", self._make_system)
                self._part(self.tvm, pins(TVM_WHEELS), lambda to: self._unpack_wheels(TVM_WHEELS, to))
                self._part(self.runner, " ".join(path.read_text() for path in LOADER), self._make_runner)
                if riscv:
                    self._part(self.riscv, f"{EMULATOR} {RISCV_COMPILER}", self._make_riscv)
                if python:
                    self._part(self.site, pins(WHEELS), lambda to: self._unpack_wheels(WHEELS, to))
            self._apt = None

    def describe(self) -> dict[str, object]:
        """Paths and versions of what is there."""
        every = (self.tools, self.system, self.tvm, self.runner, self.site, self.riscv)
        parts = [p for p in every if (p / "complete.json").exists()]
        return {
            "folder": str(self.folder),
            "compilers": str(self.bin),
            "runner": str(self.runner / "run"),
            "tvm": str(self.tvm),
            "processors": list(PROCESSORS),
            "parts": {p.name: json.loads((p / "complete.json").read_text()) for p in parts},
        }

    def command(self, processor: str) -> list[str]:
        """What stands in front of a program to run it on a processor of that kind."""
        if processor == RISCV:
            return self._riscv_command()
        if processor not in PROCESSORS:
            raise SystemExit(f"arm: no processor {processor!r}; known: {', '.join((*PROCESSORS, RISCV))}")
        found = [p for p in (self.tools / "usr/bin").glob("qemu-aarch64*") if p.name in ("qemu-aarch64", _STATIC)]
        if not found or not self.system.exists():
            raise SystemExit("arm: nothing is prepared: `scripts/arm prepare`")
        libraries = f"LD_LIBRARY_PATH={self.tvm / 'tvm/lib'}:{self.tvm / 'tvm_ffi/lib'}"
        return [str(found[0]), "-cpu", processor, "-L", str(self._view(processor)), "-E", libraries]

    def _riscv_command(self) -> list[str]:
        found = [*(self.riscv / "usr/bin").glob("qemu-riscv64*")]
        if not found:
            raise SystemExit("arm: nothing is prepared: `scripts/arm prepare --riscv64`")
        return [str(found[0]), "-cpu", RISCV, "-L", str(self.riscv / "usr" / RISCV_TRIPLE)]

    def python(self) -> Path:
        """The emulated system's interpreter."""
        found = [p for p in (self.system / "usr/bin").glob("python3.*") if re.fullmatch(r"python3\.\d+", p.name)]
        if not found:
            raise SystemExit(f"arm: {self.system} holds no Python")
        return found[0]

    def _part(self, part: Path, recipe: str, make: Callable[[Path], dict[str, str]]) -> None:
        mark = part / "complete.json"
        key = hashlib.sha256((recipe + LEFT_OUT.pattern + NOT_RUNTIME.pattern).encode()).hexdigest()[:16]
        if mark.exists() and json.loads(mark.read_text())["recipe"] == key:
            return
        start = time.monotonic()
        say(f"preparing {part.name} ...")
        with tempfile.TemporaryDirectory(prefix=f"{part.name}-", dir=self.folder) as name:
            new = Path(name) / "new"
            new.mkdir()
            versions = make(new)
            (new / mark.name).write_text(json.dumps({"recipe": key, "versions": versions}, indent=1, sort_keys=True))
            shutil.rmtree(part, ignore_errors=True)
            new.rename(part)
        if part in (self.tools, self.riscv):
            self._write_compilers(part)
        say(f"{part.name}: {len(versions)} packages in {time.monotonic() - start:.0f} s")

    def _ready_apt(self) -> Apt:
        if self._apt is None:
            self._apt = Apt(self._state)
            self._apt.update()
        return self._apt

    def _make_tools(self, to: Path) -> dict[str, str]:
        apt = self._ready_apt()
        emulator = apt.closure(apt.native, EMULATOR)
        apt.unpack(apt.native, emulator, to, "./usr/bin/qemu-aarch64")
        compiler = apt.closure(apt.native, COMPILER)
        apt.unpack(apt.native, compiler, to)
        _mend_scripts(to / "usr" / TRIPLE / "lib")
        return emulator | compiler

    def _make_riscv(self, to: Path) -> dict[str, str]:
        apt = self._ready_apt()
        emulator = apt.closure(apt.native, EMULATOR)
        apt.unpack(apt.native, emulator, to, "./usr/bin/qemu-riscv64")
        compiler = apt.closure(apt.native, RISCV_COMPILER)
        apt.unpack(apt.native, compiler, to)
        _mend_scripts(to / "usr" / RISCV_TRIPLE / "lib")
        return emulator | compiler

    def _write_compilers(self, part: Path) -> None:
        """``bin/aarch64-linux-gnu-g++`` and the like, which find what belongs to them."""
        self.bin.mkdir(exist_ok=True)
        libraries = f'LD_LIBRARY_PATH="{part}/usr/lib/$(uname -m)-linux-gnu"'
        for tool in (f"{TRIPLE}-gcc", f"{TRIPLE}-g++", f"{RISCV_TRIPLE}-gcc"):
            real, wrapper = part / "usr/bin" / tool, self.bin / tool
            if real.exists():
                wrapper.write_text(f'#!/bin/sh\n{libraries} exec "{real}" "$@"\n')
                wrapper.chmod(0o755)

    def _make_runner(self, to: Path) -> dict[str, str]:
        """The program that runs models which planish built."""
        ffi = self.tvm / "tvm_ffi"
        paths = [f"-I{ffi / 'include'}", f"-L{self.tvm / 'tvm/lib'}", f"-L{ffi / 'lib'}"]
        # What TVM's libraries need of the C++ library is found at run time, in the emulated system.
        linked = [*paths, "-ltvm_runtime", "-ltvm_ffi", "-Wl,--allow-shlib-undefined"]
        compiler = self.bin / f"{TRIPLE}-g++"
        command = [str(c) for c in (compiler, "-O1", "-std=c++17", RUNNER, *linked, "-o", to / "run")]
        if subprocess.run(command, check=False).returncode:
            raise SystemExit(f"arm: {RUNNER.name} does not compile")
        return {"planish": "checkout"}

    def _make_system(self, to: Path) -> dict[str, str]:
        apt = self._ready_apt()
        versions = apt.closure("arm64", SYSTEM, KEPT_IN_SYSTEM)
        apt.unpack("arm64", versions, to)
        for folder in ("doc", "man", "locale", "lintian"):
            shutil.rmtree(to / "usr/share" / folder, ignore_errors=True)
        return versions

    def _unpack_wheels(self, names: Sequence[str], to: Path) -> dict[str, str]:
        """Wheels for the emulated Python at the versions of constraints.txt."""
        platforms = [f"manylinux_2_{minor}_aarch64" for minor in (34, 31, 28, 27, 26, 24, 17)]
        listed = [word for p in [*platforms, "manylinux2014_aarch64"] for word in ("--platform", p)]
        version = self.python().name.removeprefix("python")
        chosen = ["--python-version", version, "--implementation", "cp", "--only-binary=:all:", "--no-deps"]
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "-d", name]
            wanted = pins(names).split()
            call([*pip, *chosen, *listed, *wanted], "pip download failed (is there a network?)")
            for wheel in sorted(Path(name).glob("*.whl")):
                with zipfile.ZipFile(wheel) as archive:
                    archive.extractall(to, [m for m in archive.namelist() if not NOT_RUNTIME.match(m)])
        return dict(pin.split("==") for pin in wanted)

    def _view(self, processor: str) -> Path:
        """The emulated root: the system, and /proc and /sys files of such a machine.

        QEMU gives programs the files of the folder where it has them and this machine's where not; libraries that read
        /proc/cpuinfo would otherwise see an x86 processor (ONNX Runtime dies of it).
        """
        view = self.folder / "processors" / processor
        if view.exists():
            return view
        (self.folder / "processors").mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder / "processors") as name:
            new = Path(name) / "new"
            for path, text in machine_files(*PROCESSORS[processor]):
                (new / path).parent.mkdir(parents=True, exist_ok=True)
                (new / path).write_text(text)
            for entry in ("bin", "lib", "usr", "etc"):
                if (self.system / entry).exists():
                    (new / entry).symlink_to(self.system / entry)
            with contextlib.suppress(OSError):  # another process was quicker
                new.rename(view)
        return view


def _mend_scripts(folder: Path) -> None:
    """Scripts of the linker among libraries: its own search finds what they name where it is now."""
    for script in folder.glob("*.so"):
        text = script.read_bytes()
        if not script.is_symlink() and text.startswith(b"/* GNU ld script"):
            script.write_bytes(re.sub(rb"/\S*/", b"", text.partition(b"*/")[2]))


_STATIC = "qemu-aarch64-static"


def machine_files(part: str, features: str) -> Iterator[tuple[str, str]]:
    """What Linux says of a machine with one such processor: what cpuinfo libraries read."""
    yield (
        "proc/cpuinfo",
        f"processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm aes crc32 {features}\n"
        f"CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x1\nCPU part\t: {part}\nCPU revision\t: 1\n\n",
    )
    cpus = "sys/devices/system/cpu"
    yield f"{cpus}/kernel_max", "255\n"
    for name in ("possible", "present", "online"):
        yield f"{cpus}/{name}", "0\n"
    one = f"{cpus}/cpu0"
    for name in ("core_id", "physical_package_id", "thread_siblings_list", "core_siblings_list"):
        yield f"{one}/topology/{name}", "0\n"
    for name, value in (("max", 2_400_000), ("min", 1_000_000)):
        yield f"{one}/cpufreq/cpuinfo_{name}_freq", f"{value}\n"
    for i, (level, kind, size) in enumerate(((1, "Data", "64K"), (1, "Instruction", "64K"), (2, "Unified", "512K"))):
        for name, value in (("level", level), ("type", kind), ("size", size), ("shared_cpu_list", 0)):
            yield f"{one}/cache/index{i}/{name}", f"{value}\n"


def pins(names: Sequence[str]) -> str:
    """``name==version`` of each, by constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    known = {_plain(line.partition("==")[0]): line for line in lines if "==" in line}
    missing = [n for n in names if _plain(n) not in known]
    if missing:
        raise SystemExit(f"arm: constraints.txt has no version of {', '.join(missing)}")
    return " ".join(known[_plain(n)] for n in names)


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where everything lies (default: build/arm)")
    actions = parser.add_subparsers(dest="action", required=True)
    prepare = actions.add_parser("prepare", help="make what is missing")
    prepare.add_argument("--python", action="store_true", help="also Python's packages")
    prepare.add_argument("--riscv64", action="store_true", help="also 64-bit RISC-V")
    for name, what in (("run", "an aarch64 program"), ("python", "a script in aarch64 Python")):
        run = actions.add_parser(name, help=what)
        run.add_argument("processor", help=", ".join((*PROCESSORS, RISCV) if name == "run" else PROCESSORS))
        run.add_argument("command", nargs=argparse.REMAINDER)
    actions.add_parser("env", help="what is there, as JSON")
    options = parser.parse_args()
    environment = Environment(options.folder.resolve())
    if options.action == "prepare":
        try:
            environment.prepare(options.python, options.riscv64)
        except Unavailable as error:
            say(str(error))
            raise SystemExit(UNAVAILABLE) from None
    elif options.action == "env":
        print(json.dumps(environment.describe(), indent=1))
    else:
        emulated(environment, options.processor, options.command, python=options.action == "python")


def emulated(environment: Environment, processor: str, command: list[str], *, python: bool) -> None:
    """Becomes the emulated program."""
    words = environment.command(processor)
    if python:
        paths = f"PYTHONPATH={environment.site}:{environment.tvm}"
        words += ["-E", f"PYTHONHOME={environment.system / 'usr'}", "-E", paths, "-E", "TVM_USE_RUNTIME_LIB=1"]
        command = [str(environment.python()), *command]
    if not command:
        raise SystemExit("arm: give the program to run")
    done = subprocess.run([*words, *command], check=False)
    raise SystemExit(done.returncode if done.returncode >= 0 else 128 - done.returncode)


if __name__ == "__main__":
    main()
