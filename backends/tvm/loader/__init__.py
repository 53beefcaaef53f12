"""What an artifact's folder carries to run itself: a Python loader and a C++ one, which need only TVM's runtime.

``planish_model.py`` and ``planish_model.hpp`` read the same three files: ``manifest.json``, ``lib.so``, ``params.bin``;
``run.cc`` is a program around the header. They are copied as they are and import nothing of planish.
"""

from __future__ import annotations

import shutil
from pathlib import Path

FILES = ("planish_model.py", "planish_model.hpp", "planish_steps.hpp", "planish_onnxruntime.hpp", "run.cc")


def write_loaders(folder: Path) -> None:
    """Copies the loaders into an artifact's folder."""
    for name in FILES:
        shutil.copyfile(Path(__file__).parent / name, folder / name)
