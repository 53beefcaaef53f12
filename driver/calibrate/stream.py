"""Calibration samples as a stream that can start anew, however they were given."""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from typing import IO, Any

from ...backends.core import Sample
from ...ir.graph import Model
from ..inputs.samples import Samples, Source, origin_of, stream_samples

MAX_CALIBRATION = 128
"""Samples that an optimization looks at: ranges hardly change with more, and every pass that looks costs their runs."""


class SampleStream:
    """The samples of a source, checked, one at a time, as often as wanted.

    Files, arrays, lists and functions are gone through again. An iterator, which cannot be, is written to a temporary
    file as it goes by, where a second round may follow (``again``). The first ``limit`` samples count, less those at
    the places ``without``.
    """

    def __init__(
        self,
        source: Source,
        model: Model,
        *,
        limit: int | None = None,
        again: bool = True,
        without: Collection[int] = (),
    ) -> None:
        self.source: Any = source
        self.model, self.limit, self.again, self.without = model, limit, again, without
        self.origin = origin_of(source)
        self._spool: IO[bytes] | None = None
        self._rest: Iterator[Sample] | None = None
        self._written = 0

    def __iter__(self) -> Iterator[Sample]:
        """Raises ``UsageError`` for a sample that does not fit the model."""
        if not runs_out(self.source):
            return self._opened()
        if self._rest is None:
            self._rest = self._opened()
        return self._spooled() if self.again else self._rest

    def _opened(self) -> Iterator[Sample]:
        first = islice(stream_samples(self.source, self.model), self.limit)
        return _less(first, self.without) if self.without else first

    def _spooled(self) -> Iterator[Sample]:
        """What earlier rounds saw, then what they did not come to."""
        if self._spool is None:
            self._spool = tempfile.TemporaryFile(prefix="planish-")  # noqa: SIM115 (lives as long as the stream)
        place = 0
        for _ in range(self._written):
            self._spool.seek(place)
            sample: Sample = pickle.load(self._spool)
            place = self._spool.tell()
            yield sample
        assert self._rest is not None
        for sample in self._rest:
            self._spool.seek(0, os.SEEK_END)
            pickle.dump(dict(sample), self._spool, protocol=pickle.HIGHEST_PROTOCOL)
            self._written += 1
            yield sample


def calibration_samples(
    source: Source | Samples, read: Samples, model: Model, held: Collection[int] = ()
) -> Iterable[Sample]:
    """What statistics come from: more of ``source`` than the few in ``read``, where it can be gone through again.

    ``held``: places of samples that are held back to check with, so that no statistics may come from them.
    """
    if isinstance(source, Samples) or runs_out(source):
        return list(_less(read.ordinary.items, held))
    return SampleStream(source, model, limit=MAX_CALIBRATION, without=held)


def _less(samples: Iterable[Sample], places: Collection[int]) -> Iterator[Sample]:
    return (sample for i, sample in enumerate(samples) if i not in places)


def runs_out(source: Any) -> bool:
    """Whether going through it once is all there is."""
    return isinstance(source, Iterator)


def sample_digest(before: str, sample: Sample) -> str:
    """A digest of all samples up to this one, from that of those before it (hex, 32 characters)."""
    state = hashlib.blake2b(before.encode(), digest_size=16)
    for name in sorted(sample):
        array = sample[name]
        state.update(f"{name}\0{array.dtype.str}{array.shape}".encode())
        state.update(array.tobytes())
    return state.hexdigest()
