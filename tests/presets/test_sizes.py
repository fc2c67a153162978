"""Sizes of presets, against the files that llama.cpp writes."""

from __future__ import annotations

import errno
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from changed import changed_file
from tiny import cached_model

from lieq_edge.errors import InputError
from lieq_edge.gguf.header import read_header
from lieq_edge.gguf.types import is_matrix
from lieq_edge.llama.engine import Engine
from lieq_edge.presets import original
from lieq_edge.presets.make import make_preset
from lieq_edge.presets.names import USUAL
from lieq_edge.presets.sizes import nearest_preset, preset_bytes, preset_sizes
from lieq_edge.sources import open_source
from lieq_edge.sources.base import Source
from lieq_edge.system.progress import reporting_to

MakeGguf = Callable[..., Path]
WIDE: dict[str, Any] = {"hidden": 256, "intermediate": 512, "heads": (4, 2)}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "tied": ("llama", WIDE),
    "untied": ("llama", {**WIDE, "tied": False, "dtype": "bfloat16"}),
    "many blocks": ("qwen3", {**WIDE, "blocks": 9}),
    "rows that no super-block fits": ("llama", {"hidden": 288, "heads": (9, 3)}),
    "rows that no block fits": ("llama", {"hidden": 80, "intermediate": 144, "heads": (5, 5)}),
    "eight heads share one": ("qwen2", {**WIDE, "heads": (8, 1)}),
    "experts": ("qwen3_moe", {**WIDE, "tied": False}),
    "experts of Mixtral": ("mixtral", WIDE),
    "fused": ("phi3", {**WIDE, "tied": False, "tokenizer": "sentencepiece"}),
    "learned positions": ("gpt2", {"hidden": 256, "intermediate": 512}),
    "gemma": ("gemma2", WIDE),
}
SOME = ("Q2_K", "Q3_K_M", "Q4_K_M", "IQ2_XXS", "IQ3_M", "Q4_0", "Q8_0")


def random_importances(source: Source) -> dict[str, Any]:
    """Importances of every matrix, of each expert its own."""
    rng = np.random.default_rng(0)
    shapes = {spec.name: spec.shape for spec in source.tensors() if is_matrix(spec.name, spec.shape)}
    return {name: rng.random((*shape[:-2], shape[-1]), np.float32) + 0.1 for name, shape in shapes.items()}


@pytest.fixture
def notes() -> Iterator[list[str]]:
    """Lines for the user."""
    lines: list[str] = []
    with reporting_to(lambda event: lines.append(event.message)):
        yield lines


@pytest.mark.parametrize("case", FAMILIES)
def test_the_size_is_that_of_the_file(case: str, tmp_path: Path) -> None:
    family, options = FAMILIES[case]
    source = open_source(str(cached_model(family, **options)))
    importances = random_importances(source)
    sizes = preset_sizes(source, SOME)
    assert (len(set(sizes.values())) > 1) == (case != "rows that no block fits")  # which stays F16
    with original.written_original(source, tmp_path) as path:
        for preset, size in sizes.items():
            out = tmp_path / f"{preset}.gguf"
            written = make_preset(source, preset, out, importances, chunks=7, threads=1, original=path)
            assert written == out.stat().st_size == size, preset
            read_header(out)
    assert {path.suffix for path in tmp_path.iterdir()} == {".gguf"}


def test_importance_changes_types_and_key_values(tmp_path: Path) -> None:
    source = open_source(str(cached_model("llama", **WIDE, blocks=9)))
    out = tmp_path / "plain.gguf"
    # Q4_0 gives the first down projections Q4_1, if there is an imatrix.
    sizes = {flag: preset_bytes(source, "Q4_0", importance=flag) for flag in (False, True)}
    assert sizes[True] - sizes[False] > 256 * 512 // 32 * 2
    assert make_preset(source, "Q4_0", out, None, threads=1) == sizes[False]
    assert not [kv.key for kv in read_header(out).metadata if kv.key.startswith("quantize.")]
    importances = random_importances(source)
    assert make_preset(source, "Q4_0", out, importances, chunks=7, threads=1) == sizes[True]
    header = read_header(out)
    blocks = [name for name in importances if name.startswith("blk.")]
    assert header.get("quantize.imatrix.entries_count") == len(blocks) == len(importances) - 1
    assert header.get("quantize.imatrix.chunks_count") == 7
    assert header.get("general.file_type") == 2


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "imatrix", "alignment"])
def test_a_gguf_file_is_its_own_original(kind: str, tiny_gguf: MakeGguf, tmp_path: Path, notes: list[str]) -> None:
    plain = tiny_gguf("llama", type="F16" if kind == "F16" else "F32", **WIDE, tied=False)
    path = tmp_path / "own.gguf"
    importances = random_importances(open_source(str(plain)))
    if kind == "alignment":
        changed_file(path, plain, {"general.alignment": 64})
    elif kind in ("Q8_0", "imatrix"):
        make_preset(open_source(str(plain)), "Q8_0", path, importances if kind == "imatrix" else None, threads=1)
    else:
        path = plain
    source = open_source(str(path))
    with original.written_original(source, tmp_path) as used:
        assert (used == path) == (kind != "alignment")
    assert any("quantised already" in note for note in notes) == (kind in ("Q8_0", "imatrix"))
    out = tmp_path / "out.gguf"
    for preset in ("Q3_K_M", "Q5_0"):
        assert preset_bytes(source, preset) == make_preset(source, preset, out, importances, threads=1)
        with Engine(out, context=32, threads=1):
            pass


def test_no_weights_are_read_and_no_space_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(str(cached_model("llama", **WIDE)))
    expected = preset_sizes(source)

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} was read")

    monkeypatch.setattr(source, "read", refuse)
    assert preset_sizes(source) == expected
    assert tuple(expected) == USUAL
    with original.layout_of(source) as layout:
        status = layout.path.stat()
        assert status.st_size > 2_000_000
        if sys.platform == "linux":
            assert status.st_blocks * 512 < 100_000 + sum(layout.key_values.values())
    assert not layout.path.exists()


def test_a_folder_without_room_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr(original, "write_hollow", full)
    source = open_source(str(cached_model("llama", **WIDE)))
    with pytest.raises(InputError, match=r"does not take an empty file of \d+ MB \(File too large\).*TMPDIR"):
        preset_bytes(source, "Q4_K_M")


def test_the_original_needs_space(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = open_source(str(cached_model("llama", **WIDE)))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(InputError, match=r"1\.0 kB free"):
        make_preset(source, "Q4_K_M", tmp_path / "out.gguf", None)
    assert not list(tmp_path.iterdir())


def test_unknown_presets_and_presets_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    source = open_source(str(cached_model("llama", hidden=80, intermediate=144, heads=(5, 5))))
    with pytest.raises(InputError, match=r"no preset Q9; choose one of IQ1_S, .*Q8_0"):
        preset_bytes(source, "Q9")
    with pytest.raises(InputError, match=r"cannot write .* as Q1_0"):
        preset_bytes(source, "Q1_0")
    with pytest.raises(InputError, match=r"as IQ2_XXS .*imatrix"):
        make_preset(open_source(str(cached_model("llama", **WIDE))), "IQ2_XXS", tmp_path / "out.gguf", None)
    assert not list(tmp_path.iterdir())


def test_the_nearest_preset_is_no_larger_unless_all_are() -> None:
    sizes = {"Q3": 30, "Q2": 20, "Q4": 40}
    assert [nearest_preset(sizes, size) for size in (10, 20, 39, 40, 99)] == ["Q2", "Q2", "Q3", "Q4", "Q4"]
