"""``calibration.npz``: statistics of one model or of several stages of it, whole or not at all.

A member ``header`` holds JSON: what was observed, numbers included; arrays lie beside it. Nothing is pickled.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from ...backends.core import Array
from ...ir.errors import UsageError
from ...ir.safe_files import SafeFiles
from ...passes.shared.quant.histogram import Histogram
from ...passes.shared.quant.statistics import Channels, Kind, Observed, Statistics, Want

FORMAT = 1
_NUMBERS = ("count", "low", "high", "mean", "square", "arrays", "average", "nan", "infinite", "rows")
_CHANNELS = ("low", "high", "mean", "absmean", "square")


@dataclass
class Stage:
    """What was observed of one model."""

    statistics: Statistics
    wants: list[Want]
    """What was asked for."""
    digest: str = ""
    """Of the samples, in order (see ``sample_digest``)."""
    complete: bool = True
    """Whether the samples were gone through to their end."""


@dataclass
class CalibrationFile:
    """The contents of a file."""

    model: str
    """Digest of the model that was given."""
    origin: str = ""
    """Where the samples came from."""
    stages: dict[str, Stage] = field(default_factory=dict[str, Stage])
    """By the digest of the model that ran: the given one, or what a pipeline had made of it."""


def write_calibration(path: Path, content: CalibrationFile) -> None:
    """Raises ``UsageError`` where the file cannot be written."""
    arrays: dict[str, Array] = {}
    stages = [_stage_header(i, stage, arrays) for i, stage in enumerate(content.stages.values())]
    header = {"format": FORMAT, "model": content.model, "origin": content.origin, "stages": stages}
    arrays["header"] = np.frombuffer(json.dumps(header, sort_keys=True).encode(), np.uint8)
    with SafeFiles() as files:
        np.savez(cast("Any", files.create(path)), **cast("Any", arrays))


def read_calibration(path: Path) -> CalibrationFile:
    """Raises ``UsageError`` for what is no such file, or of another version."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            header: dict[str, Any] = json.loads(archive["header"].tobytes())
            if header["format"] != FORMAT:
                raise ValueError(f"format {header['format']}, this planish reads {FORMAT}")
            stages = [_stage(i, plain, archive) for i, plain in enumerate(header["stages"])]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"cannot read statistics from {path}: {error}",
            where="calibrate",
            help="it is not a file that `planish calibrate` wrote, or it is damaged; remove it and calibrate again",
        ) from None
    return CalibrationFile(header["model"], header["origin"], {s.statistics.model: s for s in stages})


def _stage_header(number: int, stage: Stage, arrays: dict[str, Array]) -> dict[str, Any]:
    found = stage.statistics
    values: list[dict[str, Any]] = []
    for i, (name, observed) in enumerate(found.values.items()):
        values.append({"name": name, **_value_header(f"{number}/{i}", observed, arrays)})
    return {
        "model": found.model,
        "samples": found.samples,
        "digest": stage.digest,
        "complete": stage.complete,
        "declined": found.declined,
        "wants": [[w.value, w.kinds.value, w.axis] for w in stage.wants],
        "values": values,
    }


def _value_header(prefix: str, observed: Observed, arrays: dict[str, Array]) -> dict[str, Any]:
    plain: dict[str, Any] = {name: getattr(observed, name) for name in _NUMBERS}
    plain["declined"] = observed.declined
    for name in ("histogram", "tokens"):
        histogram: Histogram | None = getattr(observed, name)
        if histogram is not None:
            arrays[f"{prefix}/{name}/keys"], arrays[f"{prefix}/{name}/counts"] = histogram.keys, histogram.counts
    if observed.channels is not None:
        plain["channels"] = [observed.channels.axis, observed.channels.count]
        arrays[f"{prefix}/channels"] = np.stack([getattr(observed.channels, name) for name in _CHANNELS])
    if observed.moments is not None:
        arrays[f"{prefix}/moments"] = observed.moments
    return plain


def _stage(number: int, plain: dict[str, Any], archive: Mapping[str, Array]) -> Stage:
    values: dict[str, Observed] = {}
    for i, value in enumerate(cast("list[dict[str, Any]]", plain["values"])):
        values[value["name"]] = _value(f"{number}/{i}", value, archive)
    statistics = Statistics(plain["model"], plain["samples"], values, plain["declined"])
    wants = [Want(name, Kind(kinds), axis) for name, kinds, axis in plain["wants"]]
    return Stage(statistics, wants, plain["digest"], plain["complete"])


def _value(prefix: str, plain: dict[str, Any], archive: Mapping[str, Array]) -> Observed:
    found: dict[str, Any] = {name: plain[name] for name in (*_NUMBERS, "declined")}
    found["average"] = tuple(plain["average"])
    for name in ("histogram", "tokens"):
        key = f"{prefix}/{name}/keys"
        if key in archive:
            found[name] = Histogram(archive[key], archive[f"{prefix}/{name}/counts"])
    if "channels" in plain:
        axis, count = plain["channels"]
        found["channels"] = Channels(axis, count, *archive[f"{prefix}/channels"])
    if f"{prefix}/moments" in archive:
        found["moments"] = archive[f"{prefix}/moments"]
    return Observed(**found)
