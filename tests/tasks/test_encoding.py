"""Contexts and continuations are cut into tokens as the harness's own model cuts them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny

from lieq_edge.errors import InputError
from lieq_edge.sources import open_source
from lieq_edge.system.progress import Event, reporting_to
from lieq_edge.tasks.encoding import Encoder

MakeGguf = Callable[..., Path]


def encoder_of(path: Path) -> Encoder:
    return Encoder(open_source(str(path)))  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_pairs_are_those_of_transformers(family: str, tiny_gguf: MakeGguf) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny.cached_model(family))
    encoder = encoder_of(tiny_gguf(family))
    pairs = [("The quick brown fox", " jumps"), ("It is 12", "34 miles"), ("One ", "two"), ("a\n\n", "b <tool_call>")]
    for (context, end), row in zip(pairs, encoder.pairs(pairs), strict=True):
        bare = context.rstrip()
        whole, before = tokenizer.encode(context + end), tokenizer.encode(bare)
        assert list(row.tokens) == before + whole[len(before) :]
        assert row.first == len(before)


def test_bos_goes_before_a_text_where_the_metadata_says_so(tiny_gguf: MakeGguf) -> None:
    with_bos, without = encoder_of(tiny_gguf("llama")), encoder_of(tiny_gguf("qwen2"))
    bos = with_bos.prefix
    assert with_bos.encode(["a"])[0][0] == bos
    assert with_bos.encode(["<|begin_of_text|>a"]) == with_bos.encode(["a"])
    assert with_bos.encode(["a"], bos=False)[0][0] != bos
    assert without.encode(["a"]) == without.encode(["a"], bos=False)


def test_a_text_without_context_follows_the_token_before_all_texts(tiny_gguf: MakeGguf) -> None:
    encoder = encoder_of(tiny_gguf("llama"))
    (row,) = encoder.pairs([("", "The quick")])
    assert row.first == 1
    assert row.tokens == (encoder.prefix, *encoder.encode(["The quick"], bos=False)[0])


def test_what_is_too_long_loses_its_beginning(tiny_gguf: MakeGguf) -> None:
    encoder = encoder_of(tiny_gguf("llama"))
    notes: list[Event] = []
    with reporting_to(notes.append):
        long, short = encoder.pairs([("word " * 2000, "end"), ("word", " end")])
    assert len(long.tokens) == encoder.longest + 1
    assert long.tokens[long.first :] == short.tokens[short.first :]
    assert "1 texts" in notes[0].message


def test_a_model_without_any_such_token_is_refused(tiny_gguf: MakeGguf, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = encoder_of(tiny_gguf("llama"))
    monkeypatch.setattr(encoder, "_prefix", None)
    with pytest.raises(InputError, match="neither BOS nor EOS"):
        encoder.pairs([("", "text")])
