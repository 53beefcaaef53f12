"""One sample as a line of text, for the header of a reproducer."""

from __future__ import annotations

import json
from typing import Any, cast

import numpy as np

from ...backends.core import Sample
from ...ir.errors import UsageError

KEY = "sample"
MAX_ELEMENTS = 4096
"""Larger samples are not written: the replay makes up its own."""
_KINDS = "fiub"


def sample_line(sample: Sample) -> str | None:
    """``{"x": ["float32", [1, 2], [0.5, 1]]}``, exact to the bit; ``None`` where it is too large or not numeric."""
    if sum(array.size for array in sample.values()) > MAX_ELEMENTS:
        return None
    if any(array.dtype.kind not in _KINDS for array in sample.values()):
        return None
    plain = {name: [array.dtype.name, list(array.shape), array.reshape(-1).tolist()] for name, array in sample.items()}
    return json.dumps(plain)


def parse_sample(line: str) -> dict[str, np.ndarray[Any, Any]]:
    """The sample of :func:`sample_line`. Raises ``UsageError`` for anything else."""
    try:
        plain = cast("dict[str, tuple[str, list[int], list[float]]]", json.loads(line))
        return {name: np.asarray(items, dtype).reshape(shape) for name, (dtype, shape, items) in plain.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(
            f"the sample of the reproducer does not parse: {error}",
            where="run",
            help="delete the line `// sample: ...`",
        ) from None
