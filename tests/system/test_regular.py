"""Only ordinary files are opened: a pipe would be waited for, and a device read without end."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from lieq_edge.errors import InputError
from lieq_edge.gguf.header import read_header
from lieq_edge.system.files import read_text
from lieq_edge.system.regular import open_regular, read_regular

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs pipes and devices of Unix")


def test_files_and_links_to_them_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    assert read_regular(tmp_path / "file") == b"content"
    with pytest.raises(OSError, match="larger than"):
        read_regular(tmp_path / "file", 6)
    if sys.platform != "win32":
        (tmp_path / "link").symlink_to("file")
        with open_regular(tmp_path / "link") as file:
            assert file.read() == b"content"


@posix
def test_pipes_devices_and_folders_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError, match=r"ordinary file|directory"):
            open_regular(path)
        with pytest.raises(InputError):
            read_text(path, "the text")
        with pytest.raises(InputError):
            read_header(path)
