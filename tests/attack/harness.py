"""What an attack is, and when the program has withstood it.

A case prepares a folder of its own and says what is run there. It has held when every run succeeds or reports one
sentence with an exit code that is right, without a traceback or characters of a file that a terminal would obey, leaves
nothing behind beside its output, and takes seconds and a bounded amount of memory.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

WALL_SECONDS = 90
# A core that another process shares takes up to twice as long.
CPU_SECONDS = 25
MEMORY = 1 << 30

DONE_OR_REFUSED = frozenset({0, 2})


class Skip(Exception):
    """A case cannot be tried on this machine; the message says why."""


@dataclass(frozen=True)
class Place:
    """Folders of a case.

    Attributes:
        root: all of it.
        work: current folder of the program, with its inputs and outputs.
        temporary: folder for temporary files.
        cache: the program's cache.
    """

    root: Path

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def temporary(self) -> Path:
        return self.root / "temporary"

    @property
    def cache(self) -> Path:
        return self.root / "cache"


@dataclass(frozen=True)
class Run:
    """One call of the program.

    Attributes:
        arguments: of the command line; empty when ``body`` is run.
        codes: exit codes that are right; negative ones are signals.
        around: function that is called in the process before the program starts, e.g. to inject a fault.
        body: function that is run instead of the command line; it returns an exit code.
        between: function that is called before this run, outside of it.
        signal: signal that the process receives, and after how many seconds.
        wall: seconds after which it counts as hanging.
        cpu: seconds of computing that it may take.
        memory: bytes that it may take beside what the process starts with.
    """

    arguments: Sequence[str] = ()
    codes: frozenset[int] = DONE_OR_REFUSED
    around: Callable[[Place], None] | None = None
    body: Callable[[Place], int] | None = None
    between: Callable[[Place], None] | None = None
    signal: tuple[int, float] | None = None
    wall: float = WALL_SECONDS
    cpu: float = CPU_SECONDS
    memory: int = MEMORY


@dataclass
class Ended:
    """How a run ended.

    Attributes:
        code: exit code, negative for a signal.
        output: bytes of stdout.
        errors: bytes of stderr.
        seconds: seconds of computing.
        memory: bytes beside what the process started with.
        failure: what the loop that watched it found wrong, empty if nothing.
    """

    run: Run
    code: int = 0
    output: bytes = b""
    errors: bytes = b""
    seconds: float = 0.0
    memory: int = 0
    failure: str = ""


@dataclass
class Case:
    """An attack.

    Attributes:
        name: what is attacked and how, in one line.
        prepare: makes the inputs and returns the runs.
        together: the runs are started at once, not one after the other.
        outputs: names in the folder ``work`` that a run may make or change when it succeeds.
        anyway: names that may also change when a run is refused.
        check: further check at the end; returns what is wrong, or an empty text.
    """

    name: str
    prepare: Callable[[Place], list[Run]]
    together: bool = False
    outputs: frozenset[str] = frozenset({"out.gguf"})
    anyway: frozenset[str] = frozenset()
    check: Callable[[Place, list[Ended]], str] | None = None


Listing = dict[str, tuple[object, ...]]


def listing(folder: Path) -> Listing:
    """What is in a folder, by relative path: kind, size, time of change, goal of a link."""
    found: Listing = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        is_folder = path.is_dir() and not path.is_symlink()
        goal = str(path.readlink()) if path.is_symlink() else ""
        size, changed = (0, 0) if is_folder else (status.st_size, status.st_mtime_ns)
        found[str(path.relative_to(folder))] = (status.st_mode, size, changed, goal)
    return found


def verdict(case: Case, place: Place, runs: list[Ended], before: Listing) -> str:
    """What is wrong after all runs of a case, or an empty text."""
    for ended in runs:
        if wrong := ended.failure or _wrong_end(ended):
            return wrong
    changed = _changed(before, listing(place.work))
    allowed = case.anyway | (case.outputs if any(ended.code == 0 for ended in runs) else frozenset())
    if left := sorted(changed - allowed):
        return f"left behind or changed: {left[:4]!r}"
    if left := [path.name for path in place.temporary.iterdir()]:
        return f"left in the folder for temporary files: {left[:4]!r}"
    if left := [str(path) for path in place.cache.rglob("*") if ".lieq-" in path.name or path.suffix == ".tmp"]:
        return f"left in the cache: {left[:4]!r}"
    return case.check(place, runs) if case.check is not None else ""


def _changed(before: Listing, after: Listing) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def _wrong_end(ended: Ended) -> str:
    errors = ended.errors.decode("utf-8", "backslashreplace")
    if "Traceback" in errors:
        return f"a traceback: {errors.strip().splitlines()[-1][:200]}"
    if ended.code not in ended.run.codes:
        return f"exit code {ended.code}: {errors.strip()[-200:]!r}"
    said = [line for line in errors.splitlines() if line.startswith("Error: ")]
    if ended.code == 2 and len(said) != 1:
        return f"{len(said)} sentences for exit code 2: {errors[-200:]!r}"
    for name, text in (("stdout", ended.output), ("stderr", ended.errors)):
        try:
            decoded = text.decode("utf-8")
        except UnicodeDecodeError:
            return f"{name} is not UTF-8"
        if odd := [c for c in decoded if not c.isprintable() and c != "\n"]:
            return f"{name} has the character {odd[0]!r}"
    if ended.seconds > ended.run.cpu:
        return f"{ended.seconds:.0f} s of computing"
    if ended.memory > ended.run.memory:
        return f"{ended.memory / 1e6:.0f} MB of memory"
    return ""


@dataclass
class Kind:
    """A kind of attack.

    Attributes:
        name: of the kind.
        case: the attack of a number; the same number gives the same attack on each machine.
        share: part of all cases; kinds that take longer have fewer.
    """

    name: str
    case: Callable[[int], Case]
    share: float
    notes: list[str] = field(default_factory=list)


def seeded(kind: str, number: int) -> random.Random:
    """The source of all choices of a case."""
    return random.Random(f"{kind} {number}")
