"""An interrupt that a library swallows still ends the work at its next step."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from runner import started

from lieq_edge.system import interrupt
from lieq_edge.system.progress import set_quiet, stage


@pytest.fixture(autouse=True)
def own_handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    interrupt.watch()
    yield
    interrupt.watch()  # forgets what the test has sent, which would end another test
    signal.signal(signal.SIGINT, before)


def _swallow_an_interrupt() -> None:
    try:
        signal.raise_signal(signal.SIGINT)
    except BaseException:  # as a careless library does
        return


@pytest.mark.parametrize("quiet", [True, False])
def test_a_swallowed_interrupt_ends_the_next_step(quiet: bool) -> None:
    set_quiet(quiet)
    try:
        with stage("Working", 2) as advance:
            advance()
            _swallow_an_interrupt()
            with pytest.raises(KeyboardInterrupt):
                advance()
            advance()  # raised once
    finally:
        set_quiet(False)


def test_an_interrupt_raises_where_it_comes() -> None:
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_an_interrupt_within_an_import_waits_for_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_library.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\nwhole = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.import_module("slow_library").whole
    with pytest.raises(KeyboardInterrupt):
        interrupt.check()


def test_a_second_interrupt_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hanging_library.py").write_text("import signal\nwhile True: signal.raise_signal(signal.SIGINT)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        importlib.import_module("hanging_library")


def test_an_error_that_an_interrupt_caused_is_raised_as_the_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    from lieq_edge.cli import program

    def fail(*_: object, **__: object) -> int:
        _swallow_an_interrupt()
        raise ImportError("half imported")

    monkeypatch.setattr(program, "app", fail)
    with pytest.raises(KeyboardInterrupt):
        program.main()


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("busy", ["import slow_library", "interrupt._asked = True; swallow()"])
def test_an_interrupt_without_effect_ends_the_process_a_moment_later(
    number: signal.Signals, busy: str, tmp_path: Path
) -> None:
    """Neither an import nor a library that swallows interrupts keeps the process; its temporary files are removed."""
    (tmp_path / "slow_library.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(60)\n")
    program = (
        "import sys, time, tempfile; from pathlib import Path\n"
        "from lieq_edge import __main__\n"
        "from lieq_edge.system import interrupt, temporary\n"
        "def swallow():\n"
        "    while True:\n"
        "        try:\n"
        "            print('ready', flush=True)  # here, for the interrupt may follow at once\n"
        "            time.sleep(60)\n"
        "        except BaseException: pass\n"
        "interrupt.watch(__main__._interrupt)\n"
        "with temporary.temporary_folder(Path(sys.argv[1])), temporary.temporary_file(Path(sys.argv[1])):\n"
        f"    {busy}\n"
    )
    (tmp_path / "temporary").mkdir()
    words = [sys.executable, "-c", program, str(tmp_path / "temporary")]
    paths = os.pathsep.join([str(tmp_path), str(Path(interrupt.__file__).parents[2])])
    environment = {**os.environ, "PYTHONPATH": paths}
    with started(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert list((tmp_path / "temporary").iterdir())
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert errors == "Interrupted.\n"
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_the_first_interrupt_of_work_that_may_be_stopped_is_caught() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interrupt.caught() as came:
        assert not came()
        signal.raise_signal(signal.SIGINT)
        assert came()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    interrupt._forgiven = 0


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_a_caught_interrupt_does_not_end_the_process_later() -> None:
    program = (
        "import os, signal, time\n"
        "from lieq_edge import __main__\n"
        "from lieq_edge.system import interrupt\n"
        "interrupt.watch(__main__._interrupt)\n"
        "for _ in range(2):\n"
        "    with interrupt.caught() as came:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        assert came()\n"
        "time.sleep(2 * interrupt._PATIENCE + 0.5)\n"
        "print('still here', flush=True)\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(interrupt.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", f"{program}"], capture_output=True, text=True, env=environment, timeout=30
    )
    assert done.stdout == "still here\n"
    assert "KeyboardInterrupt" in done.stderr or "Interrupted." in done.stderr
    assert done.returncode != 0
