"""Cases near given models, drawn by seed: where the models come from, and which edits of them are models.

The given models are those that a pass is known to act on (golden cases, a user's own); some are put behind others.
Whether the result is a model at all is decided by type inference and the runtime; many are not.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

from ...backends.ort.isolated import Isolated
from ...ir.errors import PlanishError, UsageError
from ...ir.graph import Model, Node
from ...ir.onnx_reader import read_model
from ...ir.onnx_writer import model_to_bytes
from ...ir.text import parse_model
from ...models.random import Case
from ..inputs.generate import generate_samples
from .join import joined_with_any
from .mutate import mutated

ATTEMPTS = 8
"""Mutants that are tried for one seed until one is a model."""
JOINED_SHARE = 0.25
"""Share of mutants that come of two models."""
MAX_NODES = 400
"""Larger models are not taken as seeds."""
_FENCE = re.compile(r"^```ir([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


class Mutants:
    """Cases near given models. The runtime judges them in a process of its own, because odd models can crash it."""

    def __init__(self, path: Path) -> None:
        """Raises ``UsageError`` where there is no model under ``path``."""
        self.seeds = list(seeds(path))
        self.process = Isolated()

    def case(self, seed: int, size: int) -> Case:
        """A mutant with samples. Raises ``PlanishError`` where none of some attempts gives a valid model."""
        del size  # mutants are as large as what they come from
        rng = random.Random(seed)
        refusal: PlanishError | None = None
        for _ in range(ATTEMPTS):
            model = mutated(self._drawn(rng), rng)
            if model is None or any(map(_updates_in_place, model.all_nodes())):
                continue
            try:
                data = model_to_bytes(model)
                samples = generate_samples(model, lambda s, data=data: self.process.run(data, [s]), count=3, seed=seed)
            except PlanishError as error:
                refusal = error
                continue
            return Case(seed, model, list(map(dict, samples.items)))
        raise refusal or UsageError("no edit gives a model", where="fuzz")

    def _drawn(self, rng: random.Random) -> Model:
        """One of the given models, or two of them as one."""
        first = rng.choice(self.seeds)
        both = joined_with_any(first, self.seeds, rng) if rng.random() < JOINED_SHARE else None
        return both or first

    def __enter__(self) -> Mutants:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.close()


def _updates_in_place(node: Node) -> bool:
    """BatchNormalization in training mode: runtimes write the new statistics over the old."""
    return node.op == "BatchNormalization" and len(node.outputs) > 1


def seeds(path: Path) -> Iterator[Model]:
    """The models under a path: fences of golden suites (``.md``), texts (``.ir``), ONNX files.

    Raises ``UsageError`` where there are none; files that do not read are left out.
    """
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    found = 0
    for file in files:
        for model in _models_of(file):
            if sum(1 for _ in model.all_nodes()) <= MAX_NODES:
                found += 1
                yield model
    if not found:
        raise UsageError(f"no model in {path}", where="fuzz", help="give a folder with .md suites, .ir or .onnx files")


def _models_of(file: Path) -> Iterator[Model]:
    try:
        if file.suffix == ".md":
            for info, text in _FENCE.findall(file.read_text("utf-8")):
                if not re.search(r"\bafter\b|\bunchanged\b", info):
                    yield parse_model(text)
        elif file.suffix == ".ir":
            yield parse_model(file.read_text("utf-8"))
        elif file.suffix == ".onnx":
            yield read_model(file)
    except (PlanishError, OSError, UnicodeDecodeError):
        return
