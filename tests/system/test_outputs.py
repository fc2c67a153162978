"""An output goes where the user said: through links, not into devices, and not over what appeared meanwhile."""

from __future__ import annotations

import os
import socket
import stat
import sys
from pathlib import Path

import pytest

from lieq_edge.errors import InputError
from lieq_edge.system.files import atomic_path, check_output, output_target, sweep, write_output

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="files of POSIX systems")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


def test_a_link_stays_and_its_target_is_replaced(here: Path, elsewhere: Path) -> None:
    (elsewhere / "target").write_text("old")
    (here / "first").symlink_to("second")
    (here / "second").symlink_to(elsewhere / "target")
    with pytest.raises(InputError, match="--force"):
        check_output(here / "first", force=False)
    check_output(here / "first", force=True)
    write_output(here / "first", b"new")
    assert (here / "first").is_symlink()
    assert (here / "second").is_symlink()
    assert (elsewhere / "target").read_bytes() == b"new"
    assert not (elsewhere / "target").is_symlink()
    assert (names(here), names(elsewhere)) == (["first", "second"], ["target"])


def test_the_target_of_a_dangling_link_is_made(here: Path, elsewhere: Path) -> None:
    (here / "link").symlink_to("../elsewhere/target")
    check_output(here / "link", force=False)
    write_output(here / "link", b"new", replace=False)
    assert (here / "link").is_symlink()
    assert (elsewhere / "target").read_bytes() == b"new"
    (here / "lost").symlink_to("../nowhere/target")
    with pytest.raises(InputError, match="nowhere does not exist"):
        check_output(here / "lost", force=True)


def test_links_in_a_circle_are_refused(here: Path) -> None:
    (here / "a").symlink_to("b")
    (here / "b").symlink_to("a")
    for refused in (lambda: check_output(here / "a", force=True), lambda: write_output(here / "a", b"")):
        with pytest.raises(InputError, match="circle"):
            refused()
    assert names(here) == ["a", "b"]


@needs_posix
@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("kind", ["fifo", "socket", "folder"])
def test_special_files_are_refused_and_stay(
    here: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, kind: str, linked: bool
) -> None:
    monkeypatch.chdir(elsewhere)  # the name of a socket must be short
    listening = socket.socket(socket.AF_UNIX)
    if kind == "fifo":
        os.mkfifo("special")
    elif kind == "socket":
        listening.bind("special")
    else:
        Path("special").mkdir()
    path = here / "link" if linked else elsewhere / "special"
    if linked:
        path.symlink_to(elsewhere / "special")
    mode = (elsewhere / "special").lstat().st_mode
    for refused in (lambda: check_output(path, force=True), lambda: write_output(path, b"x")):
        with pytest.raises(InputError, match="is a folder" if kind == "folder" else "not an ordinary file"):
            refused()
    assert (elsewhere / "special").lstat().st_mode == mode
    assert path.is_symlink() == linked
    assert names(elsewhere) == ["special"]
    listening.close()


@needs_posix
@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", os.devnull])
def test_devices_and_open_files_are_refused(here: Path, name: str) -> None:
    if not os.path.lexists(name):
        pytest.skip("the system does not have it")
    (here / "link").symlink_to(name)
    before = os.lstat(name).st_ino
    for path in (Path(name), here / "link"):
        for refused in (lambda p=path: check_output(p, force=True), lambda p=path: write_output(p, b"x")):
            with pytest.raises(InputError, match="not an ordinary file"):
                refused()
    assert os.lstat(name).st_ino == before


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="the system does not have it")
def test_a_disk_in_memory_is_no_device() -> None:
    assert output_target(Path("/dev/shm/lieq.gguf")) == Path("/dev/shm/lieq.gguf")


def _without_links(*_: object, **__: object) -> None:
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize("has_links", [True, False])
def test_what_appears_meanwhile_stays_and_the_finished_file_too(
    here: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    if not has_links:
        monkeypatch.setattr(os, "link", _without_links)
    out = here / "out.gguf"
    (here / "out-2.gguf").write_text("taken")

    def write() -> None:
        with atomic_path(out, replace=False) as temporary:
            temporary.write_text("finished")
            out.write_text("appeared")

    with pytest.raises(InputError, match=r"appeared .* finished file is .*out-3\.gguf"):
        write()
    assert [(name, (here / name).read_text()) for name in names(here)] == [
        ("out-2.gguf", "taken"),
        ("out-3.gguf", "finished"),
        ("out.gguf", "appeared"),
    ]


@pytest.mark.parametrize("has_links", [True, False])
def test_a_free_name_is_taken(here: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool) -> None:
    if not has_links:
        monkeypatch.setattr(os, "link", _without_links)
    write_output(here / "out", b"new", replace=False)
    assert names(here) == ["out"]
    assert (here / "out").read_bytes() == b"new"
    assert (here / "out").stat().st_nlink == 1


def test_with_force_what_appears_meanwhile_is_replaced(here: Path) -> None:
    with atomic_path(here / "out") as temporary:
        temporary.write_text("finished")
        (here / "out").write_text("appeared")
    assert names(here) == ["out"]
    assert (here / "out").read_text() == "finished"


@needs_posix
def test_a_fifo_that_appears_meanwhile_stays(here: Path) -> None:
    def write() -> None:
        with atomic_path(here / "out") as temporary:
            os.mkfifo(here / "out")
            temporary.write_text("finished")

    with pytest.raises(InputError, match="not an ordinary file"):
        write()
    assert stat.S_ISFIFO((here / "out").stat().st_mode)


@needs_posix
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_user_s_mask_holds_and_is_never_changed(
    here: Path, monkeypatch: pytest.MonkeyPatch, mask: int, mode: int
) -> None:
    before = os.umask(mask)
    try:
        with monkeypatch.context() as patch:
            patch.delattr(os, "umask")
            write_output(here / "out", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((here / "out").stat().st_mode) == mode


def test_sweeping_looks_where_the_link_leads(here: Path, elsewhere: Path) -> None:
    for name in (".lieq-00000000.tmp", ".lieq-00000000.lock"):
        (elsewhere / name).write_text("")
    (here / "link").symlink_to(elsewhere / "target")
    sweep(here / "link")
    assert names(elsewhere) == []
