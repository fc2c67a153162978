"""Two checkouts with stub programs are compared: turns, cache, bytes, ratios, and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.overhead import compared_bytes, main
from benchmarks.turns import Sample

# Writes its output, counts its runs in the cache folder, and appends what it did to a log.
STUB = """
import os, pathlib, sys, time
cache = pathlib.Path(os.environ["LIEQ_CACHE_DIR"])
cache.mkdir(parents=True, exist_ok=True)
before = len(list(cache.iterdir()))
(cache / str(before)).touch()
words = sys.argv[1:]
with open({log!r}, "a") as log:
    print({name!r}, words[0], before, file=log)
if "--out" in words:
    content = words[words.index("--metric") + 1] if words[0] == "export" else {name!r}
    pathlib.Path(words[words.index("--out") + 1]).write_text(content)
if words[0] == "--help":
    time.sleep({seconds})
"""


def checkout(folder: Path, log: Path, seconds: float) -> Path:
    package = folder / "lieq_edge"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(STUB.format(log=str(log), name=folder.name, seconds=seconds))
    return folder


def test_two_checkouts_are_compared(tmp_path: Path) -> None:
    log, out = tmp_path / "log", tmp_path / "overhead"
    base, new = checkout(tmp_path / "old", log, 0.0), checkout(tmp_path / "changed", log, 0.8)
    words = ["--base", str(base), "--new", str(new), "--model", "demo"]
    words += ["--out", str(out), "--repeats", "2", "--settle", "0"]
    assert main(words) == 0
    runs = [line.split() for line in log.read_text().splitlines()]
    assert [run[:2] for run in runs[:4]] == [["old", "--help"], ["changed", "--help"]] * 2
    # The chain shares a cache, and each checkout has its own.
    chain = [["export", "0"], ["export", "1"], ["plan", "2"]]
    assert [run[1:] for run in runs[-12:]] == chain * 4
    assert [run[0] for run in runs[-12:]] == (["old"] * 3 + ["changed"] * 3) * 2
    rows = {line.split(" | ")[0][2:]: line.split(" | ") for line in out.with_suffix(".md").read_text().splitlines()}
    assert rows["quality export"][7] == "same"
    assert rows["plan from the cache"][7] == "differ"
    assert rows["help"][7] == ""
    assert float(rows["help"][3]) > 1.2
    # Everything is there already; when the sources change, only their checkout runs again.
    log.unlink()
    assert main(words) == 0
    assert not log.exists()
    (new / "lieq_edge" / "__init__.py").write_text("CHANGED = True")
    assert main(words) == 0
    assert {line.split()[0] for line in log.read_text().splitlines()} == {"changed"}


def test_a_folder_without_the_package_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--base", str(tmp_path), "--model", "demo", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "o")]
    assert main(words) == 2
    assert "not a checkout" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("base", "new", "verdict"),
    [
        ((None, None), (None,), ""),
        (("a", "a"), ("a",), "same"),
        (("a", "a"), ("b",), "differ"),
        (("a", "b"), ("a",), "differ from run to run"),
    ],
)
def test_bytes_are_compared(base: tuple[str | None, ...], new: tuple[str | None, ...], verdict: str) -> None:
    runs = [[Sample("python", "c", 0.0, 1.0, 1, None, sha256=digest) for digest in digests] for digests in (base, new)]
    assert compared_bytes(*runs) == verdict
