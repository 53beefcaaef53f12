"""Files of known content type, made from what every Python has: its own sources and its writers.

`make_file(label, rng)` returns bytes whose type, in the label space of Magika, is ``label``.
"""

from __future__ import annotations

import csv
import email.message
import gzip
import io
import json
import marshal
import pickle
import sysconfig
import tarfile
import wave
import zipfile
from collections.abc import Callable
from importlib.util import MAGIC_NUMBER
from pathlib import Path

import numpy as np

from .samples_source import SOURCES, WORDS

Maker = Callable[[np.random.Generator], bytes]

_STDLIB_NAMES = (
    "argparse ast bisect calendar cmd codecs configparser contextlib copy csv dataclasses datetime difflib dis "
    "enum fnmatch fractions functools getopt glob gzip hashlib heapq inspect ipaddress keyword locale mimetypes "
    "ntpath opcode operator optparse pathlib pdb pickle platform posixpath pprint queue random sched secrets "
    "selectors shelve shlex shutil socket ssl statistics string subprocess tarfile tempfile textwrap threading "
    "timeit token trace traceback types typing uuid warnings wave weakref zipapp"
)
"""Modules that every CPython 3.11 to 3.14 has."""


def make_file(label: str, rng: np.random.Generator) -> bytes:
    """A file of the type ``label`` (one of `LABELS`); its content depends on ``rng``."""
    return _MAKERS[label](rng)


def _words(rng: np.random.Generator, count: int) -> list[str]:
    return [str(word) for word in rng.choice(WORDS, count)]


def _sentence(rng: np.random.Generator) -> str:
    return " ".join(_words(rng, int(rng.integers(5, 12)))).capitalize() + "."


def _text(rng: np.random.Generator, sentences: int = 30) -> str:
    return "\n".join(_sentence(rng) for _ in range(sentences)) + "\n"


def _records(rng: np.random.Generator) -> list[dict[str, object]]:
    """Rows of a small table."""
    return [
        {
            "id": i,
            "name": _words(rng, 1)[0],
            "score": round(float(rng.normal(50, 9)), 2),
            "active": bool(rng.integers(2)),
        }
        for i in range(int(rng.integers(20, 50)))
    ]


def _python(rng: np.random.Generator) -> bytes:
    folder = Path(sysconfig.get_path("stdlib"))
    sources = [
        path for name in _STDLIB_NAMES.split() for path in (folder / f"{name}.py", folder / name / "__init__.py")
    ]
    sources = [path for path in sources if path.is_file() and path.stat().st_size > 2000]
    return sources[int(rng.integers(len(sources)))].read_bytes()


def _source(label: str) -> Maker:
    """Fills the placeholders of a program text with words, so that files of one label differ."""

    def make(rng: np.random.Generator) -> bytes:
        text = SOURCES[label]
        for slot, word in zip(("alpha", "beta", "gamma"), _words(rng, 3), strict=True):
            text = text.replace(f"@{slot}@", word).replace(f"@{slot.capitalize()}@", word.capitalize())
        return text.replace("@text@", _sentence(rng)).encode()

    return make


def _csv(rng: np.random.Generator) -> bytes:
    rows = _records(rng)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def _json(rng: np.random.Generator) -> bytes:
    return json.dumps({"total": 3, "results": _records(rng)}, indent=2).encode()


def _jsonl(rng: np.random.Generator) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in _records(rng)).encode()


def _zip(rng: np.random.Generator) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in _words(rng, 4):
            archive.writestr(zipfile.ZipInfo(f"{name}{rng.integers(99)}.txt", (2024, 5, 6, 7, 8, 10)), _text(rng))
    return stream.getvalue()


def _tar(rng: np.random.Generator) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in _words(rng, 3):
            content = _text(rng).encode()
            member = tarfile.TarInfo(f"notes/{name}.txt")
            member.size, member.mtime = len(content), 1_700_000_000
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def _npy(rng: np.random.Generator) -> bytes:
    stream = io.BytesIO()
    np.save(stream, rng.normal(size=(int(rng.integers(20, 60)), 16)))
    return stream.getvalue()


def _pickle(rng: np.random.Generator) -> bytes:
    return pickle.dumps({"rows": _records(rng), "words": _words(rng, 60)}, protocol=4)


def _pyc(rng: np.random.Generator) -> bytes:
    code = compile(_python(rng), "module.py", "exec", dont_inherit=True, optimize=0)
    return MAGIC_NUMBER + bytes(12) + marshal.dumps(code)


def _wav(rng: np.random.Generator) -> bytes:
    seconds = np.arange(4000) / 8000
    tone = np.sin(2 * np.pi * rng.uniform(200, 900) * seconds) + rng.normal(0, 0.05, 4000)
    stream = io.BytesIO()
    with wave.open(stream, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes((tone * 8000).astype("<i2").tobytes())
    return stream.getvalue()


def _bzip(rng: np.random.Generator) -> bytes:
    import bz2  # like lzma and sqlite3 not in every build of Python

    return bz2.compress(_text(rng).encode())


def _xz(rng: np.random.Generator) -> bytes:
    import lzma

    return lzma.compress(_text(rng).encode())


def _sqlite(rng: np.random.Generator) -> bytes:
    import sqlite3

    with sqlite3.connect(":memory:") as database:
        database.execute("create table people (id integer primary key, name text, score real)")
        database.executemany("insert into people values (:id, :name, :score)", _records(rng))
        database.commit()
        return database.serialize()


def _eml(rng: np.random.Generator) -> bytes:
    message = email.message.EmailMessage()
    sender, receiver = _words(rng, 2)
    message["From"], message["To"] = f"{sender.capitalize()} <{sender}@example.com>", f"{receiver}@example.org"
    message["Date"], message["Message-ID"] = "Tue, 14 May 2024 09:30:11 +0000", f"<{rng.integers(1 << 40)}@example.com>"
    message["Subject"] = _sentence(rng)
    message.set_content(_text(rng, 20))
    return message.as_bytes()


def _picture(file_format: str) -> Maker:
    """A noisy gradient, written by Pillow."""

    def make(rng: np.random.Generator) -> bytes:
        from PIL import Image

        height, width = (int(side) for side in rng.integers(48, 96, 2))
        ramp = np.add.outer(np.linspace(0, 120, height), np.linspace(0, 100, width))
        pixels = ramp[:, :, None] + rng.uniform(0, 30, (height, width, 3))
        stream = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(stream, file_format)
        return stream.getvalue()

    return make


_MAKERS: dict[str, Maker] = {
    "python": _python,
    "csv": _csv,
    "json": _json,
    "jsonl": _jsonl,
    "zip": _zip,
    "tar": _tar,
    "gzip": lambda rng: gzip.compress(_text(rng).encode(), mtime=0),
    "bzip": _bzip,
    "xz": _xz,
    "npy": _npy,
    "pickle": _pickle,
    "pythonbytecode": _pyc,
    "wav": _wav,
    "sqlite": _sqlite,
    "eml": _eml,
    "png": _picture("PNG"),
    "jpeg": _picture("JPEG"),
    "gif": _picture("GIF"),
    "bmp": _picture("BMP"),
    "tiff": _picture("TIFF"),
    "pdf": _picture("PDF"),
    **{label: _source(label) for label in SOURCES},
}

LABELS = tuple(_MAKERS)
"""The content types that `make_file` makes."""
