"""Conversations: templates, answers piece by piece, and contexts that are full."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from changed import changed_file
from parts import split

from lieq_edge.errors import InputError
from lieq_edge.llama.chat import Chat, answer, open_chat
from lieq_edge.llama.child import shared
from lieq_edge.llama.reload import generate
from lieq_edge.llama.template import chat_template
from lieq_edge.llama.vocabulary import Vocabulary
from lieq_edge.system.progress import Event, reporting_to

Make = Callable[..., Path]
GREEDY: dict[str, Any] = {"temperature": 0.0, "threads": 1}


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.fixture
def chat(tiny_gguf: Make) -> Iterator[Chat]:
    with open_chat(tiny_gguf("qwen2"), max_tokens=12, **GREEDY) as conversation:
        yield conversation


@pytest.mark.parametrize(
    ("family", "options"),
    [("qwen2", {}), ("llama", {}), ("llama", {"tokenizer": "sentencepiece-json"}), ("gemma2", {})],
)
def test_a_conversation_has_the_tokens_that_transformers_gives_it(
    tiny_gguf: Make, family: str, options: dict[str, Any]
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny.cached_model(family, **options))
    messages = [
        {"role": "system", "content": "Be brief."},
        *user("Où est le café? 日本"),
        {"role": "assistant", "content": "There."},
        *user("Good."),
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    with open_chat(tiny_gguf(family, **options), **GREEDY) as conversation:
        assert conversation.template is not None
        assert conversation.template.render(messages) == text
        assert conversation._tokens(messages) == tokenizer(text)["input_ids"]


def test_the_greedy_answer_is_that_of_llama_cpp_python(tiny_gguf: Make) -> None:
    path = tiny_gguf("qwen2")
    question = user("The model was good, and it's")
    ours = answer(path, question, max_tokens=16, threads=1)
    assert ours == generate(path, question, max_tokens=16, threads=1).strip() != ""
    assert ours == answer(path, question, max_tokens=16, threads=1)


@pytest.mark.parametrize(("family", "options"), [("qwen2", {}), ("llama", {"tokenizer": "sentencepiece-json"})])
def test_an_answer_is_the_text_of_its_tokens(tiny_gguf: Make, family: str, options: dict[str, Any]) -> None:
    with open_chat(tiny_gguf(family, **options), max_tokens=12, **GREEDY) as chat:
        pieces = list(chat.say("Hello"))
        assert len(pieces) > 3
        ids = chat._known[len(chat._tokens(user("Hello"))) :]
        # The last token was drawn, and not read.
        assert len(ids) == 11
        assert "".join(pieces).startswith(Vocabulary(chat.path).detokenize(ids).rstrip("\ufffd"))
        assert chat.messages == [*user("Hello"), {"role": "assistant", "content": "".join(pieces)}]


def test_a_space_that_the_tokenizer_puts_before_a_text_is_left_out(
    tiny_gguf: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_chat(tiny_gguf("llama", tokenizer="sentencepiece-json"), **GREEDY) as chat:
        data = iter([(5, "", False), (5, " two", False), (5, " words", False), (5, "", True)])
        monkeypatch.setattr(chat, "_call", lambda function, *_, tokens: next(data) if function == "write" else 0)
        assert list(chat.say("x")) == ["two", " words"]


def test_a_character_of_several_tokens_comes_whole(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    data = iter("é😀".encode())

    def one_byte(function: str, *arguments: Any, tokens: int) -> Any:
        if function != "write":
            return 0
        byte = next(data, None)
        return (5, "" if byte is None else bytes([byte]).decode("latin-1"), byte is None)

    monkeypatch.setattr(chat, "_call", one_byte)
    assert list(chat.say("x")) == ["é", "😀"]


def test_a_character_that_is_cut_off_is_replaced(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    data = iter([(5, "a\xf0\x9f", False), (5, "", True)])
    monkeypatch.setattr(chat, "_call", lambda function, *_, tokens: next(data) if function == "write" else 0)
    assert list(chat.say("x")) == ["a", "\ufffd"]


def test_the_answer_ends_at_an_end_token(tiny_gguf: Make, tmp_path: Path) -> None:
    """A token that the model writes is made the end of a text."""
    path, text = tiny_gguf("qwen2"), "The model was good, and it's"
    with open_chat(path, max_tokens=12, **GREEDY) as conversation:
        whole = "".join(conversation.say(text))
        ids = conversation._known[len(conversation._tokens(user(text))) :]
    end = next(place for place, token in enumerate(ids) if place and token not in ids[:place])
    ended = changed_file(tmp_path / "ended.gguf", path, {"tokenizer.ggml.eos_token_id": ids[end]})
    with open_chat(ended, max_tokens=12, **GREEDY) as conversation:
        cut = "".join(conversation.say(text))
    assert cut == Vocabulary(path).detokenize(ids[:end])
    assert len(cut) < len(whole)


def test_a_second_message_reads_only_what_is_new(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    list(chat.say("First things first, as they say."))
    read: list[int] = []
    call = chat._call

    def counted(function: str, *arguments: Any, tokens: int) -> Any:
        read.append(tokens * (function == "read"))
        return call(function, *arguments, tokens=tokens)

    monkeypatch.setattr(chat, "_call", counted)
    second = "".join(chat.say("And then?"))
    # The whole conversation is several times as long.
    assert 0 < sum(read) < len(chat._known) - 12 - 10
    with open_chat(chat.path, max_tokens=12, **GREEDY) as fresh:
        fresh.messages = chat.messages[:2]
        assert "".join(fresh.say("And then?")) == second


def test_a_model_that_cannot_go_back_reads_everything_again(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    list(chat.say("Hello"))
    second = list(chat.say("More"))
    chat.messages = chat.messages[:2]
    call = chat._call

    def forgets(function: str, *arguments: Any, tokens: int) -> Any:
        return call(function, *((0,) if function == "keep" else arguments), tokens=tokens)

    monkeypatch.setattr(chat, "_call", forgets)
    assert list(chat.say("More")) == second


def test_any_part_of_a_model_will_do(tiny_gguf: Make, tmp_path: Path) -> None:
    whole = tiny_gguf("qwen2")
    part = split(whole, tmp_path)[1]
    assert answer(part, user("Hello"), max_tokens=6, threads=1) == answer(whole, user("Hello"), max_tokens=6, threads=1)


def test_reset_forgets(chat: Chat) -> None:
    first = "".join(chat.say("Hello"))
    list(chat.say("More"))
    chat.reset()
    assert chat.messages == []
    assert "".join(chat.say("Hello")) == first


def test_a_seed_gives_the_same_answer_again(tiny_gguf: Make) -> None:
    def drawn(seed: int) -> str:
        with open_chat(tiny_gguf("qwen2"), temperature=1.5, seed=seed, max_tokens=12, threads=1) as conversation:
            return "".join(conversation.say("Hello"))

    assert drawn(1) == drawn(1) != drawn(2)


def test_the_file_says_how_to_sample(tiny_gguf: Make, tmp_path: Path) -> None:
    keys = {"general.sampling.temp": 0.25, "general.sampling.top_k": 3, "general.sampling.min_p": "no number"}
    path = changed_file(tmp_path / "sampling.gguf", tiny_gguf("qwen2"), keys)
    with open_chat(path, threads=1) as conversation:
        sampling: Any = conversation._options["sampling"]
        assert {k: sampling[k] for k in ("temperature", "top_k", "top_p", "min_p")} == {
            "temperature": 0.25,
            "top_k": 3,
            "top_p": 0.95,
            "min_p": 0.05,
        }


def test_an_answer_may_be_stopped(chat: Chat) -> None:
    whole = list(chat.say("Hello"))
    chat.reset()
    pieces = chat.say("Hello")
    begun = next(pieces)
    pieces.close()
    assert chat.messages[-1] == {"role": "assistant", "content": begun}
    chat.reset()
    assert list(chat.say("Hello", stop=lambda: True)) == []
    assert chat.messages == []
    assert list(chat.say("Hello")) == whole


def test_it_goes_on_after_llama_cpp_has_died(chat: Chat) -> None:
    before = "".join(chat.say("Hello"))
    second = "".join(chat.say("More"))
    chat.messages = chat.messages[:2]
    shared().kill()
    assert "".join(chat.say("More")) == second
    assert chat.messages[1]["content"] == before


def test_the_oldest_messages_are_left_out_of_a_full_context(tiny_gguf: Make) -> None:
    events: list[Event] = []
    with reporting_to(events.append), open_chat(tiny_gguf("qwen2"), context=96, max_tokens=8, **GREEDY) as conversation:
        for number in range(8):
            list(conversation.say(f"This is message {number} of a few."))
        assert len(conversation._known) <= 96
        assert conversation.messages[-2]["content"] == "This is message 7 of a few."
        assert conversation.messages[0]["content"] != "This is message 0 of a few."
    assert any("oldest messages are left out" in event.message for event in events)


def test_an_answer_ends_with_the_context(tiny_gguf: Make) -> None:
    events: list[Event] = []
    with reporting_to(events.append), open_chat(tiny_gguf("qwen2"), context=64, **GREEDY) as conversation:
        list(conversation.say("Hello"))
        assert len(conversation._known) == 64
    assert "the answer ends here" in events[-1].message


def test_a_message_that_does_not_fit_is_refused(tiny_gguf: Make) -> None:
    with open_chat(tiny_gguf("qwen2"), context=64, **GREEDY) as conversation:
        with pytest.raises(InputError, match="larger context"):
            list(conversation.say("much to say " * 50))
        assert conversation.messages == []
        assert next(conversation.say("Hi"))


def test_a_file_without_a_template_continues_the_message(tiny_gguf: Make, tmp_path: Path) -> None:
    path = changed_file(tmp_path / "plain.gguf", tiny_gguf("qwen2"), {"tokenizer.chat_template": None})
    text = "In the beginning there was"
    with open_chat(path, max_tokens=8, **GREEDY) as conversation:
        assert conversation.template is None
        # llama-cpp-python leaves broken characters out.
        continued = "".join(conversation.say(text)).replace("\ufffd", "")
        assert continued == generate(path, text, max_tokens=8, threads=1) != ""
    with pytest.raises(InputError, match="no chat template and takes no system prompt"):
        open_chat(path, system="x")


REFUSES_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}{% endfor %}"
)
PARTS = "{% for m in messages %}{% for part in m.content %}{{ part.text }};{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "expected"), [(REFUSES_SYSTEM, "<user>Be brief.\n\nHello"), (PARTS, "Be brief.;Hello;")]
)
def test_templates_with_ways_of_their_own(tiny_gguf: Make, tmp_path: Path, template: str, expected: str) -> None:
    path = changed_file(tmp_path / "own.gguf", tiny_gguf("qwen2"), {"tokenizer.chat_template": template})
    found = chat_template(path)
    assert found is not None
    assert found.render([{"role": "system", "content": "Be brief."}, *user("Hello")]) == expected


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for %}", "is damaged"),
        ("{{ raise_exception('not today') }}", "not today"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
        ("{{ messages[0].content.x.y }}", "UndefinedError"),
        ("nothing of the message", "leaves the message out"),
        ("{{ 'x' * 10 ** 15 }}", "not enough memory"),
        ("{{ 'x' * 20000000 }}{{ messages[0].content }}", "20,000,005 characters"),
    ],
)
def test_hostile_templates_are_one_sentence(tiny_gguf: Make, tmp_path: Path, template: str, reason: str) -> None:
    path = changed_file(tmp_path / "hostile.gguf", tiny_gguf("qwen2"), {"tokenizer.chat_template": template})
    with open_chat(path, **GREEDY) as conversation, pytest.raises(InputError, match=re.escape(reason)):
        list(conversation.say("Hello"))


def test_a_template_without_end_is_stopped(tiny_gguf: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    path = changed_file(tmp_path / "endless.gguf", tiny_gguf("qwen2"), {"tokenizer.chat_template": template})
    monkeypatch.setattr("lieq_edge.llama.template.text_seconds", lambda _: 1.0)
    found = chat_template(path)
    assert found is not None
    with pytest.raises(InputError, match="was stopped"):
        found.render(user("Hello"))


def test_characters_that_utf8_does_not_have_are_no_mistake(chat: Chat) -> None:
    assert next(chat.say("a\udcff\ud800"))
    assert chat.messages == [] or "?" in chat.messages[0]["content"]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"context": 7}, "context"),
        ({"threads": 0}, "threads"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": -1.0}, "temperature"),
    ],
)
def test_values_without_sense_are_refused(tiny_gguf: Make, options: dict[str, Any], name: str) -> None:
    with pytest.raises(InputError, match=name):
        open_chat(tiny_gguf("qwen2"), **options)


def test_roles_have_to_take_turns(tiny_gguf: Make) -> None:
    for messages in ([], [{"role": "assistant", "content": "x"}], [*user("x"), *user("y")]):
        with pytest.raises(InputError, match="ends with the user"):
            answer(tiny_gguf("qwen2"), messages)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        open_chat(tmp_path / "none.gguf")
