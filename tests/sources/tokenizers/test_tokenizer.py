import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import TokenType
from settled import notes, settled, values
from tiny import CHAT_TEMPLATE, cached_model, sample_text

from lieq_edge.errors import InputError
from lieq_edge.llama.vocabulary import Vocabulary
from lieq_edge.sources import open_source
from lieq_edge.sources.tokenizers.battery import BATTERY
from lieq_edge.sources.tokenizers.hard_strings import HARD_STRINGS
from lieq_edge.sources.tokenizers.tokenizer import key_values, read_pieces
from lieq_edge.sources.tokenizers.trial import CANDIDATES, Trial, settle

GPT2_RULE = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
DIGITS_RULE = {
    "type": "Sequence",
    "pretokenizers": [{"type": "Digits", "individual_digits": True}, GPT2_RULE],
}


def pre(trial: Trial) -> str:
    return next(kv.value for kv in trial.key_values if kv.key == "tokenizer.ggml.pre")


@pytest.fixture
def edit(tmp_path: Path) -> Callable[..., Path]:
    """A copy of a tiny model whose JSON file ``name`` was changed by ``change``."""

    def copy(model: Path, name: str, change: Callable[[dict[str, Any]], object]) -> Path:
        directory = tmp_path / "model"
        shutil.copytree(model, directory, dirs_exist_ok=True)
        document = json.loads((directory / name).read_text())
        change(document)
        (directory / name).write_text(json.dumps(document))
        return directory

    return copy


def test_battery_is_in_normal_form() -> None:
    """Tokenizers that normalise to NFC would otherwise differ from llama.cpp, which does not."""
    assert all(unicodedata.is_normalized("NFC", text) for text in BATTERY)
    assert len(set(BATTERY)) == len(BATTERY)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_byte_level_bpe_equals_the_tokenizers_library(family: str) -> None:
    from tokenizers import Tokenizer

    directory = cached_model(family)
    source = open_source(str(directory))
    original = Tokenizer.from_file(str(directory / "tokenizer.json"))
    for text in [*BATTERY, sample_text(2000)]:
        assert source.tokenize(text) == original.encode(text, add_special_tokens=False).ids
        assert source.detokenize(source.tokenize(text)) == text


def test_sentencepiece_equals_the_sentencepiece_library() -> None:
    from sentencepiece import SentencePieceProcessor

    directory = cached_model("llama", tokenizer="sentencepiece")
    source = open_source(str(directory))
    original = SentencePieceProcessor(model_file=str(directory / "tokenizer.model"))
    for text in [*BATTERY, sample_text(2000)]:
        assert source.tokenize(text) == original.encode(text)
    assert source.detokenize(source.tokenize("two words")) == "two words"


def test_pieces_that_a_sentencepiece_model_defines_itself(tmp_path: Path) -> None:
    """Gemma's without tokenizer.json: turns and runs of spaces are found before anything else."""
    from sentencepiece import SentencePieceProcessor

    directory = tmp_path / "model"
    shutil.copytree(cached_model("gemma"), directory)
    (directory / "tokenizer.json").unlink()
    source = open_source(str(directory))
    original = SentencePieceProcessor(model_file=str(directory / "tokenizer.model"))
    for text in [*BATTERY, *HARD_STRINGS, "a<start_of_turn>b <end_of_turn>\n", " " * 40, "\n" * 40]:
        assert source.vocabulary.tokenize(text, parse_special=True) == original.encode(text), text
    found = values(source)
    turn = found["ggml.tokens"].index("<start_of_turn>")
    assert found["ggml.token_type"][turn] == TokenType.USER_DEFINED
    assert notes(source) == []


def test_sentencepiece_from_json_equals_that_from_the_model() -> None:
    """Scores made from the ranks of merges order the same joins as the model's own."""
    by_json = open_source(str(cached_model("llama", tokenizer="sentencepiece-json")))
    by_model = open_source(str(cached_model("llama", tokenizer="sentencepiece")))
    for text in [*BATTERY, sample_text(2000)]:
        assert by_json.tokenize(text) == by_model.tokenize(text)
    one, other = values(by_json), values(by_model)
    assert one["ggml.tokens"] == other["ggml.tokens"]
    assert one["ggml.token_type"] == other["ggml.token_type"]
    assert one["ggml.unknown_token_id"] == 0


def test_llama3_settings() -> None:
    found = values(open_source(str(cached_model("llama"))))
    assert found["ggml.model"] == "gpt2"
    assert found["ggml.pre"] == "llama-bpe"
    assert found["ggml.bos_token_id"] == 507
    assert found["ggml.eos_token_id"] == 511
    assert found["ggml.add_bos_token"] is True
    assert found["chat_template"] == CHAT_TEMPLATE
    assert found["ggml.tokens"][507] == "<|begin_of_text|>"
    assert found["ggml.token_type"][507] == TokenType.CONTROL


def test_qwen_settings_and_padding() -> None:
    found = values(open_source(str(cached_model("qwen2"))))
    assert found["ggml.pre"] == "qwen2"
    assert "ggml.bos_token_id" not in found
    assert found["ggml.add_bos_token"] is False
    assert len(found["ggml.tokens"]) == len(found["ggml.token_type"]) == 512
    kinds = dict(zip(found["ggml.tokens"], found["ggml.token_type"], strict=True))
    assert kinds["<|im_end|>"] == TokenType.CONTROL
    assert kinds["<tool_call>"] == TokenType.USER_DEFINED
    assert kinds["[PAD511]"] == TokenType.UNUSED


def test_sentencepiece_settings() -> None:
    found = values(open_source(str(cached_model("llama", tokenizer="sentencepiece"))))
    assert found["ggml.model"] == "llama"
    assert found["ggml.pre"] == "default"
    assert (found["ggml.bos_token_id"], found["ggml.eos_token_id"], found["ggml.unknown_token_id"]) == (1, 2, 0)
    assert found["ggml.token_type"][:4] == [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, TokenType.BYTE]
    assert found["chat_template"] == CHAT_TEMPLATE


def test_bos_and_special_tokens() -> None:
    source = open_source(str(cached_model("llama")))
    assert (source.bos_id, source.adds_bos) == (507, True)
    assert source.tokenize("Hello", add_bos=True) == [507, *source.tokenize("Hello")]
    # Special tokens in plain text are text.
    assert 511 not in source.tokenize("a<|eot_id|>b")
    assert source.detokenize([507, *source.tokenize("Hello"), 511]) == "Hello"
    without = open_source(str(cached_model("qwen3")))
    assert without.adds_bos is False
    assert without.tokenize("Hello", add_bos=True)[-1:] == without.tokenize("Hello")[-1:]


@pytest.mark.parametrize(("rule", "name"), [(GPT2_RULE, "gpt-2"), (DIGITS_RULE, "smollm")])
def test_pre_tokenizer_is_found_by_trial(edit: Callable[..., Path], rule: dict[str, Any], name: str) -> None:
    directory = edit(cached_model("llama"), "tokenizer.json", lambda d: d.update(pre_tokenizer=rule))
    trial = settled(directory)
    assert pre(trial) == name
    assert notes(trial) == []


def test_trial_does_not_depend_on_the_first_guess(edit: Callable[..., Path]) -> None:
    """The rule of DeepSeek looks like none that is tried first."""
    rules = [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}"]
    splits: list[dict[str, Any]] = [
        {"type": "Split", "pattern": {"Regex": rule}, "behavior": "Isolated", "invert": False} for rule in rules
    ]
    sequence = {"type": "Sequence", "pretokenizers": [*splits, {**GPT2_RULE, "use_regex": False}]}
    directory = edit(cached_model("llama"), "tokenizer.json", lambda d: d.update(pre_tokenizer=sequence))
    assert pre(settled(directory)) == "deepseek-coder"


def test_no_candidate_fits(edit: Callable[..., Path]) -> None:
    odd = {"type": "Split", "pattern": {"Regex": r"\p{L}{1,3}"}, "behavior": "Isolated", "invert": False}
    rule = {"type": "Sequence", "pretokenizers": [odd, {**GPT2_RULE, "use_regex": False}]}
    directory = edit(cached_model("llama"), "tokenizer.json", lambda d: d.update(pre_tokenizer=rule))
    with pytest.raises(
        InputError, match=r"No pre-tokenizer .* \(nearest '[\w.-]+': in 'Hello world' the original has 'Ġ' 'w' "
    ):
        open_source(str(directory)).metadata()


def test_names_that_llama_cpp_does_not_know_are_passed_over() -> None:
    directory = cached_model("qwen2")
    pieces = read_pieces(directory, 512)
    values = key_values(directory, pieces)
    trial = settle(pieces, values, "qwen2", "model", ["no-such-rule", "qwen2"])
    assert pre(trial) == "qwen2"
    with pytest.raises(InputError, match="unknown pre-tokenizer type: 'no-such-rule'"):
        settle(pieces, values, "qwen2", "model", ["no-such-rule"])


def test_every_candidate_is_harmless(tmp_path: Path) -> None:
    """None of the names makes llama.cpp abort on the battery, and most are known to it."""
    from lieq_edge.gguf.container import KeyValue, write_container

    directory = cached_model("llama")
    values = key_values(directory, read_pieces(directory, 512))
    path = tmp_path / "x.gguf"
    write_container(path, "llama", [KeyValue("general.architecture", "llama", 8), *values], [], [])
    known = 0
    for name in CANDIDATES:
        try:
            vocabulary = Vocabulary(path, pre=name)
        except InputError:
            continue
        known += 1
        for text in BATTERY:
            assert vocabulary.detokenize(vocabulary.tokenize(text)) is not None
    assert known > len(CANDIDATES) // 2


@pytest.mark.parametrize("says", [True, False])
def test_files_that_disagree_about_bos_are_reported(edit: Callable[..., Path], says: bool) -> None:
    """tokenizer.json counts, as for transformers."""
    directory = edit(cached_model("llama"), "tokenizer_config.json", lambda d: d.update(add_bos_token=says))
    if says:
        rule = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
        document = json.loads((directory / "tokenizer.json").read_text())
        (directory / "tokenizer.json").write_text(json.dumps({**document, "post_processor": rule}))
    source = open_source(str(directory))
    assert source.adds_bos is not says
    assert len(notes(source)) == 1
    assert f"add_bos_token = {str(says).lower()}" in notes(source)[0]


def test_spaces_around_special_tokens_are_a_warning(edit: Callable[..., Path]) -> None:
    def strip(document: dict[str, Any]) -> None:
        for token in document["added_tokens"]:
            token["rstrip"] = token["lstrip"] = True

    source = open_source(str(edit(cached_model("llama"), "tokenizer.json", strip)))
    assert source.metadata()
    assert len(notes(source)) == 1
    assert "special tokens" in notes(source)[0]


def test_tokens_beyond_the_embedding_are_refused(edit: Callable[..., Path]) -> None:
    def add(document: dict[str, Any]) -> None:
        document["added_tokens"].append({**document["added_tokens"][0], "id": 512, "content": "<|more|>"})

    directory = edit(cached_model("llama"), "tokenizer.json", add)
    with pytest.raises(InputError, match=r"id 512 .* only 512 rows"):
        open_source(str(directory)).metadata()


def test_other_kinds_are_refused(edit: Callable[..., Path]) -> None:
    def unigram(document: dict[str, Any]) -> None:
        document["model"] = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]]}

    directory = edit(cached_model("llama"), "tokenizer.json", unigram)
    with pytest.raises(InputError, match="type Unigram"):
        open_source(str(directory)).metadata()


def test_damaged_files_are_refused(edit: Callable[..., Path]) -> None:
    directory = edit(cached_model("llama"), "tokenizer.json", lambda d: d["model"].pop("merges"))
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        open_source(str(directory)).metadata()
    (directory / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        open_source(str(directory)).metadata()
    (directory / "tokenizer.json").unlink()
    (directory / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(InputError, match=r"tokenizer\.model is not a sentencepiece model"):
        open_source(str(directory)).metadata()


def test_eos_given_as_a_list(edit: Callable[..., Path]) -> None:
    """Llama 3.2 names several ends in config.json; the tokenizer's own wins, else the first."""
    directory = edit(cached_model("llama"), "config.json", lambda d: d.update(eos_token_id=[508, 511]))
    assert values(open_source(str(directory)))["ggml.eos_token_id"] == 511
    (directory / "tokenizer_config.json").write_text("{}")
    assert values(open_source(str(directory)))["ggml.eos_token_id"] == 508


def test_chat_template_in_a_file_of_its_own(edit: Callable[..., Path]) -> None:
    directory = edit(cached_model("llama"), "tokenizer_config.json", lambda d: d.pop("chat_template"))
    assert "chat_template" not in values(open_source(str(directory)))
    (directory / "chat_template.jinja").write_text("{{ messages }}")
    assert values(open_source(str(directory)))["chat_template"] == "{{ messages }}"
