"""``lieq-edge cache``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from runner import assert_refused, run

from lieq_edge.store import Entry, FolderCache


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    cache = FolderCache(tmp_path)
    cache.put("importance", {}, Entry({"a": np.zeros(10)}))
    stopped = cache.run("rounding", {})
    stopped.save("block", {"a": np.zeros(20)})
    stopped.close(done=False)
    return tmp_path


def test_it_lists_and_counts_and_clears(folder: Path) -> None:
    listed = json.loads(run("cache", "list", "--cache-dir", folder, "--json").stdout)
    assert {(e["kind"], e["unfinished"]) for e in listed["entries"]} == {("importance", False), ("rounding", True)}
    assert all(len(e["key"]) == 64 and e["bytes"] > 0 and e["used"] > 0 for e in listed["entries"])
    text = run("cache", "list", "--cache-dir", folder).stdout
    assert "importance" in text
    assert "rounding (unfinished)" in text
    counted = json.loads(run("cache", "size", "--cache-dir", folder, "--json").stdout)
    assert counted["bytes"] == sum(e["bytes"] for e in listed["entries"])
    assert "2 entries" in run("cache", "size", "--cache-dir", folder).stdout
    cleared = json.loads(run("cache", "clear", "--cache-dir", folder, "--json").stdout)
    assert (cleared["removed"], cleared["bytes"]) == (2, counted["bytes"])
    assert json.loads(run("cache", "size", "--cache-dir", folder, "--json").stdout)["bytes"] == 0
    assert "Removed 0" in run("cache", "clear", "--cache-dir", folder).stdout
    nothing = run("cache", "list", "--cache-dir", folder)
    assert (nothing.stdout, nothing.returncode) == ("", 0)
    assert "Nothing" in nothing.stderr


def test_a_folder_that_is_not_there_is_empty_and_a_file_is_refused(tmp_path: Path) -> None:
    assert run("cache", "size", "--cache-dir", tmp_path / "none").returncode == 0
    assert not (tmp_path / "none").exists()
    (tmp_path / "file").write_text("x")
    assert_refused(run("cache", "list", "--cache-dir", tmp_path / "file"), "file")
    assert_refused(run("cache", "bogus"), "bogus")
    flags = ("--budget", "3", "--out", tmp_path / "o.gguf", "--cache-limit", "ten")
    assert_refused(run("export", tmp_path, *flags), "10GB")


def test_the_environment_names_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIEQ_CACHE_DIR", str(folder))
    assert json.loads(run("cache", "size", "--json").stdout)["folder"] == str(folder)


def test_it_loads_no_torch(folder: Path) -> None:
    program = (
        f"import sys; sys.argv = ['lieq-edge', 'cache', 'list', '--cache-dir', {str(folder)!r}]\n"
        "from lieq_edge.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'transformers', 'llama_cpp'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE)
