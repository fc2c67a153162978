"""The folder of a cache: limits, clearing, several processes, and folders that fail."""

from __future__ import annotations

import errno
import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lieq_edge.errors import InputError
from lieq_edge.store import Entry, FolderCache, NoCache, default_folder, open_cache, parse_age, parse_size
from lieq_edge.store import contents as store_module
from lieq_edge.system.temporary import temporary_file

KB = np.zeros(1000, np.uint8)


def entry(number: int = 0, count: int = 1000) -> Entry:
    return Entry({"a": np.full(count, number, np.uint8)}, {"number": number})


def never() -> Entry:
    raise AssertionError("made again")


def numbers(cache: FolderCache, among: range) -> list[int]:
    return [number for number in among if FolderCache(cache.store.folder).get("kind", {"n": number}) is not None]


def test_an_entry_is_made_once(tmp_path: Path) -> None:
    first = FolderCache(tmp_path).entry("kind", {"n": 1}, lambda: entry(7))
    again = FolderCache(tmp_path).entry("kind", {"n": 1}, never)
    assert again.record == first.record
    assert again.arrays["a"].tolist() == first.arrays["a"].tolist()
    assert FolderCache(tmp_path).get("kind", {"n": 2}) is None
    assert FolderCache(tmp_path).get("other", {"n": 1}) is None


def test_what_a_cache_is_about_counts(tmp_path: Path) -> None:
    cache = FolderCache(tmp_path)
    cache.about(model="a").put("kind", {}, entry())
    assert cache.about(model="a").get("kind", {}) is not None
    assert cache.about(model="b").get("kind", {}) is None
    assert cache.get("kind", {}) is None


def test_work_of_which_nothing_is_stored_is_not_known(tmp_path: Path) -> None:
    cache = FolderCache(tmp_path)
    run = cache.run("work", {})
    assert not cache.has("work", {})
    run.save("state", {"a": KB})
    run.close(done=False)
    assert cache.has("work", {})
    run = cache.run("work", {})
    run.close(done=True)
    assert not cache.has("work", {})


def test_where_no_folder_can_be_nothing_is_known(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert not FolderCache(tmp_path / "file").has("work", {})


def test_a_label_names_the_model_and_changes_nothing_else(tmp_path: Path) -> None:
    cache = FolderCache(tmp_path)
    cache.about(model="1").labelled("org/model").put("kind", {"n": 1}, entry(1))
    run = cache.about(model="1").labelled("org/model").run("work", {})
    run.save("state", {"a": KB})
    run.close(done=False)
    cache.put("kind", {"n": 2}, entry(2))
    found = {(stored.kind, cache.store.model_of(stored)) for stored in cache.store.contents()}
    assert found == {("kind", "org/model"), ("work", "org/model"), ("kind", None)}
    for other in (cache.about(model="1"), cache.about(model="1").labelled("other")):
        assert other.get("kind", {"n": 1}) is not None
    assert {model: len(some) for model, some in cache.store.by_model().items()} == {"org/model": 2, None: 1}


@pytest.mark.parametrize("damage", [b"", b"x" * 100, b'{"__metadata__":{"sha256":"', b"\xff" * 8192])
def test_the_label_of_a_damaged_entry_is_unknown(tmp_path: Path, damage: bytes) -> None:
    cache = FolderCache(tmp_path)
    cache.labelled("org/model").put("kind", {}, entry(1))
    (stored,) = cache.store.contents()
    whole = stored.path.read_bytes()
    for content in (damage, whole[:150], whole[:8] + damage):
        stored.path.write_bytes(content)
        assert cache.store.model_of(stored) is None
        assert list(cache.store.by_model()) == [None]
    stored.path.unlink()
    assert cache.store.model_of(stored) is None


def test_any_label_is_read_as_it_was_written_up_to_a_length(tmp_path: Path) -> None:
    for number, label in enumerate(('a"b\\c\n', "Modell ü 模型", "\ud800", "x" * 5000)):
        cache = FolderCache(tmp_path / str(number)).labelled(label)
        assert isinstance(cache, FolderCache)
        cache.put("kind" * 5, {}, entry(1))
        (stored,) = cache.store.contents()
        assert cache.store.model_of(stored) == label[:300]
        assert cache.get("kind" * 5, {}) is not None


def test_a_link_among_the_entries_has_no_label(tmp_path: Path) -> None:
    cache = FolderCache(tmp_path / "cache")
    cache.labelled("org/model").put("kind", {}, entry(1))
    (stored,) = cache.store.contents()
    stored.path.rename(tmp_path / "moved")
    stored.path.symlink_to(tmp_path / "moved")
    assert cache.store.model_of(stored) is None


def test_no_cache_makes_everything() -> None:
    cache = NoCache()
    assert [cache.about(x=1).entry("kind", {}, lambda n=n: entry(n)).record["number"] for n in (1, 2)] == [1, 2]
    with cache.run("kind", {}) as run:
        assert not run.resumable


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_entry_is_reported_and_made_again(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = FolderCache(tmp_path)
    cache.put("kind", {}, entry(1))
    [path] = (tmp_path / "entries").iterdir()
    whole = bytearray(path.read_bytes())
    if damage == "flipped":
        whole[-5] ^= 4
    path.write_bytes(whole[:0] if damage == "empty" else whole[:-3] if damage == "truncated" else whole)
    assert cache.entry("kind", {}, lambda: entry(2)).record == {"number": 2}
    note = capsys.readouterr().err
    assert "damaged" in note
    assert note.count("\n") == 1
    assert FolderCache(tmp_path).entry("kind", {}, never).record == {"number": 2}


def test_the_longest_unused_go_first(tmp_path: Path) -> None:
    cache = FolderCache(tmp_path)
    for number in range(5):
        cache.put("kind", {"n": number}, entry(number))
    for age, stored in zip((50, 10, 40, 20, 30), _by_number(cache, 5), strict=True):
        os.utime(stored, (1e9 - age, 1e9 - age))
    FolderCache(tmp_path).get("kind", {"n": 0})  # used now
    one = cache.store.contents()[0].bytes
    FolderCache(tmp_path, limit=4 * one).put("kind", {"n": 9}, entry(9))
    assert numbers(cache, range(10)) == [0, 1, 3, 9]


def _by_number(cache: FolderCache, count: int) -> list[Path]:
    return [cache.store.entry_path("kind", cache._key("kind", {"n": number})) for number in range(count)]


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=8),
    limit=st.integers(0, 9000),
    ages=st.permutations(range(8)),
)
def test_the_limit_holds_and_nothing_goes_without_need(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], limit: int, ages: list[int]
) -> None:
    cache = FolderCache(tmp_path_factory.mktemp("cache"))
    for number, count in enumerate(sizes):
        cache.put("kind", {"n": number}, entry(number, count))
        path = _by_number(cache, number + 1)[-1]
        os.utime(path, (1e9 + ages[number], 1e9 + ages[number]))
    before = cache.store.contents()
    left = cache.store.evict(limit)
    after = cache.store.contents()
    assert left == sum(stored.bytes for stored in after) <= limit
    assert after == before[len(before) - len(after) :]
    if len(after) < len(before):
        assert left + before[-len(after) - 1].bytes > limit


def test_what_this_process_uses_stays_and_a_limit_too_small_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = FolderCache(tmp_path, limit=4000)
    for number in range(6):
        cache.put("kind", {"n": number}, entry(number))
    stored = numbers(cache, range(6))
    assert stored == list(range(len(stored)))
    assert 0 < len(stored) < 6
    note = capsys.readouterr().err
    assert "--cache-limit" in note
    assert note.count("\n") == 1


def test_half_written_files_of_ended_processes_go(tmp_path: Path) -> None:
    cache = FolderCache(tmp_path)
    cache.put("kind", {}, entry())
    entries = tmp_path / "entries"
    dead = [entries / ".lieq-00000000.tmp", entries / ".lieq-00000000.lock", entries / ".old.x.tmp"]
    for path in dead:
        path.write_bytes(b"x")
    os.utime(dead[2], (0, 0))
    fresh = entries / ".other.x.tmp"
    fresh.write_bytes(b"x")
    with temporary_file(entries) as alive:
        cache.store.sweep()
        assert alive.exists()
    assert [path for path in dead if path.exists()] == []
    assert fresh.exists()


def test_work_of_which_nothing_is_stored_is_not_listed_and_goes(tmp_path: Path) -> None:
    cache = FolderCache(tmp_path)
    killed, alive, stored = (cache.run("work", {"n": number}) for number in range(3))
    stored.save("state", {"a": KB})
    folders = sorted((tmp_path / "runs").iterdir())
    assert [one.bytes > 1000 for one in cache.store.contents()] == [True]
    assert killed._folder is not None
    assert killed._lock is not None
    gone = killed._folder
    killed._lock.release()  # as where the process was killed
    cache.store.sweep()
    assert sorted((tmp_path / "runs").iterdir()) == folders  # another process may be about to lock it
    for folder in folders:
        os.utime(folder, (1e9, 1e9))
    cache.store.sweep()
    assert sorted((tmp_path / "runs").iterdir()) == [folder for folder in folders if folder != gone]
    for run in (alive, stored):
        run.close(done=False)
    assert [one.bytes > 1000 for one in cache.store.contents()] == [True]


def test_clearing_leaves_what_is_worked_on(tmp_path: Path) -> None:
    cache = FolderCache(tmp_path)
    cache.put("kind", {}, entry())
    with cache.run("work", {}) as run:
        run.save("state", {"a": KB})
        count, freed = cache.store.clear()
        assert (count, freed > 1000) == (1, True)
        assert run.load("state") is not None
    assert cache.store.contents() == []
    assert cache.store.clear() == (0, 0)


def test_work_that_ends_while_others_are_removed_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FolderCache(tmp_path)
    work = cache.run("work", {})
    work.save("state", {"a": KB})
    own = store_module.remove_run

    def remove(path: Path) -> bool:
        gone = own(path)
        if not gone:
            work.close(done=False)
        return gone

    monkeypatch.setattr(store_module, "remove_run", remove)
    assert cache.store.clear()[0] == 1
    assert cache.store.contents() == []


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no such permissions there")
def test_what_cannot_be_removed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FolderCache(tmp_path)
    for number in (1, 2):
        cache.put("kind", {"n": number}, entry())
    own, [first, _] = Path.unlink, sorted((tmp_path / "entries").iterdir())

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path == first:
            raise PermissionError(errno.EACCES, "Permission denied")
        own(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(InputError, match=r"1 of 2 entries in .* cannot be removed; check its permissions"):
        cache.store.clear()
    assert [stored.path for stored in cache.store.contents()] == [first]


def _full(*_: object, **__: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_reported_once_and_the_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = FolderCache(tmp_path)
    cache.put("kind", {"n": 0}, entry(0))
    monkeypatch.setattr(store_module, "write_entry", _full)
    for number in (1, 2):
        assert cache.entry("kind", {"n": number}, lambda n=number: entry(n)).record == {"number": number}  # type: ignore[misc]
    with cache.run("work", {}) as run:
        assert not run.save("state", {"a": KB})
    note = capsys.readouterr().err
    assert "No space left" in note
    assert note.count("\n") == 1
    assert cache.entry("kind", {"n": 0}, never).record == {"number": 0}
    assert [path.name for path in (tmp_path / "entries").iterdir() if path.name.startswith(".")] == []


def test_a_file_in_place_of_the_folder_is_reported_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cache").write_text("no folder")
    cache = FolderCache(tmp_path / "cache")
    for number in (1, 2):
        assert cache.entry("kind", {}, lambda n=number: entry(n)).record == {"number": number}  # type: ignore[misc]
    with cache.run("work", {}) as run:
        assert not run.resumable
        run.spill("x", {"a": KB})
        assert run.fetch("x") is not None
    assert capsys.readouterr().err.count("\n") == 1


def test_a_read_only_folder_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    FolderCache(tmp_path).put("kind", {"n": 0}, entry(0))

    def refuse(*_: object, **__: object) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    opened = os.open

    def read_only(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        return refuse() if flags & (os.O_WRONLY | os.O_RDWR) else opened(path, flags, *rest, **named)

    for name in ("mkdir", "utime", "unlink", "replace"):
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr(os, "open", read_only)
    cache = FolderCache(tmp_path)
    assert cache.entry("kind", {"n": 0}, never).record == {"number": 0}
    assert cache.entry("kind", {"n": 1}, lambda: entry(1)).record == {"number": 1}
    with cache.run("work", {}) as run:
        assert not run.resumable
    assert capsys.readouterr().err.count("\n") == 1


def test_files_that_vanish_while_they_are_listed_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FolderCache(tmp_path)
    for number in range(4):
        cache.put("kind", {"n": number}, entry(number))
    iterdir = Path.iterdir

    def listed(folder: Path) -> Any:
        paths = list(iterdir(folder))
        for path in paths[:2]:
            if path.suffix:
                path.unlink()
        return iter(paths)

    monkeypatch.setattr(Path, "iterdir", listed)
    assert len(cache.store.contents()) == 2
    assert cache.store.clear()[0] == 0


def test_many_at_once_do_not_harm_each_other(tmp_path: Path) -> None:
    wrong: list[object] = []

    def work(start: int) -> None:
        cache = FolderCache(tmp_path, limit=20_000)
        try:
            for turn in range(40):
                number = (start + turn) % 7
                loaded = cache.entry("kind", {"n": number}, lambda n=number: entry(n, 3000))  # type: ignore[misc]
                if set(loaded.arrays["a"].tolist()) != {number}:
                    wrong.append(number)
                if turn % 10 == 9:
                    cache = FolderCache(tmp_path, limit=8000)  # evicts what the others use
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(("text", "size"), [("10GB", 10**10), ("1.5 MiB", 3 * 2**19), ("0b", 0), ("2tb", 2 * 10**12)])
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "10", "GB", "-1GB", "ten GB", "9" * 400 + "GB", "1XB"])
def test_wrong_sizes_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="10GB"):
        parse_size(text)


@pytest.mark.skipif(sys.platform != "linux", reason="the places of Linux")
def test_ages_are_read() -> None:
    assert [parse_age(text) for text in ("30d", "12h", "2w", "1.5m", " 90 S ")] == [2592000, 43200, 1209600, 90, 90]
    for text in ("", "30", "d", "-1d", "30 years", "1e9d", "9" * 400 + "d"):
        with pytest.raises(InputError, match="30d"):
            parse_age(text)


def test_the_default_folder_is_the_platforms(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIEQ_CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "lieq-edge"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_folder() == Path.home() / ".cache" / "lieq-edge"
    monkeypatch.setenv("LIEQ_CACHE_DIR", str(tmp_path / "own"))
    assert default_folder() == tmp_path / "own"


def test_without_a_home_there_is_no_cache(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("LIEQ_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where there is no home
    assert isinstance(open_cache(), NoCache)
    assert "--cache-dir" in capsys.readouterr().err
