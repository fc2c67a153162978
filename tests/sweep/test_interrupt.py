"""Ctrl-C in the middle of a sweep: every process ends, and the command that goes on is printed."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from runner import started
from tiny import cached_model


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no signal to another process")
def test_ctrl_c_ends_all_processes_and_says_how_to_go_on(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(f"models: [{cached_model(hidden=256, intermediate=512, seed=0)}]\nbudgets: [4]\nmetrics: [first]\n")
    command = [sys.executable, "-m", "lieq_edge", "sweep", str(path), "--out", str(tmp_path / "out")]
    # A group of its own, as a terminal makes one: Ctrl-C reaches all processes in it.
    with started(command, stderr=subprocess.PIPE, start_new_session=True) as process:
        assert process.stderr is not None
        lines = [process.stderr.readline()]
        while "works on" not in lines[-1]:
            assert lines[-1], lines
            lines.append(process.stderr.readline())
        children = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        rest = process.communicate(timeout=300)[1]
        assert process.returncode == 130
        assert "Traceback" not in rest
        before, interrupted, _ = rest.partition("Interrupted.\n")
        assert interrupted
        assert all(line.startswith("Note: ") for line in before.splitlines())  # of the work that was stopped
        assert f"The same command goes on from there:\n  {shlex.join(['lieq-edge', *command[3:]])}" in rest
        assert psutil.wait_procs(children, timeout=300)[1] == []
