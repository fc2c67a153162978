"""What a chat sees: hundreds of strings, every id with a role, and a rendered conversation, by transformers' tokenizer
and by llama.cpp's on the written file."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest
from logits import export_float32
from runner import run
from settled import notes, settled, values
from tiny import CHAT_TEMPLATE, cached_model

from lieq_edge.errors import InputError
from lieq_edge.llama.vocabulary import Vocabulary
from lieq_edge.sources import open_source
from lieq_edge.sources.tokenizers.battery import BATTERY, special_strings
from lieq_edge.sources.tokenizers.hard_strings import HARD_STRINGS
from lieq_edge.sources.tokenizers.tokenizer import key_values, read_pieces
from lieq_edge.sources.tokenizers.trial import settle

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama3": ("llama", {}),
    "qwen": ("qwen3", {}),
    "sentencepiece": ("llama", {"tokenizer": "sentencepiece-json"}),
    "gemma": ("gemma", {}),
    "gpt2": ("gpt2", {}),
    "granite": ("granite", {}),
}
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What's 12345 + 1?\n\n\tShow  it in `code`, 日本語 👩‍💻!"},
    {"role": "assistant", "content": "12346"},
    {"role": "user", "content": "Why?"},
]


def test_the_battery_is_long_and_in_normal_form() -> None:
    assert len(HARD_STRINGS) >= 300
    assert len(set(HARD_STRINGS)) == len(HARD_STRINGS)
    assert all(unicodedata.is_normalized("NFC", text) for text in HARD_STRINGS)
    assert "" in HARD_STRINGS


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys(), scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Vocabulary, Any]:
    """transformers' tokenizer as tokenizer.json has it, llama.cpp's of the written file, and the file's key-values."""
    from transformers import PreTrainedTokenizerFast

    family, options = request.param
    directory = cached_model(family, **options)
    source = open_source(str(directory))
    path = export_float32(source, tmp_path_factory.mktemp("gguf") / "m.gguf")
    known = {"gemma": "unusual strings", "sentencepiece-json": "begins with a space"}
    expected = next((note for kind, note in known.items() if kind in (family, options.get("tokenizer"))), None)
    assert len(notes(source)) == (expected is not None)
    assert all(str(expected) in warning for warning in notes(source))
    return PreTrainedTokenizerFast.from_pretrained(directory), Vocabulary(path), values(open_source(str(path)))


def test_every_string_gives_the_same_tokens(pair: tuple[Any, Vocabulary, Any]) -> None:
    theirs, ours, _ = pair
    special = special_strings([token for token in theirs.all_special_tokens if token != theirs.unk_token])
    different = [
        text
        for text in (*BATTERY, *HARD_STRINGS, *special)
        if ours.tokenize(text, parse_special=True) != theirs.encode(text, add_special_tokens=False)
    ]
    # Of runs of spaces longer than any token, Gemma's tokenizer.json joins halves; sentencepiece itself and llama.cpp
    # take the longest token first.
    assert [text for text in different if not (" " * 13 in text and "<start_of_turn>" in theirs.get_vocab())] == []


def test_ids_with_a_role_and_the_rule_for_bos(pair: tuple[Any, Vocabulary, Any]) -> None:
    theirs, ours, keys = pair
    for role in ("bos", "eos", "pad"):
        assert keys.get(f"ggml.{'padding' if role == 'pad' else role}_token_id") == getattr(theirs, f"{role}_token_id")
    import llama_cpp

    from lieq_edge.llama.loaded import LoadedVocabulary

    pointer = LoadedVocabulary(str(ours._path).encode(), "model").pointer
    # Where a reply ends: llama.cpp finds such tokens by name.
    ends = {"<|eot_id|>", "<|im_end|>", "<end_of_turn>"} & set(theirs.get_added_vocab())
    for index in (
        theirs.eos_token_id,
        llama_cpp.llama_vocab_eot(pointer),
        *map(theirs.convert_tokens_to_ids, ends),
    ):
        assert index < 0 or llama_cpp.llama_vocab_is_eog(pointer, index)
    assert ours.bos_id == theirs.bos_token_id or (ours.bos_id is not None and theirs.bos_token_id is None)
    plain, full = theirs.encode("Hello", add_special_tokens=False), theirs.encode("Hello")
    assert full == ([ours.bos_id] if ours.adds_bos else []) + plain
    for token, index in theirs.get_added_vocab().items():
        # llama.cpp looks for Gemma's runs of spaces as they are in the text.
        assert keys["ggml.tokens"][index] in (token, token.replace("▁", " "))


def test_bytes_that_no_piece_covers(pair: tuple[Any, Vocabulary, Any]) -> None:
    theirs, ours, _ = pair
    for text in ("\U00013000", "𝔷", "\ufffd", "\ue000"):
        ids = ours.tokenize(text)
        assert len(ids) > 1
        assert ids == theirs.encode(text, add_special_tokens=False)
        assert ours.detokenize(ids) == text


def test_a_conversation_renders_the_same(pair: tuple[Any, Vocabulary, Any]) -> None:
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    theirs, ours, keys = pair
    assert keys["chat_template"].encode() == theirs.chat_template.encode() == CHAT_TEMPLATE.encode()
    eos, bos = theirs.eos_token or "", theirs.bos_token or ""
    rendered = theirs.apply_chat_template(CONVERSATION, tokenize=False, add_generation_prompt=True)
    formatter = Jinja2ChatFormatter(keys["chat_template"], eos_token=eos, bos_token=bos)
    messages: Any = CONVERSATION
    assert formatter(messages=messages).prompt == rendered
    assert ours.tokenize(rendered, parse_special=True) == theirs.encode(rendered, add_special_tokens=False)


def test_a_difference_in_an_unusual_string_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The best of the candidates that the short battery chose is taken, and the place is shown."""
    from dataclasses import replace

    directory = cached_model("llama")
    pieces = read_pieces(directory, 512)
    hard = next(text for text in HARD_STRINGS if not text.isascii())
    odd = replace(pieces, encode=lambda text: [1, 2, 3] if text == hard else pieces.encode(text))
    trial = settle(odd, key_values(directory, pieces), "llama", "model")
    assert len(notes(trial)) == 1
    assert f"1 of {len(HARD_STRINGS)} unusual strings" in notes(trial)[0]
    assert notes(settled(directory)) == []


def test_a_difference_in_plain_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the long battery, too: no table of Unicode explains it."""
    from dataclasses import replace

    directory = cached_model("llama")
    pieces = read_pieces(directory, 512)
    plain = next(text for text in HARD_STRINGS if text == "they'Re")
    odd = replace(pieces, encode=lambda text: [1, 2, 3] if text == plain else pieces.encode(text))
    with pytest.raises(InputError, match='in "they\'Re" the original has'):
        settle(odd, key_values(directory, pieces), "llama", "model")


def test_notes_of_the_tokenizer_are_told_before_the_work() -> None:
    """They are known only when the tokenizer is settled, after the model was opened."""
    done = run("plan", cached_model("gemma"), "--budget", "4", "--metric", "first")
    assert done.returncode == 0
    assert done.stderr.startswith("Note: llama.cpp splits")
