"""The file on the disk is the one that was meant, or there is no file."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lieq_edge.system import checked
from lieq_edge.system.files import CheckedFile, atomic_path, write_output

CONTENT = bytes(range(256)) * 4000

_LIMITED = """
import json, resource, sys
from pathlib import Path
import numpy as np
from lieq_edge.gguf.container import KeyValue, file_bytes, write_container
from lieq_edge.gguf.types import TYPES
from lieq_edge.system.files import atomic_path

folder = Path(sys.argv[1])
metadata = [KeyValue("general.architecture", "llama", 8)]
tensors = [(f"blk.{index}.attn_norm.weight", (1000 + 999 * index,), TYPES["F32"]) for index in range(3)]
data = [np.arange(shape[0], dtype=np.float32) for _, shape, _ in tensors]
size = file_bytes(metadata, tensors)
outcomes = {}
for limit in [*range(0, size - 200, size // 44), size - 100, size - 33, size - 2, size - 1, size, size + 1]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        with atomic_path(folder / "out") as temporary:
            write_container(temporary, "llama", metadata, tensors, data)
        outcome = "written"
    except OSError:
        outcome = "refused"
    outcomes[limit - size] = [outcome, sorted(path.name for path in folder.iterdir())]
    (folder / "out").unlink(missing_ok=True)
print(json.dumps(outcomes))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sets a limit of POSIX")
def test_a_limit_on_the_size_leaves_no_short_file(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _LIMITED, tmp_path], check=True, stdout=subprocess.PIPE)
    outcomes = json.loads(done.stdout)
    assert len(outcomes) >= 50
    for distance, outcome in outcomes.items():
        assert outcome == (["refused", []] if int(distance) < 0 else ["written", ["out"]]), distance


class _Raw(io.FileIO):
    """A file that takes at most half of what it is given, as a full disk or a network folder may."""

    def write(self, content: Any) -> int:
        return super().write(memoryview(content)[: max(len(content) // 2, 1)])


class _Lying(io.FileIO):
    """A file that drops a part and reports that it has all."""

    def write(self, content: Any) -> int:
        super().write(memoryview(content)[:-1])
        return len(content)


class _FailingClose(io.FileIO):
    """A file whose last bytes are lost when it is closed."""

    def close(self) -> None:
        if not self.closed:
            super().close()
            raise OSError(errno.EDQUOT, "Disk quota exceeded")


def _open_with(raw: type[io.FileIO]) -> Callable[[Path], io.FileIO]:
    return lambda path: raw(path, "wb")


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked, "_open_raw", _open_with(_Raw))
    with CheckedFile(tmp_path / "out") as file:
        for start in range(0, len(CONTENT), 100_000):
            file.write(CONTENT[start : start + 100_000])
    assert (tmp_path / "out").read_bytes() == CONTENT
    assert file.tell() == len(CONTENT)
    assert file.sha256 == hashlib.sha256(CONTENT).hexdigest()


@pytest.mark.parametrize("raw", [_Lying, _FailingClose])
def test_a_file_that_fails_its_check_does_not_appear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raw: type[io.FileIO]
) -> None:
    (tmp_path / "out").write_text("old")
    monkeypatch.setattr(checked, "_open_raw", _open_with(raw))
    with pytest.raises(OSError, match=r"bytes instead of|quota"):
        write_output(tmp_path / "out", CONTENT)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("out", "old")]


def test_zeros_in_place_of_content_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = os.fsync

    def lose(handle: int) -> None:
        sync(handle)
        os.pwrite(handle, bytes(1776), 5000)

    monkeypatch.setattr(os, "fsync", lose)
    with pytest.raises(OSError, match="other bytes"):
        write_output(tmp_path / "out", CONTENT)
    assert list(tmp_path.iterdir()) == []


def test_the_content_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (steps.append("sync"), sync(handle))[1])
    monkeypatch.setattr(os, "replace", lambda *names: (steps.append("rename"), replace(*names))[1])
    with atomic_path(tmp_path / "out") as temporary:
        temporary.write_bytes(CONTENT)
    assert steps[:2] == ["sync", "rename"]
    if hasattr(os, "O_DIRECTORY"):
        assert steps[2:] == ["sync"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if sys.platform != "linux" or mount is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk, on Linux")
    made = subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_full_for_a_moment_leaves_no_file(small_disk: Path) -> None:
    filler = small_disk / "filler"

    def write() -> None:
        with atomic_path(small_disk / "out") as temporary, CheckedFile(temporary) as file:
            file.write(CONTENT[:100_000])
            with filler.open("wb", buffering=0) as other:
                other.write(bytes(1 << 20))
            file.write(CONTENT[:300_000])
            filler.unlink()
            file.write(CONTENT[:100_000])

    with pytest.raises(OSError, match="No space"):
        write()
    filler.unlink()
    assert list(small_disk.iterdir()) == []
    write_output(small_disk / "out", CONTENT[:500_000])
    assert (small_disk / "out").read_bytes() == CONTENT[:500_000]
