"""Conversations as text."""

from __future__ import annotations

import pytest

from lieq_edge.llama.rendering import render_conversations


def rendered(template: str | None, bos: str = "") -> tuple[str, bool]:
    (one,) = render_conversations([TALK], template, bos=bos, eos="</s>", label="a model")
    return one


TALK = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Two and two?"},
    {"role": "assistant", "content": "Four."},
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PLAIN = "Be brief.\n\nQuestion: Two and two?\n\nAnswer: Four.\n\n"


def test_a_template_renders_the_whole_conversation() -> None:
    text, special = rendered(CHATML)
    assert special
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nTwo and two?<|im_end|>\n"
        "<|im_start|>assistant\nFour.<|im_end|>\n"
    )


def test_a_template_without_a_system_role_gets_it_with_the_question() -> None:
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    text, special = rendered(template)
    assert special
    assert text.startswith("<|im_start|>user\nBe brief.\n\nTwo and two?<|im_end|>")


def test_tags_for_training_are_passed_over() -> None:
    template = "{{ bos_token }}{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}|{% endfor %}"
    assert rendered(template, bos="<s>") == ("<s>Be brief.|Two and two?|Four.|", True)


def test_a_date_is_always_the_same() -> None:
    assert rendered("{{ strftime_now('%Y-%m-%d') }}") == ("2026-01-01", True)


@pytest.mark.parametrize(
    "template",
    [
        None,
        "{% if %}",
        "{{ raise_exception('never') }}",
        "{{ messages[0].__class__.__mro__ }}{{ 1 / 0 }}",
        "{% for i in range(90000) %}{{ 'a long text that harms, again and again' }}{% endfor %}",
    ],
)
def test_without_a_usable_template_the_text_is_plain(template: str | None) -> None:
    assert rendered(template) == (PLAIN, False)
