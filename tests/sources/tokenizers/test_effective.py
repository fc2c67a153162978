"""What a tokenizer does decides the key-values, whichever of its files says what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from edited import FLAGS, Model, widen
from gguf import TokenType
from settled import notes, values
from tiny import CHAT_TEMPLATE, cached_model

from lieq_edge.errors import InputError
from lieq_edge.sources import open_source
from lieq_edge.sources.tokenizers import conversations, spm_model

NEW_TEMPLATE = "NEW{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}"


def added(index: int, content: str, **flags: bool) -> dict[str, Any]:
    return {"id": index, "content": content, **FLAGS, **flags}


def as_added_token(content: str) -> dict[str, Any]:
    return {"__type": "AddedToken", "content": content, "lstrip": False, "normalized": False, "rstrip": False}


def put_around(document: dict[str, Any], before: list[str], after: list[str]) -> None:
    """A post-processor that puts special tokens around a text."""
    ids = {entry["content"]: entry["id"] for entry in document["added_tokens"]}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    single = [{"SpecialToken": {"id": token, "type_id": 0}} for token in before]
    single += [text, *({"SpecialToken": {"id": token, "type_id": 0}} for token in after)]
    special = {token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in (*before, *after)}
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    document["post_processor"] = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": pair,
        "special_tokens": special,
    }


def test_bos_given_as_a_dictionary(tmp_path: Path) -> None:
    model = Model(tmp_path)
    model.edit("tokenizer_config.json", lambda d: d.update(bos_token=as_added_token("<|begin_of_text|>")))
    keys = model.keys()
    assert (keys["ggml.bos_token_id"], keys["ggml.add_bos_token"]) == (507, True)


def test_add_eos_left_by_training_is_ignored(tmp_path: Path) -> None:
    """transformers ignores it beside a tokenizer.json, and llama-perplexity stops on files that say true."""
    model = Model(tmp_path, "qwen2")
    model.edit("tokenizer_config.json", lambda d: d.update(add_eos_token=True))
    source = model.open()
    assert "ggml.add_eos_token" not in values(source)
    assert [note for note in source.warnings if "add_eos_token = true" in note]


def test_eos_that_the_tokenizer_adds_is_written(tmp_path: Path) -> None:
    model = Model(tmp_path)
    model.edit("tokenizer.json", lambda d: put_around(d, ["<|begin_of_text|>"], ["<|eot_id|>"]))
    source = model.open()
    keys = values(source)
    assert (keys["ggml.add_bos_token"], keys["ggml.add_eos_token"]) == (True, True)
    assert any("llama-perplexity" in note for note in source.warnings)


def test_a_prefix_that_is_not_bos_is_not_called_bos(tmp_path: Path) -> None:
    model = Model(tmp_path)
    model.edit("tokenizer.json", lambda d: put_around(d, ["<|start_header_id|>"], []))
    source = model.open()
    keys = values(source)
    assert (keys["ggml.bos_token_id"], keys["ggml.add_bos_token"]) == (507, False)
    assert any("puts '<|start_header_id|>' before a text" in note for note in source.warnings)


def test_a_prefix_is_bos_where_the_tokenizer_names_none(tmp_path: Path) -> None:
    model = Model(tmp_path)
    (model.path / "tokenizer_config.json").unlink()
    model.edit("config.json", lambda d: d.pop("bos_token_id"))
    keys = model.keys()
    assert (keys["ggml.bos_token_id"], keys["ggml.add_bos_token"]) == (507, True)


@pytest.mark.parametrize("place", ["older", "null", "missing", "no config"])
def test_the_template_file_counts(tmp_path: Path, place: str) -> None:
    model = Model(tmp_path)
    if place == "null":
        model.edit("tokenizer_config.json", lambda d: d.update(chat_template=None))
    elif place == "missing":
        model.edit("tokenizer_config.json", lambda d: d.pop("chat_template"))
    elif place == "no config":
        (model.path / "tokenizer_config.json").unlink()
    (model.path / "chat_template.jinja").write_text(NEW_TEMPLATE)
    assert model.keys()["chat_template"] == NEW_TEMPLATE


def test_named_templates(tmp_path: Path) -> None:
    model = Model(tmp_path)
    (model.path / "additional_chat_templates").mkdir()
    (model.path / "additional_chat_templates" / "tool_use.jinja").write_text("TOOLS")
    (model.path / "chat_template.jinja").write_text(NEW_TEMPLATE)
    before = open_source(str(model.path)).content_hash
    keys = model.keys()
    assert (keys["chat_template"], keys["chat_template.tool_use"]) == (NEW_TEMPLATE, "TOOLS")
    (model.path / "additional_chat_templates" / "tool_use.jinja").write_text("OTHER")
    assert open_source(str(model.path)).content_hash != before


def test_the_template_of_a_processor(tmp_path: Path) -> None:
    """Models that see have it in chat_template.json; it counts where the tokenizer has none."""
    model = Model(tmp_path)
    (model.path / "chat_template.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    assert model.keys()["chat_template"] == CHAT_TEMPLATE
    model.edit("tokenizer_config.json", lambda d: d.pop("chat_template"))
    assert model.keys()["chat_template"] == "{{ messages }}"


@pytest.mark.parametrize("place", ["generation_config.json", "config.json"])
def test_an_end_of_turn_outside_the_tokenizer_ends_a_reply(tmp_path: Path, place: str) -> None:
    model = Model(tmp_path)
    model.edit("tokenizer.json", lambda d: d["added_tokens"][2].update(content="<|finished|>"))
    assert 509 not in model.open().vocabulary.end_ids
    model.edit(place, lambda d: d.update(eos_token_id=[511, 509]))
    source = model.open()
    keys = values(source)
    assert (keys["ggml.eos_token_id"], keys["ggml.eot_token_id"]) == (511, 509)
    assert {509, 511} <= source.vocabulary.end_ids
    assert notes(source) == []


def test_ends_that_no_key_is_left_for_are_reported(tmp_path: Path) -> None:
    model = Model(tmp_path)
    model.edit("generation_config.json", lambda d: d.update(eos_token_id=[511, 5, 6, 7]))
    source = model.open()
    keys = values(source)
    assert (keys["ggml.eot_token_id"], keys["ggml.eom_token_id"]) == (5, 6)
    assert {511, 5, 6, 7} - source.vocabulary.end_ids == {7}
    assert any("no key left" in note and repr(keys["ggml.tokens"][7]) in note for note in source.warnings)


@pytest.mark.parametrize("content", [-1, True, 10**9, "x", [None, 511], {}])
def test_odd_ends_are_passed_over(tmp_path: Path, content: Any) -> None:
    model = Model(tmp_path)
    model.edit("generation_config.json", lambda d: d.update(eos_token_id=content))
    assert model.keys()["ggml.eos_token_id"] == 511


def test_a_sentencepiece_model_with_chat_tokens_ends_at_theirs(tmp_path: Path) -> None:
    model = Model(tmp_path, tokenizer="sentencepiece")
    widen(model.path)
    turns = {"512": "<|im_start|>", "513": "<|im_end|>"}
    decoder = {index: {**FLAGS, "special": True, "content": token} for index, token in turns.items()}
    model.edit("tokenizer_config.json", lambda d: d.update(added_tokens_decoder=decoder, eos_token="<|im_end|>"))
    source = model.open()
    keys = values(source)
    assert keys["ggml.eos_token_id"] == 513
    assert keys["ggml.tokens"][512:514] == ["<|im_start|>", "<|im_end|>"]
    assert keys["ggml.token_type"][512:514] == [TokenType.CONTROL, TokenType.CONTROL]
    assert 2 in source.vocabulary.end_ids  # config.json still has it


PLACES = ("tokenizer_config.json", "added_tokens.json", "special_tokens_map.json", "tokenizer.json")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["qwen2", "sentencepiece"])
def test_added_tokens_of_every_file(tmp_path: Path, place: str, kind: str) -> None:
    family, options = ("qwen2", {}) if kind == "qwen2" else ("llama", {"tokenizer": "sentencepiece", "vocab": 512})
    model = Model(tmp_path, family, **options)
    if kind != "qwen2":
        # Rows without a token, as in an embedding that was resized to a multiple of 64.
        model = Model(tmp_path / "wide", family, **options)
        widen(model.path)
    first = 505 if kind == "qwen2" else 512
    if place == "tokenizer.json" and kind != "qwen2":
        pytest.skip("there is none")
    if place == "tokenizer_config.json":
        known = {} if kind != "qwen2" else existing(model.path)
        decoder = known | {str(first + i): {**FLAGS, "content": t} for i, t in enumerate(("<think>", "</think>"))}
        model.edit(place, lambda d: d.update(added_tokens_decoder=decoder))
    elif place == "added_tokens.json":
        model.edit(place, lambda d: d.update({"<think>": first, "</think>": first + 1}))
    elif place == "special_tokens_map.json":
        model.edit(place, lambda d: d.update(additional_special_tokens=["<think>", "</think>"]))
    else:
        new = [added(first, "<think>"), added(first + 1, "</think>")]
        model.edit(place, lambda d: d["added_tokens"].extend(new))
    theirs = reference(model.path)
    source = model.open()
    keys = values(source)
    ids = [theirs.convert_tokens_to_ids(token) for token in ("<think>", "</think>")]
    assert [keys["ggml.tokens"][index] for index in ids] == ["<think>", "</think>"]
    special = "<think>" in theirs.all_special_tokens
    assert keys["ggml.token_type"][ids[0]] == (TokenType.CONTROL if special else TokenType.USER_DEFINED)
    assert source.vocabulary.tokenize("<think>", parse_special=True) == ids[:1]


def existing(directory: Path) -> dict[str, Any]:
    entries = json.loads((directory / "tokenizer.json").read_text())["added_tokens"]
    return {str(entry.pop("id")): entry for entry in entries}


def reference(directory: Path) -> Any:
    """transformers' own tokenizer; of a bare sentencepiece model, what our JSON form of it gives."""
    from lieq_edge.sources.tokenizers.tokenizer import read_pieces

    rows = json.loads((directory / "config.json").read_text())["vocab_size"]
    return read_pieces(directory, rows).original._tokenizer


@pytest.mark.parametrize("kind", ["bpe", "sentencepiece"])
def test_padding_beyond_the_embedding_is_dropped(tmp_path: Path, kind: str) -> None:
    model = Model(tmp_path, tokenizer=kind)
    if kind == "bpe":
        model.edit("tokenizer.json", lambda d: d["added_tokens"].append(added(512, "[PAD]", special=True)))
        model.edit("tokenizer_config.json", lambda d: d.update(pad_token="[PAD]"))
    else:
        model.edit("added_tokens.json", lambda d: d.update({"[PAD]": 512}))
    source = model.open()
    keys = values(source)
    assert len(keys["ggml.tokens"]) == 512
    assert "ggml.padding_token_id" not in keys
    assert any("[PAD]" in note and "left out" in note for note in source.warnings)


def test_other_tokens_beyond_the_embedding_are_refused(tmp_path: Path) -> None:
    model = Model(tmp_path, tokenizer="sentencepiece")
    model.edit("added_tokens.json", lambda d: d.update({"<|more|>": 512}))
    with pytest.raises(InputError, match=r"id 512 \('<\|more\|>'\) .* only 512 rows"):
        model.keys()


def test_a_vocabulary_without_tokenizer_json(tmp_path: Path) -> None:
    """vocab.json and merges.txt, as older models have them."""
    model = Model(tmp_path, "qwen2")
    document = json.loads((model.path / "tokenizer.json").read_text())
    expected = model.keys()
    (model.path / "tokenizer.json").unlink()
    (model.path / "vocab.json").write_text(json.dumps(document["model"]["vocab"]))
    merges = (merge if isinstance(merge, str) else " ".join(merge) for merge in document["model"]["merges"])
    (model.path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges))
    decoder = {str(entry.pop("id")): entry for entry in document["added_tokens"]}
    model.edit("tokenizer_config.json", lambda d: d.update(added_tokens_decoder=decoder))
    assert model.keys() == expected


def test_a_json_form_of_a_sentencepiece_model_is_what_transformers_makes(tmp_path: Path) -> None:
    pytest.importorskip("google.protobuf")
    from transformers import AutoTokenizer

    directory = cached_model("llama", tokenizer="sentencepiece")
    theirs, ours = AutoTokenizer.from_pretrained(directory), reference(directory)
    assert theirs.backend_tokenizer.to_str() == ours.backend_tokenizer.to_str()


def test_labels_are_not_asked_for(tmp_path: Path) -> None:
    """transformers would make a table of them, for the tokenizer too."""
    model = Model(tmp_path)
    model.edit("config.json", lambda d: d.update(num_labels=10**12))
    source = model.open()
    assert "ggml.tokens" in values(source)
    assert "num_labels" not in source.config()


def test_code_of_a_directory_is_not_run(tmp_path: Path) -> None:
    model = Model(tmp_path)
    (model.path / "custom.py").write_text("raise SystemExit('ran')")
    auto = {"AutoTokenizer": ["custom.Slow", "custom.Fast"]}
    model.edit("tokenizer_config.json", lambda d: d.update(auto_map=auto, tokenizer_class="Custom"))
    with pytest.raises(InputError, match=r"a class of its own \(Custom\), whose code is not run"):
        model.keys()


def test_conversations_that_differ_are_refused(tmp_path: Path) -> None:
    """A special token that transformers finds in a rendered text and llama.cpp does not."""
    model = Model(tmp_path)
    source = model.open()
    pieces = reference_pieces(model.path)
    found = pieces.encode
    from dataclasses import replace

    odd = replace(pieces, encode=lambda text: [511, *found(text)] if "Answer briefly" in text else found(text))
    assert conversations.check_conversations(source.vocabulary, pieces, "model") == []
    with pytest.raises(InputError, match="A conversation of model gives other tokens"):
        conversations.check_conversations(source.vocabulary, odd, "model")


def reference_pieces(directory: Path) -> Any:
    from lieq_edge.sources.tokenizers.tokenizer import read_pieces

    return read_pieces(directory, 512)


def test_white_space_that_a_special_token_takes_is_a_note(tmp_path: Path) -> None:
    model = Model(tmp_path)

    def strip(document: dict[str, Any]) -> None:
        for entry in document["added_tokens"]:
            entry["rstrip"] = True

    model.edit("tokenizer.json", strip)
    template = (
        "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] }}{% endfor %}"
    )
    (model.path / "chat_template.jinja").write_text(template)
    source = model.open()
    _ = source.vocabulary
    (note,) = notes(source)
    assert "special tokens" in note


def test_templates_that_refuse_a_role_are_still_compared(tmp_path: Path) -> None:
    model = Model(tmp_path)
    template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{{ m['content'] }}<|eot_id|>{% endfor %}"
    )
    (model.path / "chat_template.jinja").write_text(template)
    pieces = reference_pieces(model.path)
    rendered = list(conversations._rendered(pieces))
    assert len(rendered) == sum(messages[0]["role"] != "system" for messages, _ in conversations.CONVERSATIONS)
    assert values(model.open())["chat_template"] == template


def test_a_unigram_sentencepiece_model_is_refused(tmp_path: Path) -> None:
    import io

    import sentencepiece
    from tiny import sample_text

    model = Model(tmp_path, tokenizer="sentencepiece")
    proto = io.BytesIO()
    lines = iter(sample_text(20000).splitlines())
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=proto, model_type="unigram", vocab_size=160, minloglevel=2
    )
    (model.path / "tokenizer.model").write_bytes(proto.getvalue())
    with pytest.raises(InputError, match="unigram"):
        model.keys()


def test_types_of_pieces_are_read_from_the_proto() -> None:
    directory = cached_model("gemma")
    kinds = spm_model.piece_types((directory / "tokenizer.model").read_bytes())
    assert len(kinds) == 512
    assert {1, 2, 3, 4, 6} <= set(kinds)
