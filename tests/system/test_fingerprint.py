"""A file that changes after it was read is noticed, whatever the change leaves as it was."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lieq_edge.errors import InputError
from lieq_edge.system.fingerprint import Fingerprints


def _rewrite(path: Path) -> None:
    """Other content of the same size and time."""
    times = path.stat()
    path.write_bytes(b"B" * 100)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _replace(path: Path) -> None:
    times = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"A" * 100)
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(path)


def _relink(path: Path) -> None:
    path.unlink()
    path.with_name("other").write_bytes(b"A" * 100)
    path.symlink_to("other")


@pytest.mark.parametrize(
    "change",
    [_rewrite, _replace, _relink, Path.unlink, lambda path: path.write_bytes(b"A" * 99), lambda path: os.utime(path)],
    ids=["rewritten", "replaced", "linked", "removed", "shortened", "touched"],
)
def test_a_change_is_named(tmp_path: Path, change: Callable[[Path], object]) -> None:
    paths = [tmp_path / name for name in ("config.json", "model.safetensors")]
    prints = Fingerprints()
    for path in paths:
        path.write_bytes(b"A" * 100)
        os.utime(path, ns=(10**18, 10**18))
        prints.remember(path)
    prints.check()
    change(paths[1])
    with pytest.raises(InputError, match=r"model\.safetensors changed"):
        prints.check()
    prints.remember(paths[1])  # the first one counts
    with pytest.raises(InputError, match="changed"):
        prints.check()


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "blob").write_text("x")
    (tmp_path / "model").symlink_to("blob")
    prints = Fingerprints()
    prints.remember(tmp_path / "model")
    prints.check()
    (tmp_path / "blob").write_text("changed")
    with pytest.raises(InputError, match="changed"):
        prints.check()


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Cannot read"):
        Fingerprints().remember(tmp_path / "none")
