"""A process that has imported everything and run everything once, and forks a child for each run of a case.

Importing PyTorch and transformers takes seconds; a fork takes milliseconds. Requests come as lines of JSON on stdin,
``[kind, number or name]``; the answers on stdout are ``[kind, number, name, failure or null, skipped, seconds]``.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

from attack import forked  # noqa: E402
from attack.harness import Case, Ended, Place, Run, Skip, listing, verdict  # noqa: E402

_GRACE = 5.0
_STEP = 0.005
_HARD_MEMORY = 5 << 29
_LONGEST_STEP = 0.25


class Clock:
    """Time that this process has been running: while the whole machine is stopped, nothing of it counts as hanging."""

    def __init__(self) -> None:
        self.now = 0.0
        self._last = time.monotonic()

    def tick(self) -> None:
        """Go on by the time since the last call, if this process was not stopped meanwhile."""
        present = time.monotonic()
        self.now += min(present - self._last, _LONGEST_STEP)
        self._last = present


CLOCK = Clock()


def child(run: Run, place: Place, name: str) -> None:
    """Become the program; does not return."""
    code = 99
    try:
        code = _become(run, place, name)
    finally:
        # Whatever went wrong: above lies the loop of the process that forks the cases, with its folder to remove.
        os._exit(code)


def _become(run: Run, place: Place, name: str) -> int:
    code = 99
    try:
        os.setsid()
        for number, path in ((1, place.root / f"{name}.out"), (2, place.root / f"{name}.err")):
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(file, number)
            os.close(file)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        os.environ["TMPDIR"], tempfile.tempdir = str(place.temporary), None
        os.environ["LIEQ_CACHE_DIR"] = str(place.cache)
        os.chdir(place.work)
        data = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (data + _HARD_MEMORY, data + _HARD_MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (int(2 * run.cpu) + 1, int(2 * run.cpu) + 2))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # Before the limits of `around`: a Python that cannot open its first module is no fault of the program.
        from lieq_edge.__main__ import main

        if run.around is not None:
            run.around(place)
        if run.body is not None:
            code = run.body(place)
        else:
            sys.argv = ["lieq-edge", *run.arguments]
            main()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


class Process:
    """A run that is under way."""

    def __init__(self, run: Run, place: Place, name: str) -> None:
        if run.between is not None:
            run.between(place)
        self.run, self.place, self.name = run, place, name
        self.ended: Ended | None = None
        self.start = CLOCK.now
        self._stage = 0
        self._usage: Any = None
        sys.stdout.flush()
        self.base = _resident()
        self.pid = os.fork()
        if self.pid == 0:
            child(run, place, name)

    def poll(self) -> bool:
        """Look after it; True when it has ended and nothing of it is left."""
        now = CLOCK.now - self.start
        if self.run.signal is not None and self._stage == 0 and now > self.run.signal[1]:
            self._stage = 1
            self._send(self.run.signal[0])
        if self._usage is None:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid == 0:
                self._hurry(now)
                return False
            self._usage = usage
            self.ended = self._finish(status, usage)
            self._since = CLOCK.now
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return True
        if CLOCK.now - self._since > _GRACE:
            assert self.ended is not None
            self.ended.failure = self.ended.failure or "a process of it is still running"
            self._kill()
        # What has been killed may stay in the list of processes, where nobody asks for its exit code.
        return CLOCK.now - self._since > 2 * _GRACE

    def _hurry(self, now: float) -> None:
        if now > self.run.wall and self._stage < 2:
            self._stage = 2
            self._send(signal.SIGINT)
        elif now > self.run.wall + _GRACE and self._stage < 3:
            self._stage = 3
            self._kill()

    def _send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def _finish(self, status: int, usage: Any) -> Ended:
        ended = Ended(self.run, os.waitstatus_to_exitcode(status))
        ended.output = (self.place.root / f"{self.name}.out").read_bytes()
        ended.errors = (self.place.root / f"{self.name}.err").read_bytes()
        ended.seconds = usage.ru_utime + usage.ru_stime
        ended.memory = 1024 * usage.ru_maxrss - self.base
        if self._stage >= 2:
            way = "Ctrl-C ended it" if self._stage == 2 else "Ctrl-C had no effect"
            ended.failure = f"it was still there after {self.run.wall:.0f} s ({way})"
        elif ended.code == -signal.SIGXCPU:
            ended.failure = f"more than {2 * self.run.cpu:.0f} s of computing"
        return ended


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Trial:
    """A case that is under way."""

    def __init__(self, kind: str, number: Any, folder: Path) -> None:
        self.kind, self.number = kind, number
        self.place = Place(folder)
        self.case = Case("", lambda place: [])
        self.failure, self.skipped = "", ""
        self.runs: list[Run] = []
        self.ended: list[Ended] = []
        self.processes: list[Process] = []
        for part in (self.place.work, self.place.temporary, self.place.cache):
            part.mkdir(parents=True, mode=0o700)
        try:
            self.case = _case(kind, number)
            self.runs = self.case.prepare(self.place)
        except Skip as reason:
            self.skipped = str(reason)
        except Exception:
            self.failure = f"the attack itself failed: {traceback.format_exc()[-500:]}"
        self.before = listing(self.place.work)

    def poll(self) -> bool:
        """Go on; True when all is done."""
        waiting = [process for process in self.processes if not process.poll()]
        self.ended += [p.ended for p in self.processes if p not in waiting and p.ended is not None]
        self.processes = waiting
        if waiting:
            return False
        if self.runs:
            count = len(self.runs) if self.case.together else 1
            batch, self.runs = self.runs[:count], self.runs[count:]
            first = len(self.ended)
            self.processes = [Process(run, self.place, str(first + i)) for i, run in enumerate(batch)]
            return False
        if not self.failure and not self.skipped:
            try:
                self.failure = verdict(self.case, self.place, self.ended, self.before)
            except Exception:
                self.failure = f"the check failed: {traceback.format_exc()[-500:]}"
        return True

    def answer(self) -> list[Any]:
        seconds = sum(ended.seconds for ended in self.ended)
        if "-v" in sys.argv:
            for ended in self.ended:
                print(ended.run.arguments, ended.code, f"{ended.seconds:.2f} s", file=sys.stderr)
                print(ended.output.decode("utf-8", "backslashreplace"), file=sys.stderr)
                print(ended.errors.decode("utf-8", "backslashreplace"), file=sys.stderr)
        return [self.kind, self.number, self.case.name, self.failure or None, self.skipped, seconds]

    def remove(self) -> None:
        shutil.rmtree(self.place.root, ignore_errors=True)


def _case(kind: str, number: Any) -> Case:
    from attack.kinds import KINDS
    from attack.known import KNOWN

    return KNOWN[number] if kind == "known" else KINDS[kind].case(int(number))


def warm_up(folder: Path) -> None:
    """Import everything and run every command once, so that children find it done."""
    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", NUMBA_NUM_THREADS="1")
    os.environ["LIEQ_CACHE_DIR"] = str(folder / "cache")
    from killed import PRELOAD

    for module in (*PRELOAD, forked.ENTRY):
        importlib.import_module(module)
    importlib.import_module(forked.ENTRY).import_libraries()
    import torch

    torch.set_num_threads(1)
    from attack import models
    from one_machine import measure_once

    measure_once()
    models.make_all(folder)
    forked.install()


def serve(jobs: int) -> None:
    """Answer requests until stdin is closed."""
    with tempfile.TemporaryDirectory(prefix="attack-") as name:
        folder = Path(name)
        warm_up(folder)
        answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        print(json.dumps("ready"), file=answers, flush=True)
        waiting: list[list[Any]] = []
        trials: list[Trial] = []
        counter, buffer, is_open = 0, b"", True
        while is_open or waiting or trials:
            patience = _STEP if trials or waiting else None
            if is_open and select.select([0], [], [], patience)[0]:
                content = os.read(0, 1 << 16)
                is_open = bool(content)
                *lines, buffer = (buffer + content).split(b"\n")
                waiting += [json.loads(line) for line in lines]
            elif not is_open:
                time.sleep(_STEP)
            CLOCK.tick()
            while waiting and len(trials) < jobs:
                counter += 1
                trials.append(Trial(*waiting.pop(0), folder / f"case-{counter}"))
            for trial in list(trials):
                if trial.poll():
                    trials.remove(trial)
                    print(json.dumps(trial.answer()), file=answers, flush=True)
                    trial.remove()


if __name__ == "__main__":
    serve(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
