"""A model goes from GGUF to a Hugging Face directory and back; what differs is listed with its reason."""

from __future__ import annotations

from pathlib import Path

from foreign import key_value
from logits import export_float32
from tiny import cached_model

from benchmarks import roundtrip
from benchmarks.roundtrip import render, round_trip
from lieq_edge.sources import open_source


def test_only_explained_keys_differ(tmp_path: Path, monkeypatch) -> None:
    directory = cached_model("llama")
    source = open_source(str(export_float32(open_source(str(directory)), tmp_path / "tiny.gguf")))
    metadata = source.metadata()
    added = [key_value("general.license", "apache-2.0"), key_value("tokenizer.ggml.unknown_token_id", 0)]
    monkeypatch.setattr(source, "metadata", lambda: [*metadata, *added])
    trip = round_trip(source, directory, tmp_path, context=32, chunks=1)
    assert trip.faithful
    assert trip.tensors == trip.texts == ()
    assert trip.kld < 1e-9
    keys = {difference.key for difference in trip.differences}
    unknown = "tokenizer.ggml.unknown_token_id"
    assert {"general.license", unknown} <= keys
    named = {"general.name", "general.basename", "general.finetune"}
    assert keys <= {*named, unknown, "general.license", "llama.attention.key_length", "llama.attention.value_length"}
    assert "| general.license | apache-2.0 | - | from the model card" in render(trip, "tiny")


def test_unexplained_differences_are_reported(tmp_path: Path, monkeypatch) -> None:
    directory = cached_model("llama")
    source = open_source(str(export_float32(open_source(str(directory)), tmp_path / "tiny.gguf")))
    metadata = source.metadata()
    monkeypatch.setattr(source, "metadata", lambda: [*metadata, key_value("llama.unheard_of", 7)])
    changed = source.read("output_norm.weight") * 1.5
    read = source.read
    # The first reading is for the directory, the second for the file.
    values = {"output_norm.weight": [changed]}
    monkeypatch.setattr(source, "read", lambda name: values[name].pop() if values.get(name) else read(name))
    trip = roundtrip.round_trip(source, directory, tmp_path, context=32, chunks=1)
    assert not trip.faithful
    assert trip.tensors == ("output_norm.weight",)
    assert trip.kld > 1e-4
    assert "| llama.unheard_of | 7 | - | UNEXPLAINED |" in render(trip, "tiny")
