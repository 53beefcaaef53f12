"""``--memory``: the session settings with the least memory at run time that cost no time, measured.

The live set of a model is the least that a runtime can take; ONNX Runtime takes more. Its memory pattern keeps what the
first run took and a block with the whole plan besides; its arena grows in powers of two; it orders nodes itself unless
asked. Each candidate's peak is measured in a process of its own (resident memory since before the model was loaded,
three runs), and its time against the settings that were chosen before.
"""

from __future__ import annotations

from dataclasses import replace

from ...backends.ort.choices import combined, memory_choices
from ...backends.ort.session import SessionSettings
from ..job import Job
from ..measuring import measure_pair
from ..peak_memory import peak_bytes, peak_memory
from ..result import Result
from .footprint import Candidate, Footprint

SAVING = 0.05
"""Of the peak: less is not worth other settings, and not beyond what two processes differ by."""
COST = 0.05
"""Of the time: settings that took so much longer are left, even where noise may have done it."""
_SECONDS = 2.0


def choose_for_memory(job: Job, result: Result) -> Footprint:
    """Measures, and puts the settings with the least memory into the result. The model stays as it is."""
    because = job.unmeasurable
    if because or job.samples is None:
        return Footprint(because=because or "there are no samples")
    found = Footprint()
    source = job.runnable(result.model, "result")
    items = job.samples.ordinary.items
    base = result.settings
    lean = replace(base, memory_pattern=False)
    timed = replace(base, threads=base.threads or 1)
    found.original_bytes = peak_bytes(job.source, SessionSettings(threads=base.threads), items)
    before = peak_memory(source, base, items)
    if before is None:
        return Footprint(because="this system does not tell what a process takes, or inputs are no numbers")
    found.before_bytes = found.after_bytes = before.resident
    tried: list[tuple[Candidate, SessionSettings]] = []
    for i, (label, settings) in enumerate(choices(base)):
        if job.options.progress is not None:
            job.options.progress(f"memory: {label}", i, 0)
        peak = peak_memory(source, settings, items)
        tried.append((Candidate(label, peak and peak.resident, peak and peak.arena), settings))
        if peak is not None and settings == lean:
            found.arena_bytes = peak.arena
        if peak is not None and settings == replace(lean, execution_order="priority"):
            found.ordered_bytes = peak.arena
    found.candidates = [candidate for candidate, _ in tried]
    for candidate, settings in sorted(tried, key=lambda pair: pair[0].peak_bytes or 0):
        if candidate.peak_bytes is None or candidate.peak_bytes > (1 - SAVING) * found.before_bytes:
            candidate.verdict = "saves nothing"
            continue
        candidate.time = measure_pair(
            source, source, job.samples, seconds=_SECONDS, settings=timed, optimized_settings=settings
        )
        if not candidate.time.done:
            candidate.verdict = candidate.time.because
        elif candidate.time.slower or candidate.time.ratio > 1 + COST:
            candidate.verdict = "slower"
        else:
            candidate.verdict = "chosen"
            found.after_bytes, result.settings = candidate.peak_bytes, settings
            break
    return found


def choices(base: SessionSettings) -> list[tuple[str, SessionSettings]]:
    found = memory_choices(base)
    if base.execution_order != "default":
        return found
    in_order = replace(base, execution_order="priority")
    both = [(f"{label}, nodes in file order", combined(base, [s, in_order])) for label, s in found[:1]]
    return [*found[:1], *both, ("nodes in file order", in_order), *found[1:]]
