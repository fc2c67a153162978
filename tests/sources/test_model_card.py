"""General keys of a Hugging Face directory: what the converter of llama.cpp writes, and what strangers put there."""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gguf
import pytest
from tiny import cached_model

from lieq_edge import Settings, analyze_model, export_model, resolve
from lieq_edge.evidence.blocks.records import describe
from lieq_edge.gguf.container import metadata_bytes
from lieq_edge.gguf.header import read_header
from lieq_edge.sources import Source, open_source
from lieq_edge.sources.huggingface import HuggingFaceSource

CARD = """---
library_name: transformers
license: other
license_name: a-licence
license_link: https://example.org/licence
language:
- en
- no
pipeline_tag: text-generation
base_model:
- HuggingFaceTB/SmolLM2-135M
- https://huggingface.co/org/Other-7B-v0.2
tags:
\t- safetensors
  - onnx
datasets: [org/data]
model-index:
- name: x
  results:
  - task: {type: text-generation}
    metrics: [{type: acc, value: 0.5}]
version: 1.0
---
# Title

license: none of the body counts
---
"""
GENERATION = {"temperature": 0.2, "top_k": 20, "top_p": 0.9, "min_p": 0, "do_sample": True, "eos_token_id": 2}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny model whose name has parts."""
    return Path(shutil.copytree(cached_model("llama"), tmp_path / "SmolLM2-100K-Instruct-v0.3"))


def general(source: Source) -> dict[str, Any]:
    values = {kv.key.removeprefix("general."): kv.value for kv in source.metadata() if kv.key.startswith("general.")}
    return {key: value for key, value in values.items() if key not in ("architecture", "type", "name")}


def card_notes(source: Source) -> list[str]:
    return [note for note in source.warnings if "model card" in note or "generation_config.json" in note]


def test_the_keys_are_those_of_the_converter(model: Path) -> None:
    (model / "README.md").write_text(CARD, encoding="utf-8")
    (model / "generation_config.json").write_text(json.dumps(GENERATION))
    source = open_source(str(model))
    assert card_notes(source) == []
    values = general(source)
    assert values == {
        "sampling.top_k": 20,
        "sampling.top_p": pytest.approx(0.9),
        "sampling.min_p": 0.0,
        "sampling.temp": pytest.approx(0.2),
        "version": "1.0",
        "finetune": "Instruct",
        "basename": "SmolLM2",
        "size_label": "100K",
        "license": "other",
        "license.name": "a-licence",
        "license.link": "https://example.org/licence",
        "base_model.count": 2,
        "base_model.0.name": "SmolLM2 135M",
        "base_model.0.organization": "HuggingFaceTB",
        "base_model.0.repo_url": "https://huggingface.co/HuggingFaceTB/SmolLM2-135M",
        "base_model.1.name": "Other 7B v0.2",
        "base_model.1.version": "v0.2",
        "base_model.1.organization": "Org",
        "base_model.1.repo_url": "https://huggingface.co/org/Other-7B-v0.2",
        "dataset.count": 1,
        "dataset.0.name": "Data",
        "dataset.0.organization": "Org",
        "dataset.0.repo_url": "https://huggingface.co/org/data",
        "tags": ["safetensors", "onnx", "text-generation"],
        "languages": ["en", "no"],
    }
    weights = sum(tensor.size for tensor in map(source.read, [spec.name for spec in source.tensors()]))
    (model / "config.json").unlink()  # of which gguf would take the original's name
    theirs = gguf.Metadata.load(None, model, None, weights)
    ours = source._general  # type: ignore[attr-defined]
    # A version is a number to YAML, which gguf cannot write.
    assert {**asdict(ours), "name": theirs.name} == {**asdict(theirs), "version": "1.0"}


def test_a_model_without_a_card_has_its_size_and_the_parts_of_its_name(tmp_path: Path) -> None:
    plain = Path(shutil.copytree(cached_model("llama", tied=False), tmp_path / "wide"))
    source = open_source(str(plain))
    weights = sum(source.read(spec.name).size for spec in source.tensors())
    assert general(source) == {"size_label": f"{weights / 1e3:.0f}K"}
    assert card_notes(source) == []
    experts = open_source(str(cached_model("qwen3_moe", tied=False)))
    assert general(experts)["size_label"].startswith("8x")


def test_the_bytes_of_the_keys_count(model: Path) -> None:
    before = describe(open_source(str(model)))
    (model / "README.md").write_text(CARD, encoding="utf-8")
    source = open_source(str(model))
    after = describe(source)
    assert after.metadata_bytes - before.metadata_bytes > 500
    assert after.metadata_bytes == metadata_bytes(source.metadata())
    # Measurements are of the weights: another card leaves them as they are.
    assert after.model_hash == before.model_hash


def test_a_written_file_has_the_keys(model: Path, tmp_path: Path) -> None:
    (model / "README.md").write_text(CARD, encoding="utf-8")
    (model / "generation_config.json").write_text(json.dumps(GENERATION))
    settings = Settings(budget="4", metric="first", rounding="nearest", validation=False, parity=False, cache=False)
    export_model(model, tmp_path / "o.gguf", settings)
    header = read_header(tmp_path / "o.gguf")
    expected = general(open_source(str(model)))
    assert {"license", "base_model.0.repo_url", "tags", "languages", "basename", "sampling.temp"} <= expected.keys()
    for key, value in expected.items():
        assert header.get(f"general.{key}") == (pytest.approx(value) if isinstance(value, float) else value), key


def test_a_card_that_changes_while_the_model_is_open_changes_nothing(model: Path) -> None:
    source = open_source(str(model))
    before = source.metadata()
    (model / "README.md").write_text(CARD, encoding="utf-8")
    assert source.metadata() == before


def test_a_model_of_the_hub_names_its_repository(model: Path) -> None:
    source = HuggingFaceSource(model, "org/tiny", "tiny", repository="org/tiny")
    assert general(source)["source.repo_url"] == "https://huggingface.co/org/tiny"
    assert "source.repo_url" not in general(open_source(str(model)))
    (model / "README.md").write_text("---\nrepo_url: https://example.org/x\n---\n")
    assert (
        general(HuggingFaceSource(model, "org/tiny", repository="org/tiny"))["source.repo_url"]
        == "https://example.org/x"
    )


def test_saved_measurements_take_the_present_keys(model: Path, tmp_path: Path) -> None:
    """Their byte budget would not hold with a longer card."""
    saved = analyze_model(model, Settings(budget="4", metric="first", probe_tokens=64, cache=False))
    (model / "README.md").write_text(CARD, encoding="utf-8")
    settings = Settings(budget="4", metric="first", cache=False, validation=False)
    job = resolve(model, settings, saved=saved, out=tmp_path / "o.gguf")
    assert job.saved is not None
    assert job.saved.metadata_bytes == describe(job.source).metadata_bytes > saved.metadata_bytes


def deep(character: str) -> bytes:
    return b"---\ntags: " + character.encode() * 60_000 + b"\n---\n"


HOSTILE: dict[str, bytes] = {
    "a pipe of bytes": b"---\n\xff\xfe\n---\n",
    "no end": b"---\nlicense: mit\n" + b"x: y\n" * 100_000,
    "lists in lists": deep("["),
    "maps in maps": deep("{"),
    "items in items": deep("- "),
    "an alias": b"---\na: &a [x, x]\nb: &b [*a, *a]\ntags: [*b, *b]\n---\n",
    "a tag": b'---\nlicense: !!python/object/apply:os.system ["id"]\n- x\n---\n',
    "no map": b"---\n- a\n- b\n---\n",
    "a text": b"---\nhello\n---\n",
    "a list as a name": b"---\n? [a]\n: b\n---\n",
    "control characters": b"---\nlicense: a\x00b\x1b[31m\n---\n",
    "half a quote": b'---\nlicense: "mit\n---\n',
}
ODD: dict[str, bytes] = {
    "a long text": b"---\nlicense: " + b"x" * 5000 + b"\n---\n",
    "a map": b"---\nlicense: {a: b}\n---\n",
    "a list of lists": b"---\ntags: [[a], [b]]\n---\n",
    "maps of lists": b"---\nbase_model: [{name: [a]}]\n---\n",
    "a map of models": b"---\nbase_model: {name: a}\n---\n",
}
EMPTY: dict[str, bytes] = {
    "nothing": b"",
    "no head": b"# Title\n---\nlicense: mit\n---\n",
    "an empty head": b"---\n---\n",
    "comments": b"---\n# license: mit\n---\n",
    "nulls": b"---\nlicense: null\ntags:\nlanguage: []\nbase_model: ~\n---\n",
    "names of no one": b"---\nname: [a]\nversion: {b: c}\nlicense:\n---\n",
    "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_head_that_cannot_be_read_is_ignored_with_a_note(model: Path, case: str) -> None:
    plain = general(open_source(str(model)))
    (model / "README.md").write_bytes(HOSTILE[case])
    start = time.process_time()
    source = open_source(str(model))
    assert time.process_time() - start < 5
    (note,) = card_notes(source)
    assert "is ignored" in note
    assert "\n" not in note
    assert len(note) < 700
    assert general(source) == plain


@pytest.mark.parametrize("case", ODD)
def test_an_odd_value_is_left_out_with_a_note(model: Path, case: str) -> None:
    plain = general(open_source(str(model)))
    (model / "README.md").write_bytes(ODD[case])
    source = open_source(str(model))
    (note,) = card_notes(source)
    assert "odd value of" in note
    assert general(source) == plain


@pytest.mark.parametrize("case", EMPTY)
def test_a_card_that_says_nothing_changes_nothing(model: Path, case: str) -> None:
    plain = general(open_source(str(model)))
    (model / "README.md").write_bytes(EMPTY[case])
    source = open_source(str(model))
    assert card_notes(source) == []
    assert general(source) == plain


def test_odd_texts_are_written_as_text(model: Path) -> None:
    names = ["/", "a/b/c", "http://", "https://huggingface.co/", "½B", "-", "x-1e9M", "A-B-²k", " ", "\u202e"]
    head = {"base_model": names, "tags": ["\ud800", "a\nb"], "license": ["mit", "apache-2.0"]}
    text = f"---\r\n{json.dumps(head)}\r\n---\r\n"
    (model / "README.md").write_bytes(b"\xef\xbb\xbf" + text.encode())
    source = open_source(str(model))
    values = general(source)
    assert values["license"] == "mit,apache-2.0"
    assert values["tags"] == ["\ufffd", "a b"]
    assert metadata_bytes(source.metadata()) > 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes in folders")
def test_a_pipe_in_the_place_of_a_card_is_not_waited_for(model: Path) -> None:
    os.mkfifo(model / "README.md")
    (note,) = card_notes(open_source(str(model)))
    assert "not a regular file" in note


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1]", b"\xff", b'"x"', b"[" * 100_000, b"{" + b" " * (1 << 20) + b"}"],
    ids=["empty", "half", "list", "bytes", "text", "deep", "large"],
)
def test_a_generation_config_that_cannot_be_read_is_ignored_with_a_note(model: Path, content: bytes) -> None:
    (model / "generation_config.json").write_bytes(content)
    source = open_source(str(model))
    assert not [key for key in general(source) if key.startswith("sampling")]
    assert source.adds_bos in (True, False)  # the tokenizer is read, too
    (note,) = card_notes(source)
    assert "is ignored" in note


def test_odd_sampling_values_are_left_out(model: Path) -> None:
    odd = {"temperature": "hot", "top_k": 0.5, "top_p": float("nan"), "min_p": True, "mirostat": 1 << 40, "sequence": 1}
    odd |= {"penalty_last_n": [1], "penalty_repeat": float("inf"), "mirostat_tau": {}, "mirostat_eta": 1e39}
    (model / "generation_config.json").write_text(json.dumps(odd | {"xtc_threshold": 1, "xtc_probability": None}))
    source = open_source(str(model))
    found = {key: value for key, value in general(source).items() if key.startswith("sampling")}
    assert found == {"sampling.xtc_threshold": 1.0}
    (note,) = card_notes(source)
    assert all(name in note for name in odd)
    (kv,) = (kv for kv in source.metadata() if kv.key == "general.sampling.xtc_threshold")
    assert struct.pack("<f", kv.value) == struct.pack("<f", 1.0)
