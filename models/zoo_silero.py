"""Silero's voice activity detector, 32 ms at a time or a clip at a time, from ``silero-vad``."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from .ort_runner import ort_runner
from .packages import package_file
from .samples_audio import render_nonspeech, render_voice
from .zoo_model import Runner, Sample, ZooModel, random_for

_FLAGS = "--no-deps"  # the package asks for torch, its ONNX files do not

_RATE_HZ, _CHUNK, _CONTEXT, _STATE = 16_000, 512, 64, 128
_RATE = np.array(_RATE_HZ, dtype=np.int64)
_CLIP_S = 0.96
_WARM_UP_CHUNKS = 6
"""Chunks at the start of a clip that the metric leaves out: the detector needs about 0.2 s to settle."""


def _vad_path(file: str) -> Path:
    return package_file("silero_vad", f"data/{file}", install=f"pip install {_FLAGS} silero-vad")


def _clips(count: int, seed: int) -> list[tuple[bool, np.ndarray]]:
    """Clips of about one second, every other one speech, cut into chunks with context: float32 [L, 576]."""
    rng = random_for("silero_vad", seed)
    result: list[tuple[bool, np.ndarray]] = []
    for i in range(count):
        speech = i % 2 == 0
        sound = render_voice(_CLIP_S, _RATE_HZ, rng) if speech else render_nonspeech(i // 2, _CLIP_S, _RATE_HZ, rng)
        padded = np.concatenate([np.zeros(_CONTEXT, np.float32), sound])
        windows = np.lib.stride_tricks.sliding_window_view(padded, _CONTEXT + _CHUNK)[::_CHUNK]
        result.append((speech, np.ascontiguousarray(windows)))
    return result


def _stream(runner: Runner, chunks: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Probability of speech per chunk, [L], and the state before each chunk, [2, 1, 128] each."""
    state = np.zeros((2, 1, _STATE), dtype=np.float32)
    probabilities: list[float] = []
    states: list[np.ndarray] = []
    for chunk in chunks:
        states.append(state)
        probability, state = runner({"input": chunk[None], "state": state, "sr": _RATE})
        probabilities.append(float(probability[0, 0]))
    return np.array(probabilities), states


@cache
def _own_runner() -> Runner:
    """The original model, to find the states that belong to sample inputs."""
    return ort_runner(SILERO_VAD.path())


def _vad_samples(count: int, seed: int, uniform: bool) -> list[Sample]:
    """A chunk from the middle of each clip, with the state that the model has there."""
    samples: list[Sample] = []
    for i, (_, chunks) in enumerate(_clips(count, seed)):
        place = _WARM_UP_CHUNKS + i % (len(chunks) - _WARM_UP_CHUNKS)
        _, states = _stream(_own_runner(), chunks[: place + 1])
        samples.append({"input": chunks[place][None], "state": states[place], "sr": _RATE})
    return samples


def _vad_accuracy(runner: Runner, count: int) -> float:
    """Share of chunks, fed as a stream, told right at probability 0.5; the first 192 ms of each clip aside."""
    hits = [
        (probability >= 0.5) == speech
        for speech, chunks in _clips(count, 0)
        for probability in _stream(runner, chunks)[0][_WARM_UP_CHUNKS:]
    ]
    return float(np.mean(hits))


def _sequence_inputs(chunks: np.ndarray) -> Sample:
    zeros = np.zeros((1, 1, _STATE), dtype=np.float32)
    return {"input": chunks, "h": zeros, "c": zeros}


def _sequence_samples(count: int, seed: int, uniform: bool) -> list[Sample]:
    """Whole clips; without ``uniform`` of different lengths."""
    clips = _clips(count, seed)
    return [
        _sequence_inputs(chunks if uniform else chunks[: len(chunks) - i % 5]) for i, (_, chunks) in enumerate(clips)
    ]


def _sequence_accuracy(runner: Runner, count: int) -> float:
    """As `_vad_accuracy`, a clip at a time."""
    hits = [
        (probability >= 0.5) == speech
        for speech, chunks in _clips(count, 0)
        for probability in runner(_sequence_inputs(chunks))[0][_WARM_UP_CHUNKS:]
    ]
    return float(np.mean(hits))


SILERO_VAD = ZooModel(
    name="silero_vad",
    package="silero-vad",
    module="silero_vad",
    family="audio",
    trained=True,
    description="Silero voice activity detector, streaming, 8 and 16 kHz under an If; metric: accuracy of chunks",
    locate=lambda: _vad_path("silero_vad.onnx"),
    sampler=_vad_samples,
    metric=_vad_accuracy,
    pip_flags=_FLAGS,
)
SILERO_VAD_SEQUENCE = ZooModel(
    name="silero_vad_sequence",
    package="silero-vad",
    module="silero_vad",
    family="audio",
    trained=True,
    description="The same detector for a whole 16 kHz clip (LSTM over chunks); metric: accuracy of chunks",
    locate=lambda: _vad_path("silero_vad_16k_sequence.onnx"),
    sampler=_sequence_samples,
    metric=_sequence_accuracy,
    pip_flags=_FLAGS,
)
ENTRIES = (SILERO_VAD, SILERO_VAD_SEQUENCE)
