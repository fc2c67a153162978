"""Model cards and Modelfiles of files with all kinds of metadata."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from changed import changed_file
from parts import split

from lieq_edge.errors import InputError
from lieq_edge.llama.vocabulary import Vocabulary
from lieq_edge.publish.card import front_matter, model_card
from lieq_edge.publish.described import describe
from lieq_edge.publish.modelfile import end_tokens, modelfile
from lieq_edge.publish.publication import publish_files
from lieq_edge.system.progress import Event

Make = Callable[..., Path]
GENERAL = {
    "general.name": "Tiny Instruct",
    "general.license": "apache-2.0",
    "general.languages": ["en", "de"],
    "general.tags": ["text-generation", "gguf", "license:mit", "safetensors", "transformers.js"],
    "general.repo_url": "https://huggingface.co/me/Tiny-Instruct",
    "general.base_model.0.repo_url": "https://huggingface.co/me/Tiny",
}


def head(card: str) -> dict[str, Any]:
    assert card.startswith("---\n")
    document: dict[str, Any] = yaml.safe_load(card.split("\n---\n")[0])
    return document


@pytest.fixture
def file(tiny_gguf: Make, tmp_path: Path) -> Path:
    return changed_file(tmp_path / "Tiny-Instruct-Q8_0.gguf", tiny_gguf("qwen2", type="Q8_0"), GENERAL)


def test_the_file_says_what_is_in_the_front_matter(file: Path) -> None:
    card = model_card([describe(file)])
    assert head(card) == {
        "base_model": "me/Tiny-Instruct",
        "base_model_relation": "quantized",
        "license": "apache-2.0",
        "language": ["en", "de"],
        "pipeline_tag": "text-generation",
        "library_name": "gguf",
        "tags": ["gguf", "text-generation"],
    }
    assert "# Tiny Instruct, GGUF" in card
    assert "[me/Tiny-Instruct](https://huggingface.co/me/Tiny-Instruct)" in card
    assert re.search(r"\| `Tiny-Instruct-Q8_0.gguf` \| 0\.\d \| \d+\.\d\d \| .*Q8\\_0 \d+ %", card)
    assert "llama-cli -m Tiny-Instruct-Q8_0.gguf" in card
    assert "How they were made" not in card
    assert "```text\n<|im_start|>system\n{system prompt}<|im_end|>\n<|im_start|>user\n{prompt}<|im_end|>" in card


def test_flags_win_over_the_file(file: Path) -> None:
    document = head(model_card([describe(file)], base_model="you/other", license="mit", languages=["fr"]))
    assert (document["base_model"], document["license"], document["language"]) == ("you/other", "mit", ["fr"])


def test_the_card_of_an_export_says_how_it_was_made(tiny_gguf: Make, tmp_path: Path) -> None:
    from tiny import cached_model

    import lieq_edge

    settings = lieq_edge.Settings(
        budget="4", metric="last", rounding="nearest", reference=False, validation=False, parity=False, cache=False
    )
    out = tmp_path / "made.gguf"
    lieq_edge.export_model(cached_model("qwen2", hidden=256, intermediate=256), out, settings)
    one = describe(out)
    card = model_card([one])
    assert head(card)["tags"] == ["gguf", "lieq-edge"]
    assert "## How they were made" in card
    for words in ("| budget | 4 |", "| metric | last |", "| rounding | nearest |", "| seed | 0 |"):
        assert words in card
    assert one.report.lieq["source_sha256"] in card
    changed = changed_file(tmp_path / "changed.gguf", out, {"lieq.bpw": 2.0})
    assert "How they were made" not in model_card([describe(changed)])


def test_the_card_names_types_that_some_programs_refuse(file: Path, tiny_gguf: Make, tmp_path: Path) -> None:
    assert "mistral.rs" not in model_card([describe(file)])
    narrow = changed_file(tmp_path / "Tiny-Instruct-IQ4_NL.gguf", tiny_gguf("qwen2", type="IQ4_NL"), GENERAL)
    assert r"read IQ4\_NL, mistral.rs does not" in model_card([describe(file), describe(narrow)])


def test_several_files_make_one_table(file: Path, tiny_gguf: Make, tmp_path: Path) -> None:
    large = changed_file(tmp_path / "Tiny-Instruct-F32.gguf", tiny_gguf("qwen2"), GENERAL)
    card = model_card([describe(large), describe(file)])
    assert card.index("`Tiny-Instruct-Q8_0.gguf`") < card.index("`Tiny-Instruct-F32.gguf`")
    with pytest.raises(InputError, match="same name"):
        model_card([describe(file), describe(file)])
    with pytest.raises(InputError, match="several models"):
        model_card([describe(file), describe(tiny_gguf("llama"))])


HOSTILE = (
    'a: [b]\n---\nx: !!python/object/apply:os.system ["id"]\n# "c" | `d` <script>alert(1)</script> \x1b[31m {{ 7*7 }}'
)


def test_hostile_values_stay_values(tiny_gguf: Make, tmp_path: Path) -> None:
    keys = {
        "general.name": HOSTILE,
        "general.license": HOSTILE,
        "general.license.link": HOSTILE,
        "general.languages": [HOSTILE, "en"],
        "general.tags": [HOSTILE],
        "general.repo_url": "https://huggingface.co/me/x](javascript:alert(1))",
        "lieq.budget": HOSTILE,
        "tokenizer.chat_template": "{% for m in messages %}```\n# heading <script>{{ m.content }}{% endfor %}",
    }
    card = model_card([describe(changed_file(tmp_path / "hostile.gguf", tiny_gguf("qwen2"), keys))])
    document = head(card)
    plain = HOSTILE.replace("\n", " ").replace("\x1b", " ")
    assert document["license"] == document["license_link"] == document["tags"][2] == plain
    assert document["language"] == [plain, "en"]
    assert "base_model" not in document
    body = card.split("\n---\n", 1)[1]
    outside = re.sub(r"````text\n.*\n````", "", body, flags=re.DOTALL)
    assert "````text" in body
    assert "<script>" not in outside
    assert "49" not in outside
    assert "\x1b" not in card
    assert [line for line in outside.splitlines() if line.startswith("#")] == [
        f"# {outside.splitlines()[1][2:]}",
        "## Files",
        "## How they were made",
        "## Run",
        "## Prompt format",
    ]


def test_values_of_the_wrong_kind_are_passed_over(tiny_gguf: Make, tmp_path: Path) -> None:
    keys = {"general.license": 5, "general.languages": [1, 2], "general.tags": "one", "general.repo_url": [1]}
    document = head(model_card([describe(changed_file(tmp_path / "odd.gguf", tiny_gguf("qwen2"), keys))]))
    assert "license" not in document
    assert "language" not in document
    assert document["tags"] == ["gguf", "one"]


def test_a_license_without_a_name_of_the_hubs(tiny_gguf: Make, tmp_path: Path) -> None:
    keys = {"general.license": "other", "general.license.name": "own", "general.license.link": "https://x.org/l"}
    one = describe(changed_file(tmp_path / "own.gguf", tiny_gguf("qwen2"), keys))
    document = yaml.safe_load(front_matter([one]))
    assert (document["license_name"], document["license_link"]) == ("own", "https://x.org/l")
    assert "license_name" not in yaml.safe_load(front_matter([one], license="mit"))


def test_templates_that_cannot_be_shown(tiny_gguf: Make, tmp_path: Path) -> None:
    without = changed_file(tmp_path / "without.gguf", tiny_gguf("qwen2"), {"tokenizer.chat_template": None})
    damaged = changed_file(tmp_path / "damaged.gguf", tiny_gguf("qwen2"), {"tokenizer.chat_template": "{% if %}"})
    for path in (without, damaged):
        assert "Prompt format" not in model_card([describe(path)])


def test_the_modelfile_names_file_and_end_tokens(file: Path, tmp_path: Path) -> None:
    one = describe(file)
    (tmp_path / "below").mkdir()
    text = modelfile(one, tmp_path / "Modelfile")
    assert text.startswith(f"FROM ./{file.name}\n")
    assert modelfile(one, tmp_path / "below" / "Modelfile").startswith(f"FROM ../{file.name}\n")
    stops = re.findall(r'PARAMETER stop "(.*)"\n', text)
    assert set(stops) == {"<|im_end|>", "<|endoftext|>"}
    vocabulary = Vocabulary(file)
    for stop in stops:
        (token,) = vocabulary.tokenize(stop, parse_special=True)
        assert vocabulary.ends(token)


def test_tokens_that_a_modelfile_cannot_hold_are_left_out(tiny_gguf: Make, tmp_path: Path) -> None:
    from lieq_edge.gguf.header import read_header

    source = tiny_gguf("qwen2")
    tokens = list(read_header(source).get("tokenizer.ggml.tokens"))
    tokens[tokens.index("<|im_end|>")] = '"\nSYSTEM evil'
    odd = changed_file(tmp_path / "odd.gguf", source, {"tokenizer.ggml.tokens": tokens})
    assert end_tokens(describe(odd)) == ["<|endoftext|>"]


def test_a_file_in_parts_is_one_row_and_no_modelfile(tiny_gguf: Make, tmp_path: Path) -> None:
    parts = split(tiny_gguf("qwen2"), tmp_path)
    one = describe(parts[1])
    card = model_card([one])
    assert f"| `{parts[0].name} and 2 more` | {sum(part.stat().st_size for part in parts) / 1e6:.1f} |" in card
    assert f"llama-cli -m {parts[0].name}" in card
    assert "ollama" not in card
    with pytest.raises(InputError, match="llama-gguf-split --merge"):
        modelfile(one, tmp_path / "Modelfile")


def test_names_that_need_quotes(tiny_gguf: Make, tmp_path: Path) -> None:
    spaced = tmp_path / "with space.gguf"
    spaced.write_bytes(tiny_gguf("qwen2").read_bytes())
    assert modelfile(describe(spaced), tmp_path / "Modelfile").startswith('FROM "./with space.gguf"\n')
    assert "llama-cli -m 'with space.gguf'" in model_card([describe(spaced)])
    for name, words in (('a"b.gguf', "cannot be written"), ("a\nb.gguf", "cannot be printed")):
        spaced.rename(tmp_path / name)
        with pytest.raises(InputError, match=words):
            modelfile(describe(tmp_path / name), tmp_path / "Modelfile")
        (tmp_path / name).rename(spaced)


def test_outputs_are_replaced_with_force_only(file: Path, tmp_path: Path) -> None:
    card, ollama = tmp_path / "README.md", tmp_path / "Modelfile"
    ollama.write_text("mine")
    with pytest.raises(InputError, match="--force"):
        publish_files([file], card=card, modelfile=ollama)
    assert (card.exists(), ollama.read_text()) == (False, "mine")
    events: list[Event] = []
    done = publish_files([file], card=card, modelfile=ollama, force=True, progress=events.append)
    assert (done.card, done.modelfile, done.url) == (card, ollama, None)
    assert card.read_text(encoding="utf-8") == model_card([describe(file)])
    assert publish_files([file], card=tmp_path / "b.md", modelfile=None).modelfile is None


def test_bad_arguments_are_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to publish"):
        publish_files([], card=tmp_path / "README.md")
    with pytest.raises(InputError, match="two files"):
        publish_files([file], card=tmp_path / "x", modelfile=tmp_path / "x")
    with pytest.raises(InputError, match="no model of the hub"):
        publish_files([file], card=tmp_path / "x", modelfile=None, base_model="../x y")
    with pytest.raises(InputError, match="No such file"):
        publish_files([tmp_path / "none.gguf"], card=tmp_path / "x", modelfile=None)
    assert not (tmp_path / "x").exists()
