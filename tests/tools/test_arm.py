"""Files on ARM64: what the comparison calls a fault, and the runs themselves where a build is stored."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tools.arm.__main__ import checks
from tools.arm.check import MOST_DIVERGENCE, Check, check_run
from tools.arm.files import tiny_files
from tools.arm.folder import VARIABLE, program, version
from tools.arm.runs import CPUS, EMULATOR, Run, RunError, repacked_bytes, run_on_arm

SCRIPT = Path(__file__).parents[2] / "tools" / "arm.sh"


@pytest.fixture
def run() -> Run:
    logits = np.random.default_rng(0).standard_normal((5, 40)).astype(np.float32)
    return Run(np.arange(6, dtype=np.int32), 4, logits, "neon-dotprod", 1_000_000)


def checked(reference: Run, run: Run) -> Check:
    return check_run("file", reference, run, instructions="neon-dotprod", copies=1_000_000)


def test_rounding_is_no_fault(run: Run) -> None:
    noise = 1e-3 * np.random.default_rng(1).standard_normal(run.logits.shape)
    check = checked(run, replace(run, logits=run.logits + noise.astype(np.float32)))
    assert check.line.startswith("file: passed (same 2 tokens; KL divergence ")


def test_other_predictions_are_a_fault(run: Run) -> None:
    check = checked(run, replace(run, logits=run.logits[:, ::-1]))
    assert f"{MOST_DIVERGENCE:.0e} is allowed" in check.fault
    assert "not finite" in checked(run, replace(run, logits=run.logits * np.float32("nan"))).fault


def test_another_token_is_right_where_noise_may_choose_it(run: Run) -> None:
    other = replace(run, ids=np.array([0, 1, 2, 3, 4, 9], np.int32))
    near = run.logits.copy()
    near[4] = 0
    assert "same 1 tokens, then a choice" in checked(replace(run, logits=near), replace(other, logits=near)).detail


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"ids": np.array([9, 1, 2, 3, 4, 5], np.int32)}, "the text has other tokens"),
        ({"ids": np.array([0, 1, 2, 3, 4, 9], np.int32)}, "token 2 of the answer is another"),
        ({"instructions": "neon"}, "saw neon instructions"),
        ({"repacked": 0}, "0 bytes are in another layout"),
    ],
)
def test_each_difference_is_a_fault(run: Run, changed: dict[str, object], fault: str) -> None:
    assert fault in checked(run, replace(run, **changed)).line


def test_the_size_of_the_other_layout_is_read_from_the_log() -> None:
    lines = [
        "load_tensors:   CPU_Mapped model buffer size =  0.74 MiB",
        "x:   CPU_REPACK model buffer size =  0.50 MiB",
    ]
    assert repacked_bytes(lines) == 1 << 19
    assert repacked_bytes(lines[:1]) == 0


def test_the_build_is_that_of_the_pinned_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert program().parents[1] == tmp_path / version()
    assert program().name.startswith("run-")


def test_libraries_are_looked_for_beside_the_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[list[str]] = []

    def start(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        started.append(command)
        return subprocess.CompletedProcess(command, 127, b"", b"no such library")

    monkeypatch.setattr(subprocess, "run", start)
    with pytest.raises(RunError, match="exit code 127: no such library"):
        run_on_arm(tmp_path / "bin" / "run", tmp_path / "a.gguf", CPUS[0])
    assert started[0][started[0].index("-E") + 1] == f"LD_LIBRARY_PATH={tmp_path / 'bin'}"


@pytest.mark.skipif(sys.platform == "win32" or shutil.which("bash") is None, reason="needs bash")
def test_missing_packages_are_named(tmp_path: Path) -> None:
    for name in ("bash", "dirname", "basename"):
        (tmp_path / name).symlink_to(shutil.which(name) or pytest.skip(f"{name} is not installed"))
    variables = {**os.environ, "LIEQ_VENV": sys.prefix, VARIABLE: str(tmp_path / "build"), "PATH": str(tmp_path)}
    done = subprocess.run([str(tmp_path / "bash"), str(SCRIPT)], capture_output=True, text=True, env=variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "Packages are missing: apt-get install qemu-user-static\n"


@pytest.mark.skipif(
    shutil.which(EMULATOR) is None or not program().exists(), reason="tools/arm.sh builds what it needs"
)
def test_tiny_files_run_on_arm(tmp_path: Path) -> None:
    found = [check for path in tiny_files(tmp_path) for check in checks(path, program())]
    assert [check.line for check in found if check.fault] == []
    assert len(found) >= 5 * 3
