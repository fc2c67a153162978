"""A cache that others could plant results in is not used, and nothing beyond it is touched."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from lieq_edge.errors import InputError
from lieq_edge.store import Entry, FolderCache, Run
from lieq_edge.store.contents import remove_run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="owners and modes of POSIX")

STATE = {"a": np.arange(5)}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def entry(number: int = 1) -> Entry:
    return Entry({}, number)


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o022])
def test_everything_in_it_is_closed_to_others(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        cache = FolderCache(tmp_path / "above" / "cache")
        cache.put("kind", {}, entry())
        run = cache.run("work", {})
        run.save("state", STATE)
        run.close(done=False)
    finally:
        os.umask(before)
    paths = [cache.store.folder, *cache.store.folder.rglob("*")]
    assert len(paths) == 7
    assert [path for path in paths if mode(path) & 0o077 and path.name != "lock"] == []


@pytest.mark.parametrize("bits", [0o777, 0o775, 0o722])
def test_a_folder_that_others_can_write_to_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bits: int
) -> None:
    FolderCache(tmp_path / "cache").put("kind", {}, entry())
    (tmp_path / "cache").chmod(bits)
    cache = FolderCache(tmp_path / "cache")
    assert cache.entry("kind", {}, lambda: entry(2)).record == 2
    with cache.about(model="m").run("work", {}) as run:
        assert not run.save("state", STATE)
    note = capsys.readouterr().err
    assert "chmod 700" in note
    assert note.count("\n") == 1
    with pytest.raises(InputError, match="left alone"):
        cache.store.clear()
    assert mode(tmp_path / "cache") == bits
    (tmp_path / "cache").chmod(0o700)
    assert FolderCache(tmp_path / "cache").entry("kind", {}, lambda: entry(3)).record == 1


def test_a_folder_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    FolderCache(tmp_path).put("kind", {}, entry())
    before = sorted(tmp_path.rglob("*"))
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    cache = FolderCache(tmp_path)
    assert cache.entry("kind", {}, lambda: entry(2)).record == 2
    note = capsys.readouterr().err
    assert "another user" in note
    assert note.count("\n") == 1
    with pytest.raises(InputError, match="another user"):
        cache.store.clear()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_others_can_read_is_closed_if_it_is_only_a_cache(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    FolderCache(tmp_path).put("kind", {}, entry())
    tmp_path.chmod(0o755)
    assert FolderCache(tmp_path).get("kind", {}) is not None
    assert mode(tmp_path) == 0o700
    tmp_path.chmod(0o755)
    (tmp_path / "thesis.tex").write_text("")
    assert FolderCache(tmp_path).get("kind", {}) is None
    assert "folder of its own" in capsys.readouterr().err
    assert mode(tmp_path) == 0o755


def test_a_link_to_a_folder_of_the_user_is_a_cache(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("real")
    FolderCache(tmp_path / "link").put("kind", {}, entry())
    assert FolderCache(tmp_path / "real").get("kind", {}) is not None


@pytest.mark.parametrize("name", ["entries", "runs"])
def test_linked_folders_in_it_are_not_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    first = FolderCache(tmp_path / "cache")
    first.put("kind", {}, entry())
    run = first.run("work", {})
    run.save("state", STATE)
    run.close(done=False)
    moved = (tmp_path / "cache" / name).rename(tmp_path / "elsewhere")
    (tmp_path / "cache" / name).symlink_to(moved)
    for left in (".lieq-00000000.tmp", ".lieq-00000000.lock"):
        (moved / left).write_text("")
    before = sorted((path, path.lstat().st_mtime_ns) for path in moved.rglob("*"))
    cache = FolderCache(tmp_path / "cache")
    if name == "entries":
        assert cache.get("kind", {}) is None
        cache.put("kind", {"n": 2}, entry(2))
    else:
        assert not cache.run("work", {}).resumable
    assert capsys.readouterr().err.count("\n") == 1
    cache.store.clear()
    assert sorted((path, path.lstat().st_mtime_ns) for path in moved.rglob("*")) == before


@pytest.mark.parametrize("dangling", [False, True])
def test_links_in_place_of_work_and_locks_are_not_followed(tmp_path: Path, dangling: bool) -> None:
    cache = FolderCache(tmp_path / "cache")
    run = cache.run("work", {})
    run.save("state", STATE)
    run.close(done=False)
    [folder] = (tmp_path / "cache" / "runs").iterdir()
    target = tmp_path / "target"
    if dangling:
        (folder / "lock").unlink()
        (folder / "lock").symlink_to(target)
    else:
        folder.rename(target)
        folder.symlink_to(target)
        (target / ".x.tmp").write_text("precious")
    assert not FolderCache(tmp_path / "cache").run("work", {}).resumable
    with pytest.raises(InputError, match="1 of 1 entries") if dangling else nullcontext():
        cache.store.clear()
    if dangling:
        assert not target.exists()
    else:
        assert sorted(path.name for path in target.iterdir()) == [".x.tmp", "lock", "state.safetensors"]


def test_an_entry_that_is_a_link_or_a_fifo_is_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = FolderCache(tmp_path / "cache")
    for number in (1, 2):
        cache.put("kind", {"n": number}, entry(number))
    linked, fifo = (cache.store.entry_path("kind", cache._key("kind", {"n": number})) for number in (1, 2))
    moved = linked.rename(tmp_path / "moved")
    linked.symlink_to(moved)
    fifo.unlink()
    os.mkfifo(fifo)
    assert cache.get("kind", {"n": 1}) is None
    assert cache.get("kind", {"n": 2}) is None
    assert capsys.readouterr().err.count("damaged") == 2
    assert moved.exists()


def test_an_entry_under_another_key_is_not_believed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = FolderCache(tmp_path)
    for parts, number in (({"model": "old"}, 1), ({"model": "new"}, 2)):
        cache.put("kind", parts, entry(number))
    old, new = (cache.store.entry_path("kind", cache._key("kind", {"model": name})) for name in ("old", "new"))
    new.write_bytes(old.read_bytes())
    cache.store.entry_path("other", cache._key("other", {})).write_bytes(old.read_bytes())
    assert cache.get("kind", {"model": "new"}) is None
    assert cache.get("other", {}) is None
    assert capsys.readouterr().err.count("of other work") == 2
    assert not new.exists()
    assert cache.entry("kind", {"model": "old"}, lambda: entry(9)).record == 1


def test_states_of_other_work_are_not_believed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = FolderCache(tmp_path)
    runs = [cache.run("work", {"n": number}) for number in (1, 2)]
    for run, name in ((runs[0], "a"), (runs[0], "b"), (runs[1], "a")):
        run.save(name, STATE)
    folders = [run._folder for run in runs]
    assert folders[0] is not None
    assert folders[1] is not None
    (folders[1] / "a.safetensors").write_bytes((folders[0] / "a.safetensors").read_bytes())
    (folders[0] / "a.safetensors").write_bytes((folders[0] / "b.safetensors").read_bytes())
    assert [run.load("a") for run in runs] == [None, None]
    assert runs[0].load("b") is not None
    assert capsys.readouterr().err.count("of other work") == 2


def test_a_guard_keeps_everything_out(tmp_path: Path) -> None:
    changed = [False]

    def guard() -> None:
        if changed[0]:
            raise InputError("model.safetensors changed")

    cache = FolderCache(tmp_path).guarded(guard).about(model="m")
    cache.put("kind", {"n": 1}, entry())
    with cache.run("work", {}) as run:
        assert run.save("first", STATE)
        changed[0] = True
        with pytest.raises(InputError, match="changed"):
            run.save("second", STATE)
        with pytest.raises(InputError, match="changed"):
            run.spill("third", STATE)
        assert [run.has(name) for name in ("first", "second", "third")] == [True, False, False]
    with pytest.raises(InputError, match="changed"):
        cache.entry("kind", {"n": 2}, lambda: entry(2))
    about = FolderCache(tmp_path).about(model="m")
    assert about.get("kind", {"n": 1}) is not None
    assert about.get("kind", {"n": 2}) is None


def test_a_run_without_a_folder_is_guarded_too() -> None:
    def guard() -> None:
        raise InputError("model.safetensors changed")

    with pytest.raises(InputError), Run(None, guard=guard) as run:
        run.save("state", STATE)


def test_work_behind_a_link_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "state.safetensors").write_text("precious")
    (tmp_path / "work").symlink_to("target")
    assert not remove_run(tmp_path / "work")
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["state.safetensors"]
