"""What the written file does otherwise than transformers is told, and what cannot be read is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from edited import FLAGS, Model, widen
from logits import export_float32
from settled import values

from lieq_edge.errors import InputError
from lieq_edge.llama.vocabulary import Vocabulary


def test_ends_that_llama_cpp_knows_by_name_alone_are_a_note(tmp_path: Path) -> None:
    """No key of a file takes them away."""
    model = Model(tmp_path)
    source = model.open()
    keys = values(source)
    named = {index for index, token in enumerate(keys["ggml.tokens"]) if token == "<|end_of_text|>"}
    assert source.vocabulary.end_ids == {keys["ggml.eos_token_id"]} | named
    assert any("'<|end_of_text|>' too" in note and "'<|eot_id|>' only" in note for note in source.warnings)
    model.edit("generation_config.json", lambda d: d.update(eos_token_id=[511, *named]))
    assert model.open().vocabulary.end_ids == source.vocabulary.end_ids
    source = model.open()
    _ = source.vocabulary
    assert source.warnings == ()


def test_without_an_end_llama_cpp_takes_a_token_for_one(tmp_path: Path) -> None:
    """Its default, token 11 of byte-level vocabularies, which the file cannot take back."""
    model = Model(tmp_path)
    model.edit("tokenizer_config.json", lambda d: d.pop("eos_token"))
    model.edit("config.json", lambda d: d.pop("eos_token_id"))
    source = model.open()
    assert 11 in source.vocabulary.end_ids
    assert any("transformers ends one at no token." in note for note in source.warnings)


@pytest.mark.parametrize("document", [{}, {"do_sample": False}, {"eos_token_id": None}, {"eos_token_id": [5]}])
def test_ends_that_generate_does_not_ask_for_are_a_note(tmp_path: Path, document: dict[str, Any]) -> None:
    """Beside a generation_config.json transformers does not ask config.json."""
    model = Model(tmp_path, "qwen2")
    model.edit("generation_config.json", lambda d: d.update(document))
    source = model.open()
    keys = values(source)
    end = keys["ggml.tokens"][keys["ggml.eos_token_id"]]
    (note,) = (note for note in source.warnings if "The written file ends" in note)
    assert f"at {end!r} too" in note
    assert note.endswith(f"one at {keys['ggml.tokens'][5]!r} only." if document.get("eos_token_id") else "no token.")


def test_white_space_of_a_token_is_not_called_sentencepieces(tmp_path: Path) -> None:
    model = Model(tmp_path, tokenizer="sentencepiece")
    widen(model.path)
    entry = {**FLAGS, "special": True, "lstrip": True, "content": "<|turn|>"}
    model.edit("tokenizer_config.json", lambda d: d.update(added_tokens_decoder={"512": entry}))
    source = model.open()
    _ = source.vocabulary
    assert any("around special tokens" in note for note in source.warnings)
    assert not any("All other texts" in note for note in source.warnings)


def test_a_template_that_renders_nothing_is_a_note(tmp_path: Path) -> None:
    model = Model(tmp_path)
    broken = "{% for m in messages %}{{ m.content }"
    model.edit("tokenizer_config.json", lambda d: d.update(chat_template=broken))
    source = model.open()
    assert values(source)["chat_template"] == broken
    assert any("renders no conversation" in note for note in source.warnings)


@pytest.mark.parametrize("name", ["tekken.json", "qwen.tiktoken", "tokenizer.model.v3", "vocab.txt"])
def test_a_tokenizer_in_another_form_is_named(tmp_path: Path, name: str) -> None:
    model = Model(tmp_path)
    (model.path / "tokenizer.json").rename(model.path / name)
    with pytest.raises(InputError, match=f"as {name} only"):
        model.open()


def named(folder: Path, name: str, **options: Any) -> Model:
    model = Model(folder, **options)
    model.path = model.path.rename(folder / name)
    return model


@pytest.mark.parametrize("name", ["Phi-3-and-me", "distilled-from-phi3", "modern-bert-sized"])
def test_a_name_that_llama_cpp_acts_on_is_written_otherwise(tmp_path: Path, name: str) -> None:
    """It would take white space behind special tokens, or not load a vocabulary without Phi-3's tokens at all."""
    model = named(tmp_path, name)
    source = model.open()
    kept = next(kv.value for kv in source.metadata() if kv.key == "general.name")
    assert Vocabulary(export_float32(source, tmp_path / "m.gguf")).n_tokens == 512
    if name.startswith("modern"):
        assert kept == name  # it makes no difference here
    else:
        assert kept.casefold().replace("phi 3", "") in name.casefold()
        assert any(repr(kept) in note and repr(name) in note for note in source.warnings)


def test_the_name_of_a_phi_3_stays(tmp_path: Path) -> None:
    """Its special tokens take the white space behind them, as llama.cpp has it for files of that name only."""
    model = named(tmp_path, "Phi-3-mini", tokenizer="sentencepiece")
    widen(model.path)
    texts = ("<|endoftext|>", "<|user|>", "<|end|>")
    decoder = {
        str(512 + i): {**FLAGS, "special": True, "rstrip": i > 0, "content": text} for i, text in enumerate(texts)
    }
    template = "{% for m in messages %}<|user|>\n{{ m.content }}<|end|>\n{% endfor %}"
    model.edit("tokenizer_config.json", lambda d: d.update(added_tokens_decoder=decoder, chat_template=template))
    source = model.open()
    assert next(kv.value for kv in source.metadata() if kv.key == "general.name") == "Phi-3-mini"
    assert not any("The written file calls" in note for note in source.warnings)


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors", "config.json", "tokenizer_config.json"])
def test_a_pointer_of_git_lfs_is_called_one(tmp_path: Path, name: str) -> None:
    model = Model(tmp_path)
    (model.path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n")
    with pytest.raises(InputError, match=f"{name} is a pointer of Git LFS"):
        model.keys()
