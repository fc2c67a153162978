"""Models in several GGUF files, as llama-gguf-split writes them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from foreign import foreign_model
from parts import PARTS, split
from runner import assert_refused, run

from lieq_edge.errors import InputError
from lieq_edge.gguf.header import read_header
from lieq_edge.gguf.inspect import inspect_file
from lieq_edge.gguf.splits import first_part, stored_bytes
from lieq_edge.sources import open_source


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return foreign_model(tmp_path_factory.mktemp("whole") / "whole.gguf", "internlm2")


@pytest.fixture
def parts(tmp_path: Path, whole: Path) -> list[Path]:
    return split(whole, tmp_path)


@pytest.mark.parametrize("number", range(PARTS))
def test_any_part_opens_the_whole_model(parts: list[Path], whole: Path, number: int) -> None:
    source, expected = open_source(str(parts[number])), open_source(str(whole))
    assert source.gguf_path == parts[0]
    assert source.files == tuple(parts)
    assert source.metadata() == expected.metadata()
    assert source.tensors() == expected.tensors()
    for spec in expected.tensors():
        assert np.array_equal(source.read(spec.name), expected.read(spec.name))
    assert source.content_hash == open_source(str(parts[0])).content_hash
    assert source.tokenize("The model") == expected.tokenize("The model")
    assert first_part(parts[number]) == parts[0]
    found = inspect_file(parts[number])
    assert found.types == inspect_file(whole).types
    assert found.file_bytes == sum(part.stat().st_size for part in parts)


def test_the_hash_covers_every_part(parts: list[Path]) -> None:
    before = open_source(str(parts[0])).content_hash
    data = bytearray(parts[2].read_bytes())
    data[-5] ^= 1
    parts[2].write_bytes(data)
    assert open_source(str(parts[0])).content_hash != before


def test_an_export_of_parts_is_one_file_like_that_of_the_whole(tmp_path: Path, parts: list[Path], whole: Path) -> None:
    flags = ("--budget", "3", "--metric", "first", "--calibration", "docs", "--calibration-tokens", "256")
    flags += ("--no-reference", "--context", "32", "--chunks", "1")
    outs = [tmp_path / "a.gguf", tmp_path / "b.gguf"]
    for model, out in zip((parts[1], whole), outs, strict=True):
        done = run("export", model, "--out", out, *flags)
        assert done.returncode == 0, done.stderr
    one, other = (read_header(out) for out in outs)
    assert [kv for kv in one.metadata if kv.key != "lieq.source_sha256"] == [
        kv for kv in other.metadata if kv.key != "lieq.source_sha256"
    ]
    start = one.tensors[0].offset
    assert outs[0].read_bytes()[start:] == outs[1].read_bytes()[start:]
    done = run("validate", outs[0], "--reference", parts[2], "--context", "32", "--chunks", "1", "--json")
    assert done.returncode == 0, done.stderr
    again = run("validate", outs[0], "--reference", whole, "--context", "32", "--chunks", "1", "--json")
    assert done.stdout == again.stdout
    assert_refused(run("export", parts[0], "--out", parts[2], "--force", *flags), "belongs to the model")


def test_missing_and_mixed_parts_are_refused(tmp_path: Path, parts: list[Path], whole: Path) -> None:
    parts[1].rename(tmp_path / "aside")
    with pytest.raises(InputError, match=r"model-00002-of-00003\.gguf is missing"):
        open_source(str(parts[0]))
    parts[1].write_bytes(parts[2].read_bytes())
    with pytest.raises(InputError, match="not part 2 of 3"):
        open_source(str(parts[0]))
    parts[1].write_bytes((tmp_path / "aside").read_bytes()[:-200])
    with pytest.raises(InputError, match="truncated"):
        open_source(str(parts[0]))
    alone = parts[0].rename(tmp_path / "renamed.gguf")
    with pytest.raises(InputError, match="does not say which"):
        open_source(str(alone))


def test_parts_with_missing_tensors_are_refused(tmp_path: Path, whole: Path) -> None:
    parts = split(whole, tmp_path, announced=len(read_header(whole).tensors) + 1)
    with pytest.raises(InputError, match="announced"):
        open_source(str(parts[0]))


def test_parts_are_scored_by_any_of_them_and_counted_together(parts: list[Path], whole: Path) -> None:
    flags = ("--context", "32", "--chunks", "1", "--threads", "1", "--json")
    done = run("validate", parts[1], whole, *flags)
    assert done.returncode == 0, done.stderr
    split_up, single = (row["validation"] for row in json.loads(done.stdout))
    assert split_up["ppl"] == single["ppl"]
    assert split_up["file_bytes"] == sum(part.stat().st_size for part in parts) == stored_bytes(parts[2])
    assert (stored_bytes(whole), stored_bytes(whole.with_name("none"))) == (whole.stat().st_size, 0)


def test_a_missing_part_is_told_before_others_are_scored(parts: list[Path], whole: Path) -> None:
    parts[2].unlink()
    done = run("validate", whole, parts[0], "--context", "32", "--chunks", "1")
    assert_refused(done, parts[2].name, "is missing")
    assert "Scoring" not in done.stderr
