"""``card`` writes what ``publish_files`` makes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from runner import assert_refused, run


def test_card_and_modelfile_are_written(
    tiny_gguf: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tiny_gguf("qwen2")
    words = ("--base-model", "me/tiny", "--license", "mit", "--language", "en", "--language", "de")
    done = run("card", file, *words)
    assert (done.returncode, done.stdout) == (0, "")
    assert "Written: README.md, Modelfile" in done.stderr
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "base_model: me/tiny\nbase_model_relation: quantized\nlicense: mit\nlanguage:\n- en\n- de\n" in card
    assert (tmp_path / "Modelfile").read_text().startswith("FROM ")
    assert_refused(run("card", file), "README.md exists", "--force")
    assert run("card", file, "-o", "card.md", "--no-modelfile", "--quiet").stderr == ""
    done = run("card", file, "--no-modelfile", "--force", "--json")
    assert json.loads(done.stdout) == {"card": "README.md", "modelfile": None, "url": None}
    done = run("card", file, "--force", "--json")
    assert json.loads(done.stdout)["modelfile"] == "Modelfile"
    assert_refused(run("card", tmp_path / "none.gguf", "--force"), "none.gguf")
