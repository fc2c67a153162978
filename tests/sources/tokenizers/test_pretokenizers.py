"""The split rules of published tokenizers, with vocabularies trained on the spot so that every rule shows in them.

A vocabulary learnt from the hard strings themselves has tokens right up to the borders that a rule sets.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from settled import notes
from tiny import LLAMA3_REGEX, QWEN2_REGEX, sample_text
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer

from lieq_edge.errors import InputError
from lieq_edge.sources.tokenizers.battery import BATTERY
from lieq_edge.sources.tokenizers.hard_strings import HARD_STRINGS
from lieq_edge.sources.tokenizers.tokenizer import key_values, read_pieces
from lieq_edge.sources.tokenizers.trial import Trial, settle

_HEAD, _UPPER, _LOWER = r"[^\r\n\p{L}\p{N}]?", r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
GPT4O_REGEX = rf"{_HEAD}{_UPPER}*{_LOWER}+{_ENDING}|{_HEAD}{_UPPER}+{_LOWER}*{_ENDING}|\p{{N}}{{1,3}}|{_TAIL}"
TEKKEN_REGEX = rf"{_HEAD}{_UPPER}*{_LOWER}+|{_HEAD}{_UPPER}+{_LOWER}*|\p{{N}}|{_TAIL}"
DIGITS = "individual digits"
PLAIN = "GPT-2's own"

# Rule, whole words looked up before merging (ignore_merges), expected names: those of one line split alike.
RULES: dict[str, tuple[str, bool, tuple[str, ...]]] = {
    "Llama 3, SmolLM3": (LLAMA3_REGEX, True, ("llama-bpe",)),
    "OLMo 2, Phi-4": (LLAMA3_REGEX, False, ("dbrx",)),
    "Qwen2, Qwen2.5, Qwen3, StableLM 2": (QWEN2_REGEX, False, ("qwen2", "stablelm2")),
    "GPT-2, OLMoE": (PLAIN, False, ("gpt-2", "olmo")),
    "SmolLM2, Granite": (DIGITS, False, ("smollm", "refact")),
    "Phi-4-mini": (GPT4O_REGEX, False, ("gpt-4o",)),
    "Mistral Nemo": (TEKKEN_REGEX, True, ("tekken",)),
}
APPROXIMATE = ("Phi-4-mini", "Mistral Nemo")

ODD: dict[str, str] = {
    "digits in twos": LLAMA3_REGEX.replace("{1,3}", "{1,2}"),
    "contractions in lower case only": LLAMA3_REGEX.replace("(?i:", "(?:"),
    "no contractions at all": QWEN2_REGEX.partition("|[^")[2].join(("[^", "")),
    "lines apart": LLAMA3_REGEX.replace(r"\s*[\r\n]+", r"[\r\n]"),
    "capitals in a word of their own": GPT4O_REGEX.replace(f"{_UPPER}+{_LOWER}*", f"{_UPPER}"),
    "no slash at the end": TEKKEN_REGEX.replace("/]*", "]*"),
}


def trained(folder: Path, rule: str, *, ignore_merges: bool = False, normalizer: Any = None) -> Path:
    """A byte-level tokenizer.json with the split ``rule``."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    first = {
        PLAIN: [],
        DIGITS: [pre_tokenizers.Digits(individual_digits=True)],
    }.get(rule, [pre_tokenizers.Split(Regex(rule), "isolated")])
    own_rule = rule in (PLAIN, DIGITS)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=own_rule)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*first, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = BpeTrainer(
        vocab_size=8000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False, special_tokens=[]
    )
    tokenizer.train_from_iterator([sample_text(4000), *BATTERY * 2, *HARD_STRINGS * 2], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": False}))
    return folder


def settled(directory: Path) -> Trial:
    pieces = read_pieces(directory, 8192)
    return settle(pieces, key_values(directory, pieces), "llama", "model")


def pre(trial: Trial) -> str:
    return next(kv.value for kv in trial.key_values if kv.key == "tokenizer.ggml.pre")


@pytest.mark.parametrize("name", RULES)
def test_published_rules_are_found_and_exact(tmp_path: Path, name: str) -> None:
    rule, ignore_merges, expected = RULES[name]
    directory = trained(tmp_path, rule, ignore_merges=ignore_merges)
    trial = settled(directory)
    assert pre(trial) in expected
    original = Tokenizer.from_file(str(directory / "tokenizer.json"))
    different = [
        text
        for text in (*BATTERY, *HARD_STRINGS)
        if trial.vocabulary.tokenize(text) != original.encode(text, add_special_tokens=False).ids
    ]
    if name not in APPROXIMATE:
        assert (different, notes(trial)) == ([], [])
        return
    # llama.cpp's forms of these two rules know neither combining marks nor capitals outside ASCII.
    assert 5 < len(different) < 40
    assert "नमस्ते दुनिया! क्या हाल है? हिन्दी में लिखा हुआ वाक्य। क्षत्रिय" in different
    assert all(not text.isascii() for text in different)
    assert len(notes(trial)) == 1
    assert "but for combining marks" in notes(trial)[0]


@pytest.mark.parametrize("name", ODD)
def test_rules_that_llama_cpp_has_not_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"No pre-tokenizer of llama\.cpp splits text as .* the original has"):
        settled(trained(tmp_path, ODD[name]))


@pytest.mark.parametrize(
    "normalizer",
    [normalizers.Lowercase(), normalizers.NFKC(), normalizers.Strip(), normalizers.Replace(" ", "_")],
    ids=["lower case", "NFKC", "strip", "replace"],
)
def test_normalizers_that_llama_cpp_has_not_are_refused(tmp_path: Path, normalizer: Any) -> None:
    with pytest.raises(InputError, match="the original has"):
        settled(trained(tmp_path, LLAMA3_REGEX, normalizer=normalizer))


def test_words_that_merging_alone_does_not_reach(tmp_path: Path) -> None:
    """Only a pre-tokenizer that looks words up first, or does not, as the original, finds the same tokens."""
    for ignore_merges, name in ((True, "llama-bpe"), (False, "dbrx")):
        directory = trained(tmp_path, LLAMA3_REGEX, ignore_merges=ignore_merges)
        document = json.loads((directory / "tokenizer.json").read_text())
        document["model"]["vocab"]["zyzzyva"] = len(document["model"]["vocab"])
        (directory / "tokenizer.json").write_text(json.dumps(document))
        trial = settled(directory)
        assert pre(trial) == name
        assert (len(trial.vocabulary.tokenize("zyzzyva")) == 1) is ignore_merges
