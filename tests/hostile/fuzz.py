"""Coverage-guided fuzzing of the readers with atheris (``pip install planish[fuzz]``).

    python -P tests/hostile/fuzz.py model -max_total_time=600 NEW_FOLDER tests/hostile/corpus/model
    python -P tests/hostile/fuzz.py text  -max_total_time=600 NEW_FOLDER tests/hostile/corpus/text

Options are libFuzzer's. What it finds (``crash-...``) is shrunk with ``-minimize_crash=1 -runs=20000 FILE`` and kept in
the corpus, which ``test_corpus.py`` replays without atheris.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

atheris: Any = import_module("atheris")  # an extra: type checkers do not have it

sys.path.insert(0, str(Path(__file__).parents[1]))
with atheris.instrument_imports(include=["planish"]):
    from hostile.mutate_proto import mutate
    from hostile.properties import CHECKS


def mutate_model(data: bytes, max_size: int, seed: int) -> bytes:
    """Edits of the message most of the time, of its bytes otherwise."""
    changed = mutate(data, seed) if seed % 4 else data
    if changed == data or len(changed) > max_size:
        changed = atheris.Mutate(data, max_size)
    return changed


def main() -> None:
    check = CHECKS[sys.argv.pop(1)]
    mutator = {"custom_mutator": mutate_model} if check is CHECKS["model"] else {}

    def run(data: bytes) -> None:
        check(data)

    atheris.Setup(["fuzz", "-timeout=20", "-rss_limit_mb=1500", "-max_len=16384", *sys.argv[1:]], run, **mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
