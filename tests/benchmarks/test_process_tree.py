"""Memory and time of commands, taken from outside."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.process_tree import measure

MB = 1_000_000
# Long enough to be looked at on a machine that is busy.
HOLD = "import time; block = b'x' * {size}; time.sleep(1)"


def run(program: str) -> list[str]:
    return [sys.executable, "-S", "-c", program]


def test_memory_of_a_process() -> None:
    # Whoever measures may be larger than what is measured.
    large = b"x" * (400 * MB)
    idle = measure(run(HOLD.format(size=1)))
    start = time.monotonic()
    made = measure(run(HOLD.format(size=150 * MB)))
    taken = time.monotonic() - start
    del large
    assert made.returncode == idle.returncode == 0
    assert made.tree_rss - idle.tree_rss == pytest.approx(150 * MB, rel=0.03)
    assert made.own_rss == pytest.approx(made.tree_rss, rel=0.03)
    assert 0.9 < made.seconds <= taken


def test_children_count() -> None:
    inner = HOLD.format(size=100 * MB)
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {inner!r}]); print('done')"
    program = f"block = b'x' * {60 * MB}; {program}"
    made = measure(run(program))
    assert 160 * MB < made.tree_rss < 220 * MB
    # A single process only.
    assert made.own_rss < 140 * MB
    assert made.stdout == "done\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells pages of files apart")
def test_pages_of_files_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(80 * MB))
    program = (
        f"import mmap, time; file = open({str(path)!r}, 'rb'); view = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ);"
        "count = sum(view[i] for i in range(0, len(view), 4096)); time.sleep(1)"
    )
    made = measure(run(program))
    assert made.tree_rss > 85 * MB
    assert made.tree_anonymous is not None
    assert made.tree_anonymous < 40 * MB


def test_peaks_by_stage() -> None:
    program = (
        "import sys, time\n"
        f"block = b'x' * {90 * MB}; time.sleep(1)\n"
        "print('Measuring: done in 1 s', file=sys.stderr, flush=True); del block; time.sleep(1)\n"
        "print('a remark', file=sys.stderr)\n"
        "print('Quantise and write: done in 0.3 s', file=sys.stderr, flush=True); time.sleep(1)\n"
    )
    made = measure(run(program))
    assert [phase.title for phase in made.phases] == ["Measuring", "Quantise and write", "end"]
    assert made.phases[0].rss > 90 * MB > made.phases[2].rss
    assert sum(phase.seconds for phase in made.phases) == pytest.approx(made.seconds)
    assert "a remark" in made.stderr


def test_the_environment_and_the_exit_code() -> None:
    made = measure(run("import os, sys; sys.exit(int(os.environ['CODE']))"), environment={"CODE": "7"})
    assert made.returncode == 7


def test_an_interrupted_command_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import process_tree

    started: list[int] = []

    def interrupt(processes: list[psutil.Process], now: float) -> None:
        started.append(processes[0].pid)
        raise KeyboardInterrupt

    monkeypatch.setattr(process_tree, "_look", interrupt)
    with pytest.raises(KeyboardInterrupt):
        measure(run("import time; time.sleep(60)"))
    assert not psutil.pid_exists(started[0])
