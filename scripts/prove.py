"""Checks every rule as a rule: on each rewrite of its golden cases and of random models, exactly where possible.

    scripts/prove [--models 200] [--out docs/results/proofs.md]

The exit code says whether each rule is proved or exactly checked wherever a golden case makes it fire, or listed with
a reason in `tests/prove/golden.py`, no rewrite was found to be different, and no planted fault was accepted.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from planish.driver.prove.ledger import CHECKED, DIFFERENT, KINDS, PROVED, TESTED, UNCHECKED, Ledger
from planish.tests.bisect.mutants import MUTANTS
from planish.tests.bisect.planted import registered
from planish.tests.prove.golden import (
    OPEN,
    RIGHT_IN_A_PLACE,
    approximations,
    golden_ledger,
    planted_ledger,
    random_ledger,
    rules,
)

HEADER = """# Rules checked as rules

Written by `scripts/prove`. Each rewrite was cut out as two small models, before and after, and compared as
[trust](../trust.md) says. *Proved*: the same expression, or the same movement of elements. *Exactly checked*: equal
over the field of 2^61 - 1 elements, for random operands. *Tested*: run on made-up operands. *Unchecked*: none of these.

"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=200, help="random models (default: 200)")
    parser.add_argument("--out", type=Path, default=Path("docs/results/proofs.md"))
    args = parser.parse_args()
    start = time.process_time()
    golden, drawn = golden_ledger(), random_ledger(args.models)
    with registered():
        planted = {name: planted_ledger(name) for name in MUTANTS}
    wrong = problems(golden, drawn, planted)
    text = (
        HEADER + summary(golden, drawn, planted) + rule_table(golden, drawn) + left_over(drawn) + planted_table(planted)
    )
    args.out.write_text(text, "utf-8")
    print(summary(golden, drawn, planted), f"{time.process_time() - start:.0f} s of CPU time\n", *wrong, sep="\n")
    return 1 if wrong else 0


def problems(golden: Ledger, drawn: Ledger, planted: dict[str, dict[str, int]]) -> list[str]:
    """What must not be."""
    found = [f"different: {rule}" for ledger in (golden, drawn) for rule, k in ledger.counts.items() if DIFFERENT in k]
    for rule in rules():
        if (
            rule not in OPEN
            and rule not in approximations()
            and (not golden.counts.get(rule) or not exact(golden.counts[rule]))
        ):
            found.append(f"neither proved nor exactly checked, nor listed: {rule}")
    return found + [f"accepted: {name}" for name, kinds in planted.items() if accepted(name, kinds)]


def accepted(name: str, kinds: dict[str, int]) -> bool:
    """Whether a planted fault was taken for right, other than in a place that bears it out."""
    return CHECKED in kinds and (name not in RIGHT_IN_A_PLACE or exact(kinds))


def exact(kinds: dict[str, int]) -> bool:
    return not set(kinds) - {PROVED, CHECKED}


def summary(golden: Ledger, drawn: Ledger, planted: dict[str, dict[str, int]]) -> str:
    lossy = approximations()
    known = [rule for rule in rules() if rule not in lossy]
    listed = sum(rule in OPEN for rule in known)
    caught = sum(not exact(kinds) and not accepted(name, kinds) for name, kinds in planted.items())
    taken = sum(accepted(name, kinds) for name, kinds in planted.items())
    refused = sum(not kinds for kinds in planted.values())
    rest = len(planted) - caught - taken - refused
    return "\n".join(
        [
            f"* {len(known)} rules: {len(known) - listed} proved or exactly checked on every golden case that makes "
            f"them fire, {listed} listed below with a reason. "
            f"{len(lossy)} more belong to passes that promise an approximation, which the error budget judges.",
            f"* Golden cases: {golden.sentence}.",
            f"* {drawn.asked} through the default pipeline: {drawn.sentence}.",
            f"* {len(planted)} planted faults (`tests/bisect/mutants.py`): the exact check alone refuses {caught} and "
            f"accepts {taken}; {refused} are refused by the rewriter before, {rest} compute what they should and "
            "leave a wrong type, which the verifier finds.",
            "",
            "",
        ]
    )


def rule_table(golden: Ledger, drawn: Ledger) -> str:
    kinds = (PROVED, CHECKED, TESTED, UNCHECKED)
    lines = [
        "| rule | " + " | ".join([*kinds, *(f"random: {kind}" for kind in kinds)]) + " | |",
        "|---|" + "---:|" * (2 * len(kinds)) + "---|",
    ]
    reasons = {**dict.fromkeys(approximations(), "an approximation: no identity"), **OPEN}
    for rule in rules():
        cells = [str(ledger.counts.get(rule, {}).get(kind, "")) for ledger in (golden, drawn) for kind in kinds]
        lines.append(f"| `{rule}` | {' | '.join(cells)} | {reasons.get(rule, '')} |")
    return "\n".join(lines) + "\n\n"


def left_over(drawn: Ledger) -> str:
    """Why rewrites of random models are neither proved nor exactly checked."""
    lines = ["## Rewrites of random models that are neither proved nor exactly checked", ""]
    for rule, reasons in drawn.reasons.items():
        lines += [f"* `{rule}`, {n}: {why}" for why, n in reasons.items() if why.startswith((TESTED, UNCHECKED))]
    return "\n".join(lines) + "\n\n"


def planted_table(planted: dict[str, dict[str, int]]) -> str:
    lines = [
        "## Planted faults under the exact check alone",
        "",
        "| wrong rule | rewrites | verdict |",
        "|---|---:|---|",
    ]
    for name, kinds in planted.items():
        verdict = "refused by the rewriter" if not kinds else ", ".join(_verdict(k) for k in KINDS if k in kinds)
        lines.append(f"| {name} | {sum(kinds.values()) or ''} | {verdict} |")
    return "\n".join(lines) + "\n"


def _verdict(kind: str) -> str:
    return "not accepted" if kind in (UNCHECKED, DIFFERENT) else kind


if __name__ == "__main__":
    sys.exit(main())
