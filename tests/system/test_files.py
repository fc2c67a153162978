"""Outputs appear whole or not at all, and bad output paths are refused before any work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lieq_edge.errors import InputError
from lieq_edge.system.files import atomic_path, check_output, check_space, user_path


def test_an_output_appears_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with atomic_path(out) as temporary:
        temporary.write_text("all of it")
        assert not out.exists()
    assert out.read_text() == "all of it"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path, error: type[BaseException]) -> None:
    out = tmp_path / "out"
    out.write_text("old")

    def fail() -> None:
        with atomic_path(out) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_bad_output_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        check_output(tmp_path / "no" / "out", force=True)
    with pytest.raises(InputError, match="is a folder"):
        check_output(tmp_path, force=True)
    existing = tmp_path / "there"
    existing.write_text("")
    with pytest.raises(InputError, match="--force"):
        check_output(existing, force=False)
    check_output(existing, force=True)
    with pytest.raises(InputError, match="cannot be written"):
        check_output(tmp_path / ("n" * 300), force=False)


@pytest.mark.skipif(not Path(os.devnull).is_char_device(), reason="needs a device file")
def test_a_device_is_not_replaced() -> None:
    with pytest.raises(InputError, match="not an ordinary file"):
        check_output(Path(os.devnull), force=True)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match="cannot be written"):
            check_output(tmp_path / "out", force=False)
    finally:
        tmp_path.chmod(0o700)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(InputError, match="cannot be written"):
        check_output(tmp_path / "out", force=False)


def test_a_full_disk_is_reported_before_writing(tmp_path: Path) -> None:
    check_space(tmp_path, 1)
    with pytest.raises(InputError, match="GB are needed"):
        check_space(tmp_path, 1 << 62)


def test_a_home_folder_is_found_and_an_unknown_user_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    assert user_path("~/out.gguf") == Path("/home/me/out.gguf")
    assert user_path("~nobody-of-this-name/out.gguf") == Path("~nobody-of-this-name/out.gguf")
