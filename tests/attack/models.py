"""What is attacked: tiny models, files and saved measurements, made once in the process that forks the cases."""

from __future__ import annotations

import io
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import tiny
from attack.harness import Place

_SMALL = {"blocks": 2, "hidden": 32, "intermediate": 64, "vocab": 384, "context": 64}
MODELS: dict[str, tuple[str, dict[str, object]]] = {
    "llama": ("llama", {}),
    "qwen": ("qwen3", {}),
    "shards": ("qwen2", {"shards": 2}),
    "pieces": ("llama", {"tokenizer": "sentencepiece"}),
    "pieces-json": ("llama", {"tokenizer": "sentencepiece-json"}),
    "gemma": ("gemma2", {}),
    "experts": ("qwen3_moe", {}),
    "gpt2": ("gpt2", {}),
    "other": ("llama", {"seed": 7}),
}
"""Directories by name: family and options of ``tiny.make_model``."""

FILES = ("llama", "pieces", "gpt2", "experts")
"""Those that are there as GGUF files too."""

PLAIN = ("--metric", "first", "--calibration", "none", "--no-validate", "--no-parity", "--threads", "1")
"""An export that measures nothing."""

MEASURED = (
    *("--budget", "4", "--calibration", "docs", "--calibration-tokens", "256", "--probe-tokens", "32"),
    *("--rounding", "imatrix", "--no-validate", "--no-parity", "--threads", "1"),
)
"""An export that measures geometry and importance."""

_root = Path()


def directory(name: str) -> Path:
    """A model directory; leave it unchanged."""
    return _root / "models" / name


def gguf(name: str) -> Path:
    """A GGUF file; leave it unchanged."""
    return _root / "files" / f"{name}.gguf"


def saved() -> Path:
    """Saved measurements of the model ``llama``."""
    return _root / "saved.json"


def written() -> bytes:
    """The bytes that ``MEASURED`` gives for the model ``llama``."""
    return (_root / "written.gguf").read_bytes()


def cached(place: Place) -> None:
    """Fill the cache of a case with what ``MEASURED`` stores for the model ``llama``."""
    shutil.copytree(_root / "filled", place.cache, dirs_exist_ok=True)


def copy(name: str, place: Place, to: str = "model") -> Path:
    """A copy of a model directory in the folder of a case."""
    return Path(shutil.copytree(directory(name), place.work / to))


def make_all(folder: Path) -> None:
    """Make everything in ``folder``, by the program's own commands, so that all of it is imported."""
    global _root
    _root = folder
    from lieq_edge.sources import open_source
    from lieq_edge.sources.plain import write_plain

    for name, (family, options) in MODELS.items():
        tiny.make_model(directory(name), family, **{**_SMALL, **options})  # type: ignore[arg-type]
    (folder / "files").mkdir()
    for name in FILES:
        write_plain(gguf(name), open_source(str(directory(name))), "F16")
    llama = str(directory("llama"))
    cache = ("--cache-dir", str(folder / "filled"))
    program("analyze", llama, "--out", str(saved()), "--metric", "geometry", "--probe-tokens", "32", "--threads", "1")
    program("export", llama, *MEASURED, *cache, "--out", str(folder / "written.gguf"))
    program("plan", str(saved()), "--budget", "3", "--out", str(folder / "plan.json"))
    program("inspect", str(gguf("llama")))
    program("validate", str(gguf("llama")), "--chunks", "1", "--context", "32", "--threads", "1")
    program("cache", "list", *cache)
    from lieq_edge.system import child

    child.kill_all()


def program(*arguments: str) -> None:
    """Run the command line in this process; it has to succeed."""
    from lieq_edge.cli import main

    said = io.StringIO()
    with mock.patch.object(sys, "argv", ["lieq-edge", *arguments]), redirect_stdout(said), redirect_stderr(said):
        try:
            main()
        except SystemExit:
            raise RuntimeError(said.getvalue()) from None
