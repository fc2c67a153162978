"""Temporary files go with their process, at the latest when the next one looks."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from runner import started

from lieq_edge.system.files import sweep
from lieq_edge.system.lock import FileLock
from lieq_edge.system.temporary import sweep_folder, temporary_file, temporary_folder

_HOLD = """
import sys, time
from pathlib import Path
from lieq_edge.system.temporary import temporary_file, temporary_folder
folder = Path(sys.argv[1])
with temporary_file(folder) as file, temporary_folder(folder) as inside, temporary_folder() as elsewhere:
    for path in (file, inside / "large", elsewhere / "large"):
        path.write_bytes(b"x")
    print("ready", flush=True)
    time.sleep(100)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_they_are_private_and_gone_at_the_end(tmp_path: Path) -> None:
    with temporary_file(tmp_path) as file, temporary_folder(tmp_path) as folder:
        assert [stat.S_IMODE(path.stat().st_mode) for path in (file, folder)] == [0o600, 0o700]
        (folder / "inside").write_text("x")
        sweep_folder(tmp_path)
        assert file.exists()
        assert (folder / "inside").exists()
    assert names(tmp_path) == []


def test_a_renamed_file_stays(tmp_path: Path) -> None:
    with temporary_file(tmp_path) as file:
        file.write_text("x")
        file.rename(tmp_path / "final")
    assert names(tmp_path) == ["final"]


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGKILL")
@pytest.mark.parametrize("number", [9, 15], ids=["KILL", "TERM"])
def test_what_a_killed_process_left_is_removed_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    beside, elsewhere = tmp_path / "beside", tmp_path / "elsewhere"
    beside.mkdir()
    elsewhere.mkdir()
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with started([sys.executable, "-c", _HOLD, beside], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        before = names(beside), names(elsewhere)
        sweep(beside / "out")
        assert (names(beside), names(elsewhere)) == before
        assert [len(listed) for listed in before] == [4, 2]
        process.send_signal(signal.Signals(number))
        process.wait()
    assert (names(beside), names(elsewhere)) == before
    sweep(beside / "out")
    assert (names(beside), names(elsewhere)) == ([], [])


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no owner")
def test_what_others_left_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (".lieq-00000000.tmp", ".lieq-00000000.lock", "lieq-none", ".lieq-zzzzzzzz.lock"):
        (tmp_path / name).write_text("x")
    before = names(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 12345)
        sweep_folder(tmp_path)
    assert names(tmp_path) == before
    sweep_folder(tmp_path)
    assert names(tmp_path) == [".lieq-zzzzzzzz.lock", "lieq-none"]


def test_links_are_not_followed(tmp_path: Path) -> None:
    target, folder = tmp_path / "target", tmp_path / "folder"
    for made in (target, folder):
        made.mkdir()
    (target / "precious").write_text("x")
    (folder / ".lieq-00000000").symlink_to(target)
    (folder / ".lieq-00000000.lock").write_text("")
    (folder / ".lieq-11111111.lock").symlink_to(target / "precious")
    sweep_folder(folder)
    assert (target / "precious").read_text() == "x"


def test_a_folder_without_locks_is_used_and_never_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FileLock, "acquire", lambda lock: False)
    with temporary_file(tmp_path) as file:
        sweep_folder(tmp_path)
        assert file.exists()
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"), temporary_file(tmp_path / "none"):
        pass
