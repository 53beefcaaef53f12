"""From CUDA source to machine code of a GPU, without a GPU: by nvcc or by NVRTC, whichever is there.

NVRTC is a library (PyPI's ``nvidia-cuda-nvrtc``, or a CUDA toolkit's) and needs no headers for what planish's kernels
use: the few that TVM's source names are given to it as text.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
import importlib.util
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NoReturn

from ...ir.errors import BackendError
from ...passes.target import Target
from .cuda import source

_NUMBERS = "unsigned char uint8_t;unsigned short uint16_t;unsigned int uint32_t;unsigned long long uint64_t;"
_SIGNED = "signed char int8_t;short int16_t;int int32_t;long long int64_t;"
_TRAITS = """
template <class A, class B> struct is_same { static constexpr bool value = false; };
template <class A> struct is_same<A, A> { static constexpr bool value = true; };
template <class A, class B> constexpr bool is_same_v = is_same<A, B>::value;
template <class T> struct is_integral { static constexpr bool value = T(3) / T(2) == T(1); };
template <class T> struct is_floating_point { static constexpr bool value = !is_integral<T>::value; };
template <class T> struct is_signed { static constexpr bool value = T(-1) < T(0); };
template <class T> struct is_unsigned { static constexpr bool value = !is_signed<T>::value; };
template <bool C, class T = void> struct enable_if {};
template <class T> struct enable_if<true, T> { typedef T type; };
template <bool C, class A, class B> struct conditional { typedef A type; };
template <class A, class B> struct conditional<false, A, B> { typedef B type; };
"""
_IN_STD = {
    "cuda/std/cstdint": "".join(f"typedef {line};\n" for line in (_NUMBERS + _SIGNED).split(";") if line),
    "cuda/std/type_traits": _TRAITS,
}
_HEADERS = {name: f"namespace cuda {{ namespace std {{\n{text}}} }}" for name, text in _IN_STD.items()}
_HEADERS["math_constants.h"] = """
#define CUDART_INF_F __int_as_float(0x7f800000)
#define CUDART_NAN_F __int_as_float(0x7fffffff)
#define CUDART_INF __longlong_as_double(0x7ff0000000000000ll)
#define CUDART_NAN __longlong_as_double(0xfff8000000000000ull)
"""


def compiler() -> str | None:
    """``nvcc`` or ``nvrtc``; ``None`` where there is neither."""
    if shutil.which("nvcc"):
        return "nvcc"
    return "nvrtc" if _library() is not None else None


def compile_cubin(text: str, arch: str, *, using: str | None = None) -> bytes:
    """Machine code for ``sm_NN``. Raises ``BackendError`` with the compiler's words, or where there is none."""
    chosen = using or compiler()
    if chosen is None:
        raise BackendError(
            f"there is no CUDA compiler to make code for {arch}",
            where="cuda",
            help="`pip install nvidia-cuda-nvrtc`, or put a CUDA toolkit's nvcc on the PATH",
        )
    return _by_nvcc(text, arch) if chosen == "nvcc" else _by_nvrtc(text, arch)


def write_cubin(executable: Any, folder: Path, target: Target) -> None:
    """Puts the compiled kernels beside the library, in a file named by their source, where there is a compiler: else
    the machine that loads them needs one.

    Raises ``BackendError`` where the compiler refuses them.
    """
    if target.mcpu and compiler() is not None and (text := source(executable)):
        name = hashlib.sha256(text.encode()).hexdigest()
        (folder / f"{name}.cubin").write_bytes(compile_cubin(text, target.mcpu))


def _by_nvcc(text: str, arch: str) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        file, made = Path(name) / "kernels.cu", Path(name) / "kernels.cubin"
        file.write_text(text)
        command = ["nvcc", f"-arch={arch}", "-cubin", "-O3", "-o", str(made), str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            _refused("nvcc", arch, done.stderr)
        return made.read_bytes()


def _by_nvrtc(text: str, arch: str) -> bytes:
    path = _library()
    if path is None:
        _refused("nvrtc", arch, "there is no libnvrtc")
    library = ctypes.CDLL(path)
    program = ctypes.c_void_p()
    texts = [*_HEADERS.values()]
    _check(
        library,
        library.nvrtcCreateProgram(
            ctypes.byref(program), text.encode(), b"kernels.cu", len(texts), _strings(texts), _strings([*_HEADERS])
        ),
    )
    try:
        options = [f"--gpu-architecture={arch}", "--std=c++17"]
        status = library.nvrtcCompileProgram(program, len(options), _strings(options))
        if status:
            _refused("nvrtc", arch, _fetch(library, program, "ProgramLog").decode(errors="replace"))
        return _fetch(library, program, "CUBIN")
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _fetch(library: Any, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(library, getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    room = ctypes.create_string_buffer(size.value)
    _check(library, getattr(library, f"nvrtcGet{what}")(program, room))
    return room.raw


def _check(library: Any, status: int) -> None:
    if status:
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise BackendError(f"NVRTC: {library.nvrtcGetErrorString(status).decode()}", where="cuda")


def _strings(texts: list[str]) -> Any:
    return (ctypes.c_char_p * len(texts))(*(text.encode() for text in texts))


def _refused(name: str, arch: str, words: str) -> NoReturn:
    lines = [line for line in words.splitlines() if "error" in line] or words.splitlines()
    raise BackendError(
        f"{name} refuses the kernels for {arch}: {'; '.join(lines[:3])}",
        where="cuda",
        help="planish is at fault, or the compiler is too old for the architecture",
    )


def _library() -> str | None:
    """Where libnvrtc is: in NVIDIA's wheels, or where the system looks."""
    package = importlib.util.find_spec("nvidia")
    for folder in (package.submodule_search_locations or []) if package else []:
        found = sorted(Path(folder).glob("*/lib/libnvrtc.so.*"))
        if found:
            return str(found[-1])
    return ctypes.util.find_library("nvrtc")
