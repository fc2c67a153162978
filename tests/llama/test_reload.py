"""Files reloaded through ``llama_cpp.Llama``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lieq_edge.errors import InputError
from lieq_edge.llama.reload import generate, reload_check

MakeGguf = Callable[..., Path]


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_writes_the_same_text_again(family: str, tiny_gguf: MakeGguf) -> None:
    answers = {reload_check(tiny_gguf(family), "The quick brown fox", max_tokens=12) for _ in range(2)}
    assert len(answers) == 1
    assert answers.pop()


def test_the_seed_draws_the_text(tiny_gguf: MakeGguf) -> None:
    def draw(seed: int) -> str:
        return generate(tiny_gguf("qwen3"), "The quick", max_tokens=16, seed=seed, temperature=1.0)

    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in range(4)}) > 1


def test_chat_messages_go_through_the_template(tiny_gguf: MakeGguf) -> None:
    path = tiny_gguf("qwen2")
    chat = generate(path, [{"role": "user", "content": "The quick"}], max_tokens=16)
    prompt = "<|im_start|>user\nThe quick<|im_end|>\n<|im_start|>assistant\n"
    assert chat == generate(path, prompt, max_tokens=16)


def test_bad_files_and_prompts(tiny_gguf: MakeGguf, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        generate(tmp_path / "none.gguf", "x")
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(tiny_gguf("llama").read_bytes()[:-2000])
    with pytest.raises(InputError, match="corrupted or incomplete"):
        generate(bad, "x")
    with pytest.raises(InputError, match="shorter"):
        generate(tiny_gguf("llama"), "fox " * 500, context=64)
