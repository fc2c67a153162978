"""Faults of the machine: writes that fail, limits, full disks, signals, a damaged cache, weights that change."""

from __future__ import annotations

import ctypes
import os
import random
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attack import models
from attack.harness import Case, Ended, Place, Run, Skip, seeded
from damage import damage_bytes

EXPORT = ("export", "model", *models.MEASURED, "--out", "out.gguf")
AGAIN = (*EXPORT, "--force")
REFUSED, DONE = frozenset({2}), frozenset({0})


def case(number: int) -> Case:
    """Kinds of faults in turn."""
    rng = seeded("faults", number)
    ways: tuple[Callable[[random.Random], Case], ...] = (
        _write,
        _limit,
        _signal,
        _cache,
        _swapped,
        _disk,
        _signal,
        _cache,
    )
    return ways[number % len(ways)](rng)


def fault_case(name: str, runs: Callable[[Place], list[Run]], *, model: str = "llama", linked: bool = True) -> Case:
    """An export with a fault; what it then leaves at the output is the right file or nothing."""

    def prepare(place: Place) -> list[Run]:
        if linked:
            (place.work / "model").symlink_to(models.directory(model))
        else:
            # The folder's name goes into the file.
            (place.work / "model").symlink_to(models.copy(model, place, to=f"own/{models.directory(model).name}"))
        return runs(place)

    return Case(name, prepare, check=right_or_nothing)


def right_or_nothing(place: Place, runs: list[Ended]) -> str:
    """The output is byte for byte what it should be, or is not there."""
    out = place.work / "out.gguf"
    if runs[-1].code == 0 and not out.exists():
        return "no output in spite of exit code 0"
    return "the output has other bytes" if out.exists() and out.read_bytes() != models.written() else ""


def _write(rng: random.Random) -> Case:
    """The n-th write of a file writes less, fails, or writes other bytes than it was given."""
    count, way = rng.randrange(0, 6), rng.choice(("short", "ENOSPC", "EIO", "lost", "other"))

    def around(place: Place) -> None:
        models.cached(place)
        from lieq_edge.system import checked

        own, owner = checked._open_raw, os.getpid()

        def open_raw(path: Path) -> Any:
            return FaultyFile(path, count, way) if os.getpid() == owner else own(path)

        checked._open_raw = open_raw
        checked._BUFFER = 4096

    return fault_case(f"write {count}: {way}", lambda place: [Run(EXPORT, around=around)])


class FaultyFile:
    """A raw file whose n-th write goes wrong."""

    def __new__(cls, path: Path, count: int, way: str) -> Any:
        import errno
        import io

        class Faulty(io.FileIO):
            left = count

            def write(self, content: Any) -> int:
                self.left -= 1
                if self.left != -1:
                    return super().write(content)
                if way in ("ENOSPC", "EIO"):
                    raise OSError(getattr(errno, way), os.strerror(getattr(errno, way)))
                size = memoryview(content).nbytes
                if way == "short":
                    return super().write(memoryview(content)[: size // 2])
                super().write(bytes(size) if way == "other" else b"")
                return size

        return Faulty(path, "w")


def _limit(rng: random.Random) -> Case:
    """A limit on the size of files, on open files, or on memory."""
    size = len(models.written())
    way = rng.choice(("file", "file", "file", "open", "memory"))
    value = {
        # The process has to be able to print a sentence.
        "file": max(4096, rng.choice((rng.randrange(size), size - 1, size - 4096))),
        "open": rng.randrange(4, 24),
        "memory": rng.randrange(1, 60) << 20,
    }[way]
    # A process without file handles or memory may end in other ways than one sentence; it must not leave a wrong file.
    return limit_case(way, value)


def limit_case(way: str, value: int) -> Case:
    """An export under a limit of the system."""

    def around(place: Place) -> None:
        if way == "memory":
            pages = int(Path("/proc/self/statm").read_text().split()[5])
            limit = pages * resource.getpagesize() + value
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        else:
            which = {"file": resource.RLIMIT_FSIZE, "open": resource.RLIMIT_NOFILE}[way]
            resource.setrlimit(which, (value, value))

    return fault_case(f"limit of {way}: {value}", lambda place: [Run(EXPORT, around=around)])


def _signal(rng: random.Random) -> Case:
    """A signal at the n-th call of something, and the same command again."""
    number = rng.choice((signal.SIGINT, signal.SIGTERM, signal.SIGKILL))
    module, name = rng.choice(MOMENTS)
    return signal_case(number, module, name, rng.randrange(1, 8))


MOMENTS = (
    ("os", "replace"),
    ("os", "link"),
    ("lieq_edge.system.checked:CheckedFile", "write"),
    ("lieq_edge.system.checked", "check_content"),
    ("lieq_edge.system.lock:FileLock", "acquire"),
    ("lieq_edge.system.lock:FileLock", "discard"),
    ("lieq_edge.system.interrupt", "check"),
    ("lieq_edge.system.child:Child", "call"),
    ("numpy", "empty"),
)


def signal_case(number: int, module: str, name: str, count: int) -> Case:
    """An export that receives a signal at the ``count``-th call of a function."""

    def around(place: Place) -> None:
        import importlib

        home, _, owner = module.partition(":")
        found: Any = importlib.import_module(home)
        found = getattr(found, owner) if owner else found
        own, left, owner = getattr(found, name), [count], os.getpid()

        def replaced(*arguments: Any, **named: Any) -> Any:
            left[0] -= os.getpid() == owner
            if left[0] == 0 and os.getpid() == owner:
                left[0] = -1
                os.kill(owner, number)
            return own(*arguments, **named)

        setattr(found, name, replaced)

    ends = {signal.SIGKILL: -signal.SIGKILL}.get(number, 128 + number)
    codes = frozenset({0, ends})
    first, again = Run(EXPORT, codes=codes, around=around), Run(AGAIN, codes=DONE)
    return fault_case(f"{signal.Signals(number).name} at call {count} of {name}", lambda place: [first, again])


def _cache(rng: random.Random) -> Case:
    """One entry of the cache is damaged."""
    seed, way = rng.randrange(1 << 30), rng.choice(("bytes", "bytes", "empty", "other", "pipe", "link", "folder"))

    def runs(place: Place) -> list[Run]:
        models.cached(place)
        entries = sorted(path for path in place.cache.rglob("*.safetensors") if path.is_file())
        chosen = entries[seed % len(entries)]
        content = chosen.read_bytes()
        other = entries[(seed + 1) % len(entries)].read_bytes()
        chosen.unlink()
        if way == "pipe":
            os.mkfifo(chosen, 0o600)
        elif way == "link":
            (place.root / "elsewhere").write_bytes(content)
            chosen.symlink_to(place.root / "elsewhere")
        elif way == "folder":
            chosen.mkdir()
        else:
            chosen.write_bytes({"bytes": damage_bytes(content, seed), "empty": b"", "other": other}[way])
            chosen.chmod(0o600)
        return [Run(EXPORT, codes=DONE)]

    return fault_case(f"cache entry: {way}, seed {seed}", runs)


def _swapped(rng: random.Random) -> Case:
    """The weights are replaced by those of another model when the n-th stage begins, and put back afterwards."""
    return swapped_case(rng.randrange(1, 5))


def swapped_case(count: int) -> Case:
    """Weights that change during an export; later exports of the old ones must not notice."""

    def around(place: Place) -> None:
        from lieq_edge.system import progress

        own, left = progress.Terminal.stage, [count]

        def stage(self: Any, title: str, total: int) -> Any:
            left[0] -= 1
            if left[0] == 0:
                new = place.work / "model" / "new"
                new.write_bytes((models.directory("other") / "model.safetensors").read_bytes())
                os.replace(new, place.work / "model" / "model.safetensors")
            return own(self, title, total)

        progress.Terminal.stage = stage  # type: ignore[method-assign]

    def back(place: Place) -> None:
        (place.work / "out.gguf").unlink(missing_ok=True)
        content = (models.directory("llama") / "model.safetensors").read_bytes()
        (place.work / "model" / "model.safetensors").write_bytes(content)

    def check(place: Place, runs: list[Ended]) -> str:
        if runs[0].code == 0 and (place.work / "first.gguf").read_bytes() != models.written():
            return "the weights changed during the export, which was not noticed"
        return right_or_nothing(place, runs)

    def prepare(place: Place) -> list[Run]:
        # The folder's name goes into the file.
        (place.work / "model").symlink_to(models.copy("llama", place, to=f"own/{models.directory('llama').name}"))
        first = ("export", "model", *models.MEASURED, "--out", "first.gguf")
        return [Run(first, around=around), Run(EXPORT, codes=DONE, between=back)]

    made = frozenset({"out.gguf", "first.gguf", "model/model.safetensors", "own/llama/model.safetensors"})
    return Case(f"weights swapped at stage {count}", prepare, outputs=made, anyway=made, check=check)


def _disk(rng: random.Random) -> Case:
    """The disk of the output, of the cache or of temporary files is small."""
    size = rng.choice((4096, 16384, 65536, 98304, len(models.written()) // 4096 * 4096))
    return disk_case(rng.choice(("out", "out", "cache", "temporary")), size)


def disk_case(which: str, size: int) -> Case:
    """An export with a small disk, mounted where only this process sees it."""

    def body(place: Place) -> int:
        disk = place.root / "disk"
        disk.mkdir()
        mount_tmpfs(disk, size)
        out = disk / "out.gguf" if which == "out" else place.work / "out.gguf"
        if which != "out":
            os.environ[{"cache": "LIEQ_CACHE_DIR", "temporary": "TMPDIR"}[which]] = str(disk)
        pid = os.fork()
        if pid == 0:
            sys.argv = ["lieq-edge", *EXPORT[:-1], str(out)]
            from lieq_edge.__main__ import main

            main()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if which == "out":
            left = [path.name for path in disk.iterdir()]
            assert left == (["out.gguf"] if code == 0 else []), left
            assert code != 0 or out.read_bytes() == models.written()
            return code
        return code

    def prepare(place: Place) -> list[Run]:
        if not can_mount():
            raise Skip("no small disk can be mounted here")
        (place.work / "model").symlink_to(models.directory("llama"))
        return [Run(body=body)]

    return Case(f"disk of {size} bytes for {which}", prepare)


_NEW_NAMESPACE = 0x00020000
_PRIVATE = (1 << 18) | (1 << 14)


def mount_tmpfs(folder: Path, size: int) -> None:
    """Mount a file system in memory, in a namespace of this process.

    Raises:
        OSError: the system does not allow it.
    """
    system = ctypes.CDLL(None, use_errno=True)
    steps = (
        lambda: system.unshare(_NEW_NAMESPACE),
        lambda: system.mount(b"none", b"/", None, ctypes.c_ulong(_PRIVATE), None),
        lambda: system.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", ctypes.c_ulong(0), f"size={size}".encode()),
    )
    for step in steps:
        if step() != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def can_mount() -> bool:
    """True when ``mount_tmpfs`` works here."""
    pid = os.fork()
    if pid == 0:
        try:
            mount_tmpfs(Path("/tmp"), 4096)
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0
