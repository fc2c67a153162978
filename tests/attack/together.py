"""Several processes or threads at once: with one cache, one output, or while another clears the cache."""

from __future__ import annotations

import signal
from collections.abc import Callable

from attack import models
from attack.harness import Case, Ended, Place, Run, seeded

DONE = frozenset({0})


def case(number: int) -> Case:
    """Kinds in turn."""
    rng = seeded("together", number)
    ways: tuple[Callable[[], Case], ...] = (
        lambda: processes_case(2, same=False),
        lambda: threads_case(2),
        lambda: processes_case(2, same=True),
        lambda: clearing_case(rng.randrange(1, 4)),
        lambda: killed_case(rng.uniform(0.0, 1.0)),
        lambda: processes_case(3, same=False),
        lambda: threads_case(3),
    )
    return ways[number % len(ways)]()


def export(out: str, *more: str) -> tuple[str, ...]:
    """An export of the model ``llama``."""
    return ("export", "model", *models.MEASURED, "--out", out, *more)


def processes_case(count: int, *, same: bool) -> Case:
    """Exports at once, with one cache."""
    names = ["out.gguf" if same else f"out{i}.gguf" for i in range(count)]
    # Of several for one output, without --force the first to finish stays, and others may be stored beside it.
    runs = [Run(export(name)) if same else Run(export(name), codes=DONE) for name in names]
    return _case(f"{count} processes, {'one output' if same else 'one cache'}", names, runs)


def clearing_case(count: int) -> Case:
    """Two exports while another process clears the cache."""
    names = ["out0.gguf", "out1.gguf"]
    clears = [Run(("cache", "clear"), codes=DONE) for _ in range(count)]
    return _case(
        f"cleared {count} times meanwhile", names, [*(Run(export(name), codes=DONE) for name in names), *clears]
    )


def killed_case(seconds: float) -> Case:
    """Two exports at once, of which one is killed; what it leaves is removed by the next command at the same place."""
    killed = Run(export("out0.gguf"), codes=frozenset({0, -signal.SIGKILL}), signal=(signal.SIGKILL, seconds))
    both = Run(body=lambda place: _together([killed, Run(export("out1.gguf"), codes=DONE)]), codes=DONE)

    def prepare(place: Place) -> list[Run]:
        (place.work / "model").symlink_to(models.directory("llama"))
        return [both, Run(export("out2.gguf"), codes=DONE)]

    def check(place: Place, ended: list[Ended]) -> str:
        return _same_bytes(place)

    made = frozenset({"out0.gguf", "out1.gguf", "out2.gguf"})
    return Case(f"one of two killed after {seconds:.2f} s", prepare, outputs=made, check=check)


def _together(runs: list[Run]) -> int:
    """Run commands at once in children of this process; the first is killed."""
    import os
    import sys
    import time

    children = []
    for run in runs:
        pid = os.fork()
        if pid == 0:
            sys.argv = ["lieq-edge", *run.arguments]
            from lieq_edge.__main__ import main

            main()
        children.append(pid)
    assert runs[0].signal is not None
    time.sleep(runs[0].signal[1])
    os.kill(children[0], runs[0].signal[0])
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    return 0 if all(code in run.codes for code, run in zip(codes, runs, strict=True)) else 1


def threads_case(count: int) -> Case:
    """Exports in threads of one process."""

    def body(place: Place) -> int:
        from concurrent.futures import ThreadPoolExecutor

        import lieq_edge

        settings = lieq_edge.Settings(
            budget="4", calibration="docs", calibration_tokens=256, probe_tokens=32, rounding="imatrix",
            validation=False, parity=False, threads=1,
        )  # fmt: skip
        with ThreadPoolExecutor(count) as pool:
            works = [pool.submit(lieq_edge.export_model, "model", f"out{i}.gguf", settings) for i in range(count)]
            for work in works:
                work.result()
        return 0

    return _case(f"{count} threads", [f"out{i}.gguf" for i in range(count)], [Run(body=body, codes=DONE)])


def _case(name: str, names: list[str], runs: list[Run]) -> Case:
    def prepare(place: Place) -> list[Run]:
        (place.work / "model").symlink_to(models.directory("llama"))
        return runs

    def check(place: Place, ended: list[Ended]) -> str:
        if not any(run.code == 0 for run in ended):
            return "none of them succeeded"
        return _same_bytes(place)

    beside = frozenset({"out-2.gguf", "out-3.gguf"})
    return Case(name, prepare, together=True, outputs=frozenset(names) | beside, check=check)


def _same_bytes(place: Place) -> str:
    wrong = [path.name for path in place.work.glob("*.gguf") if path.read_bytes() != models.written()]
    return f"other bytes: {wrong}" if wrong else ""
