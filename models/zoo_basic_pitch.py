"""Spotify's note transcriber: two seconds of sound to notes (Bittner et al., ICASSP 2022), from ``basic-pitch``."""

from __future__ import annotations

import numpy as np

from .metrics import f1_score
from .packages import package_file
from .samples_audio import Note, render_notes
from .zoo_model import Runner, Sample, ZooModel, random_for

_FLAGS = "--no-deps"  # the package asks for tensorflow, its ONNX file does not
_RATE_HZ, _SAMPLES = 22_050, 43_844
_FRAMES, _KEYS, _HOP, _LOWEST_KEY = 172, 88, 256, 21
_NOTE_THRESHOLD = 0.3
"""Frame threshold of ``basic_pitch.inference.predict`` (version 0.4.0)."""
_INPUT = "serving_default_input_2:0"
_NOTE_OUTPUT = 1
"""Position of ``StatefulPartitionedCall:1``, the notes, among the outputs (onsets, notes, contours)."""


def _music(count: int, seed: int) -> list[tuple[list[Note], np.ndarray]]:
    """Windows of two seconds with one to three voices, float32 [1, 43844, 1]."""
    rng = random_for("basic_pitch", seed)
    result: list[tuple[list[Note], np.ndarray]] = []
    for i in range(count):
        notes: list[Note] = []
        for voice in range(1 + i % 3):
            start = float(rng.uniform(0.05, 0.3))
            while start < 1.6:
                stop = start + float(rng.uniform(0.25, 0.6))
                notes.append(Note(int(rng.integers(40, 60) + 12 * voice), start, min(stop, 1.95)))
                start = stop + 0.02
        sound = render_notes(notes, 2.0, _RATE_HZ, rng)[:_SAMPLES]
        result.append((notes, sound[None, :, None]))
    return result


def _piano_roll(notes: list[Note]) -> np.ndarray:
    """Which key sounds in which frame of 256 samples: bool [172, 88]."""
    centre_s = (np.arange(_FRAMES) + 0.5) * _HOP / _RATE_HZ
    roll = np.zeros((_FRAMES, _KEYS), dtype=bool)
    for note in notes:
        roll[(centre_s >= note.start_s) & (centre_s < note.stop_s), note.pitch - _LOWEST_KEY] = True
    return roll


def _samples(count: int, seed: int, uniform: bool) -> list[Sample]:
    return [{_INPUT: sound} for _, sound in _music(count, seed)]


def _f1(runner: Runner, count: int) -> float:
    """F1 of (frame, key) pairs against the score that was rendered."""
    hits = found_count = expected_count = 0
    for notes, sound in _music(count, 0):
        found = runner({_INPUT: sound})[_NOTE_OUTPUT][0] > _NOTE_THRESHOLD
        expected = _piano_roll(notes)
        hits += int((found & expected).sum())
        found_count, expected_count = found_count + int(found.sum()), expected_count + int(expected.sum())
    return f1_score(hits, found_count, expected_count)


BASIC_PITCH = ZooModel(
    name="basic_pitch",
    package="basic-pitch",
    module="basic_pitch",
    family="audio",
    trained=True,
    description="Basic Pitch note transcription (constant-Q transform and CNN); metric: F1 of frame notes",
    locate=lambda: package_file(
        "basic_pitch", "saved_models/icassp_2022/nmp.onnx", install=f"pip install {_FLAGS} basic-pitch"
    ),
    sampler=_samples,
    metric=_f1,
    pip_flags=_FLAGS,
)

ENTRIES = (BASIC_PITCH,)
