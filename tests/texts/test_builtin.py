"""The built-in calibration text."""

from __future__ import annotations

import shutil
from pathlib import Path

from tiny import cached_model

from lieq_edge import open_source
from lieq_edge.texts.builtin import builtin_tokens, shipped_conversations, shipped_pieces
from lieq_edge.texts.windows import calibration_windows


def test_the_shipped_pieces_are_whole() -> None:
    for kind, least in (("prose", 40), ("code", 20)):
        pieces = shipped_pieces(kind)
        assert len(pieces) > least
        assert all(200 < len(piece) < 4000 for piece in pieces)
    conversations = shipped_conversations()
    assert len(conversations) > 50
    for talk in conversations:
        roles = [message["role"] for message in talk]
        asked = roles[1:] if roles[0] == "system" else roles
        assert asked == ["user", "assistant"] * (len(asked) // 2)
        assert all(message["content"].strip() for message in talk)


def test_the_same_seed_gives_the_same_tokens_and_another_one_others() -> None:
    source = open_source(str(cached_model("llama")))
    ids, info = builtin_tokens(source, tokens=2000, seed=0)
    again, _ = builtin_tokens(source, tokens=2000, seed=0)
    other, _ = builtin_tokens(source, tokens=2000, seed=1)
    assert ids == again != other
    assert 2000 <= len(ids) == info.tokens
    assert info.name == "built-in text (seed 0)"


def test_where_more_is_wanted_documentation_follows() -> None:
    source = open_source(str(cached_model("llama")))
    short, name = builtin_tokens(source, tokens=3000, seed=0)
    long, long_name = builtin_tokens(source, tokens=10**6, seed=0)
    assert name.name == "built-in text (seed 0)"
    assert "documentation" in long_name.name
    assert long[: len(short)] == short
    assert len(long) > 20 * len(short)


def test_conversations_have_the_special_tokens_of_the_template(tmp_path: Path) -> None:
    model = tmp_path / "m"
    shutil.copytree(cached_model("llama"), model)
    plain = open_source(str(model))
    eos = next(kv.value for kv in plain.metadata() if kv.key == "tokenizer.ggml.eos_token_id")
    (model / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content + eos_token }}{% endfor %}")
    rendered = open_source(str(model))
    assert builtin_tokens(plain, tokens=4000, seed=0)[0].count(eos) == 0
    assert builtin_tokens(rendered, tokens=4000, seed=0)[0].count(eos) > 4


def test_windows_have_the_length_that_is_asked_for() -> None:
    source = open_source(str(cached_model("llama")))
    windows, info = calibration_windows(source, "builtin", tokens=2048)
    assert windows.shape == (4, 512)
    assert info.tokens == windows.size
