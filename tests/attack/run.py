"""Try attacks by hand: ``python -m tests.attack.run KIND NUMBER``, or ``--all N`` for a table of N cases.

The kind ``known`` takes a name instead of a number.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

from attack.client import Attackers, Verdict  # noqa: E402
from attack.kinds import KINDS, numbers  # noqa: E402


def main() -> int:
    """Run the cases and print what failed; exit code 1 when any did."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack.run", description=__doc__)
    parser.add_argument("kind", nargs="?", choices=[*KINDS, "known"])
    parser.add_argument("number", nargs="*", help="numbers, ranges A-B, or names of known attacks")
    parser.add_argument("--all", type=int, metavar="N", help="about N cases of all kinds")
    parser.add_argument("--jobs", type=int, default=2, help="cases at once")
    parser.add_argument("--times", action="store_true", help="say how long each kind takes")
    arguments = parser.parse_args()
    if arguments.all is not None:
        cases = [(kind, number) for kind, count in numbers(arguments.all).items() for number in range(count)]
    elif arguments.kind is not None and arguments.number:
        cases = [(arguments.kind, number) for text in arguments.number for number in _expand(arguments.kind, text)]
    else:
        parser.error("give a kind and a number, or --all N")
    tried, held, skipped, seconds = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    with Attackers(arguments.jobs, verbose=len(cases) < 8) as attackers:
        for verdict in attackers.attack(cases):
            tried[verdict.kind] += not verdict.skipped
            skipped[verdict.kind] += bool(verdict.skipped)
            held[verdict.kind] += verdict.failure is None and not verdict.skipped
            seconds[verdict.kind] += verdict.seconds
            if verdict.failure is not None or len(cases) < 20:
                print(describe(verdict), flush=True)
    print("| kind | tried | held | failed | skipped |")
    print("|---|---|---|---|---|")
    for kind in tried:
        row = (tried[kind], held[kind], tried[kind] - held[kind], skipped[kind])
        time = f" {seconds[kind] / max(tried[kind], 1):.2f} s each" if arguments.times else ""
        print(f"| {kind} | {' | '.join(map(str, row))} |{time}")
    return int(tried.total() > held.total())


def describe(verdict: Verdict) -> str:
    """A case and its end in one line."""
    end = f"FAILED: {verdict.failure}" if verdict.failure else verdict.skipped or "held"
    return f"{verdict.repro}  # {verdict.name}: {end}"


def _expand(kind: str, text: str) -> list[str | int]:
    if kind == "known":
        return [text]
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


if __name__ == "__main__":
    sys.exit(main())
