"""Sound of known content, synthesized: notes of a plucked string, speech-like voice, and what is not speech.

All are float32 [T] in [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_VOWELS = {
    "a": (730, 1090, 2440),
    "e": (530, 1840, 2480),
    "i": (270, 2290, 3010),
    "o": (570, 840, 2410),
    "u": (300, 870, 2240),
}
"""First three formants in Hz of a male voice (Peterson and Barney, JASA 24, 1952)."""


@dataclass(frozen=True)
class Note:
    """One played note."""

    pitch: int
    """MIDI number; 69 is A at 440 Hz."""
    start_s: float
    stop_s: float


def render_notes(notes: list[Note], seconds: float, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Mixes ``notes`` as decaying harmonic tones, with a little noise; float32 [seconds * rate]."""
    time = np.arange(round(seconds * rate)) / rate
    mix = rng.normal(0, 5e-4, time.size)
    for note in notes:
        frequency = 440 * 2 ** ((note.pitch - 69) / 12)
        since = np.clip(time - note.start_s, 0, None)
        attack, release = np.clip(since / 0.005, 0, 1), np.clip((note.stop_s - time) / 0.02, 0, 1)
        for k in range(1, 1 + min(12, int(rate / 2 / frequency))):
            decay = np.exp(-since * (0.8 + 0.5 * k))
            phase = rng.uniform(0, 2 * np.pi)
            mix += attack * release * decay * np.sin(2 * np.pi * frequency * k * since + phase) / k**1.4
    return (0.7 * mix / max(1e-9, np.abs(mix).max())).astype(np.float32)


def render_voice(seconds: float, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Babble of a voice: syllables of a burst of noise and a vowel gliding into another one.

    Harmonics of a wandering fundamental, weighted by three formant resonances (source-filter model: Fant,
    "Acoustic Theory of Speech Production", 1960).
    """
    time = np.arange(round(seconds * rate)) / rate
    syllable_s = rng.uniform(0.18, 0.26)
    position = time / syllable_s
    vowels = list(_VOWELS.values())
    targets = np.array([vowels[i] for i in rng.integers(len(vowels), size=int(position[-1]) + 3)], dtype=float)
    formants = np.stack([np.interp(position, np.arange(len(targets)), targets[:, f]) for f in range(3)])
    pitch = rng.uniform(95, 210) * (1 + 0.12 * np.sin(2 * np.pi * 0.7 * time) + 0.01 * np.sin(2 * np.pi * 5 * time))
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    voice = np.zeros_like(time)
    for k in range(1, int(4000 / pitch.min())):
        gain = sum(
            strength / (1 + ((k * pitch - centre) / width) ** 2)
            for centre, width, strength in zip(formants, (60, 80, 120), (1.0, 0.5, 0.25), strict=True)
        )
        voice += gain * np.sin(k * phase) * (k * pitch < 0.45 * rate) / k**0.3
    loudness = np.clip(np.sin(np.pi * (position % 1)) * 1.6, 0, 1)
    burst = rng.normal(0, 0.25, time.size) * np.exp(-(((position % 1) - 0.04) ** 2) / 0.002)
    mix = voice * loudness + burst + rng.normal(0, 1e-3, time.size)
    return (0.5 * mix / np.abs(mix).max()).astype(np.float32)


def render_nonspeech(kind: int, seconds: float, rate: int, rng: np.random.Generator) -> np.ndarray:
    """No speech: near silence, pink noise, a hum with harmonics, or a melody, by ``kind`` modulo 4."""
    count = round(seconds * rate)
    time = np.arange(count) / rate
    if kind % 4 == 0:
        sound = rng.normal(0, 1e-3, count)
    elif kind % 4 == 1:
        spectrum = np.fft.rfft(rng.normal(size=count))
        sound = np.fft.irfft(spectrum / np.sqrt(np.arange(spectrum.size) + 1), count)
        sound *= 0.1 / sound.std()
    elif kind % 4 == 2:
        sound = 0.2 * sum(np.sin(2 * np.pi * 50 * k * time) / k for k in (1, 3, 5)) + rng.normal(0, 0.01, count)
    else:
        pitches = rng.integers(60, 84, size=int(seconds / 0.25) + 1)
        notes = [Note(int(pitch), i * 0.25, (i + 1) * 0.25) for i, pitch in enumerate(pitches)]
        sound = 0.5 * render_notes(notes, seconds, rate, rng)
    return sound.astype(np.float32)
