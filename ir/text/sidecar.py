"""Constants of which a text holds only the digest, in a file beside it: an ``.npz`` of raw file bytes.

An entry is named ``DIGEST DTYPE DIMS`` (``9f..e1 f32 64,64``), so that the file explains itself.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..constants import BytesConstant, Constant
from ..dtypes import BY_TEXT, DType
from ..errors import ReadError


def save_resources(path: Path, resources: Mapping[str, Constant]) -> None:
    """Writes constants by digest, one at a time. Strings are not supported: the text holds them itself."""
    with zipfile.ZipFile(path, "w") as archive:
        for digest, data in resources.items():
            if data.dtype is DType.STRING:
                continue
            name = f"{digest} {data.dtype.text} {','.join(map(str, data.shape))}.npy"
            with archive.open(name, "w", force_zip64=True) as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": (data.nbytes,)}
                np.lib.format.write_array_header_1_0(file, header)
                for chunk in data.chunks():
                    file.write(chunk)


def load_resources(path: Path) -> dict[str, Constant]:
    """The constants of :func:`save_resources`. Raises ``ReadError`` for a damaged file."""
    found: dict[str, Constant] = {}
    try:
        with np.load(path) as entries:
            for name in entries.files:
                digest, dtype, dims = name.split(" ")
                shape = tuple(int(d) for d in dims.split(",") if d)
                found[digest] = BytesConstant(entries[name].tobytes(), BY_TEXT[dtype], shape)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ReadError(
            f"{path.name} does not hold a reproducer's weights: {error}",
            where="run",
            help="keep the .npz beside the .ir file, unchanged",
        ) from error
    return found
