"""Answers of a file and of its original."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

from lieq_edge.errors import InputError
from lieq_edge.llama.chat import answer
from lieq_edge.page import answers as module
from lieq_edge.page.answers import PROMPTS, make_answers
from lieq_edge.sources import open_source
from lieq_edge.store import FolderCache
from lieq_edge.system.progress import Event

Make = Callable[..., Path]
FEW: dict[str, Any] = {"prompts": PROMPTS[:2], "max_tokens": 12, "threads": 1}


def test_the_prompts_are_short_and_of_several_kinds() -> None:
    assert len(set(PROMPTS)) == 5
    assert all(len(prompt) < 100 for prompt in PROMPTS)


@pytest.mark.parametrize(
    ("family", "options"),
    [("qwen2", {}), ("llama", {}), ("llama", {"tokenizer": "sentencepiece-json"}), ("gemma2", {})],
)
def test_a_file_in_full_precision_answers_as_the_original(
    tiny_gguf: Make, family: str, options: dict[str, Any]
) -> None:
    source, path = open_source(str(tiny.cached_model(family, **options))), tiny_gguf(family, **options)
    # Few tokens, because llama.cpp stores keys and values in 16 bits, and random models have near ties.
    made = make_answers(source, path, **{**FEW, "max_tokens": 4})
    assert [one.prompt for one in made] == list(PROMPTS[:2])
    for one in made:
        assert one.name == path.name
        assert one.original == one.file != ""
        assert one.file == answer(path, [{"role": "user", "content": one.prompt}], max_tokens=4, threads=1)


def test_the_original_answers_as_transformers_generates(tiny_gguf: Make) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = tiny.cached_model("qwen2")
    tokenizer, model = AutoTokenizer.from_pretrained(directory), AutoModelForCausalLM.from_pretrained(directory)
    made = make_answers(open_source(str(directory)), tiny_gguf("qwen2"), **FEW)
    for one in made:
        messages = [{"role": "user", "content": one.prompt}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        written = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12)
        assert one.original == tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True).strip()


def test_another_file_may_answer_otherwise(tiny_gguf: Make) -> None:
    source = open_source(str(tiny.cached_model("llama")))
    made = make_answers(source, tiny_gguf("llama", seed=1), **FEW)
    assert all(one.original != one.file for one in made)


def test_the_original_may_be_a_file(tiny_gguf: Make) -> None:
    path = tiny_gguf("qwen2")
    made = make_answers(open_source(str(path)), path, **FEW)
    assert all(one.original == one.file != "" for one in made)


def test_the_original_answers_once(tiny_gguf: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, path = open_source(str(tiny.cached_model("llama"))), tiny_gguf("llama")
    cache = FolderCache(tmp_path).about(model=source.content_hash)
    first = make_answers(source, path, cache=cache, **FEW)
    monkeypatch.setattr(module, "_from_source", None)
    assert make_answers(source, path, cache=cache, **FEW) == first
    with pytest.raises(TypeError):
        make_answers(source, path, cache=cache, **{**FEW, "max_tokens": 13})


def test_without_memory_for_the_original_there_are_no_answers(tiny_gguf: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_bytes", lambda: 1000)
    events: list[Event] = []
    source = open_source(str(tiny.cached_model("llama")))
    assert make_answers(source, tiny_gguf("llama"), progress=events.append, **FEW) == ()
    assert ["memory" in event.message for event in events] == [True]


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_text("no")
    with pytest.raises(InputError, match=r"x\.gguf"):
        make_answers(open_source(str(tiny.cached_model("llama"))), tmp_path / "x.gguf", **FEW)
