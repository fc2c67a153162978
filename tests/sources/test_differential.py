"""Directories of every make, with transformers as the oracle for ids, templates, weights, logits and ends of a reply.

The cases are the same in every run. ``LIEQ_DIFFERENTIAL_CASES=500`` tries more; a case that fails belongs into
``SEEN``, where it stays.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import TokenType
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from logits import export_float32, llama_run, transformers_run
from settled import values
from tiny import cached_model

from lieq_edge.llama.vocabulary import Vocabulary
from lieq_edge.sources import Source, open_source
from lieq_edge.sources.tokenizers.conversations import CONVERSATIONS
from lieq_edge.sources.tokenizers.tokenizer import read_pieces

CASES = int(os.environ.get("LIEQ_DIFFERENTIAL_CASES", "60"))
ROWS, WIDE = 512, 528
PROMPT, REPLY = [40, 300, 41, 17, 90, 255, 301], 12
"""Ids that every tokenizer has, and most tokens of a reply."""
CLOSE = 0.01
"""Of the spread of the logits; llama.cpp looks GELU and SiLU up in half precision."""

KINDS: dict[str, tuple[str, str]] = {
    "llama3": ("llama", "bpe"),
    "qwen2": ("qwen2", "bpe"),
    "qwen3": ("qwen3", "bpe"),
    "gpt2 rule": ("granite", "bpe"),
    "sentencepiece": ("llama", "sentencepiece"),
    "sentencepiece as json": ("llama", "sentencepiece-json"),
    "gemma": ("gemma", "gemma"),
}
TEMPLATES = {
    "plain": "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}",
    "bos": "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] | trim }} {{ eos_token }}\n"
    "{% endfor %}",
    "marked": "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "no system": "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
    "{{ m['content'] }}{{ eos_token }}{% endfor %}",
}
PLACES = ("none", "tokenizer.json", "added_tokens_decoder", "added_tokens.json", "additional_special_tokens")
FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
STRINGS = (
    "Hello world",
    "It's 12345, naïve 日本語 👩‍💻\n\n\tx = f(y)  # z",
    "two  spaces   and\r\nlines",
    "def f(x):\n    return x ** 2\n",
)


@dataclass(frozen=True)
class Case:
    """A directory to make.

    Attributes:
        kind: of the tokenizer.
        tokens_as: how special tokens are written: ``text``, ``dictionary``, or ``absent`` (no tokenizer_config.json).
        says: leftovers ``add_bos_token`` and ``add_eos_token``.
        eos: index into the special tokens that the tokenizer calls its end.
        template: a name of ``TEMPLATES``, or None.
        template_in: ``config``, ``file``, ``both`` (an old one in the configuration) or ``null``.
        added_in: where tokens are added.
        special: whether they are special.
        ends: token ids of generation_config.json.
        stop: which token of the model's own reply is an end as well; 0 for none.
        stop_in: ``generation`` or ``model``, the configuration that says so.
        names: how the weights are called.
        dtype: of the weights.
        tied: the head is the embedding.
    """

    kind: str = "llama3"
    tokens_as: str = "text"
    says: tuple[bool | None, bool | None] = (None, None)
    eos: int = -1
    template: str | None = "plain"
    template_in: str = "config"
    added_in: str = "none"
    special: bool = False
    ends: tuple[int, ...] = ()
    stop: int = 0
    stop_in: str = "generation"
    names: str = "plain"
    dtype: str = "float32"
    tied: bool = True


def cases() -> st.SearchStrategy[Case]:
    leftover = st.sampled_from((None, True, False))
    return st.builds(
        Case,
        kind=st.sampled_from(tuple(KINDS)),
        tokens_as=st.sampled_from(("text", "dictionary", "absent")),
        says=st.tuples(leftover, leftover),
        eos=st.integers(-3, -1),
        template=st.sampled_from((None, *TEMPLATES)),
        template_in=st.sampled_from(("config", "file", "both", "null")),
        added_in=st.sampled_from(PLACES),
        special=st.booleans(),
        ends=st.lists(st.integers(0, ROWS - 1), max_size=3).map(tuple),
        stop=st.integers(0, 6),
        stop_in=st.sampled_from(("generation", "model")),
        names=st.sampled_from(("plain", "no model.", "model. twice", "head only")),
        dtype=st.sampled_from(("float32", "float16", "bfloat16")),
        tied=st.booleans(),
    )


SEEN: tuple[Case, ...] = (
    Case(tokens_as="dictionary", template_in="both"),
    Case(kind="qwen2", says=(None, True), ends=(510, 3)),
    Case(kind="qwen2", added_in="added_tokens_decoder", names="no model."),
    Case(kind="sentencepiece", added_in="added_tokens.json", says=(True, True), names="head only"),
    Case(kind="sentencepiece", added_in="added_tokens_decoder", special=True, template="bos"),
    Case(kind="sentencepiece as json", template="marked", tied=False),
    Case(kind="gemma", added_in="additional_special_tokens", template="marked", dtype="bfloat16"),
    Case(tokens_as="absent", template_in="file"),
    Case(kind="qwen2", stop=4),
    Case(kind="gemma", stop=3, stop_in="model", dtype="bfloat16"),
    Case(kind="sentencepiece", stop=2, ends=(7,)),
    Case(kind="qwen2", ends=(0,), stop=1, stop_in="model"),
)


def make(case: Case, folder: Path) -> Path:
    family, tokenizer = KINDS[case.kind]
    tied = case.tied or family == "gemma" or case.names == "head only"
    base = cached_model(family, tokenizer=tokenizer, tied=tied, dtype=case.dtype)
    directory = Path(shutil.copytree(base, folder / "model"))
    config = json.loads((directory / "tokenizer_config.json").read_text())
    config |= {f"add_{role}_token": says for role, says in zip(("bos", "eos"), case.says, strict=True)}
    config = {key: value for key, value in config.items() if value is not None}
    _set_end(directory, config, case)
    _set_template(directory, config, case)
    _add_tokens(directory, config, case)
    if case.tokens_as == "dictionary":
        for role in ("bos_token", "eos_token"):
            if role in config:
                flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
                config[role] = {"__type": "AddedToken", "content": config[role], **flags}
    path = directory / "tokenizer_config.json"
    path.unlink() if case.tokens_as == "absent" else path.write_text(json.dumps(config))
    if case.ends:
        (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": list(case.ends)}))
    _rename(directory, case)
    if case.stop:
        _stop(directory, case)
    return directory


def _stop(directory: Path, case: Case) -> None:
    """Make an end of a token that the model's reply to ``PROMPT`` has."""
    reply = transformers_run(directory, [PROMPT], case.stop).greedy[0]
    path = directory / ("generation_config.json" if case.stop_in == "generation" else "config.json")
    settings = json.loads(path.read_text()) if path.exists() else {}
    ends = settings.get("eos_token_id", [])
    ends = [*(ends if isinstance(ends, list) else [ends]), reply[-1]]
    path.write_text(json.dumps({**settings, "eos_token_id": ends if len(ends) > 1 else ends[0]}))


def _set_end(directory: Path, config: dict[str, Any], case: Case) -> None:
    path = directory / "tokenizer.json"
    if path.exists():
        special = [t["content"] for t in json.loads(path.read_text())["added_tokens"] if t["special"]]
        config["eos_token"] = special[max(case.eos, -len(special))]


def _set_template(directory: Path, config: dict[str, Any], case: Case) -> None:
    text = None if case.template is None else TEMPLATES[case.template]
    config.pop("chat_template")
    if case.template_in in ("config", "both") and text is not None:
        config["chat_template"] = "OLD {{ messages }}" if case.template_in == "both" else text
    elif case.template_in == "null":
        config["chat_template"] = None
    if case.template_in != "config" and text is not None:
        (directory / "chat_template.jinja").write_text(text)


def _add_tokens(directory: Path, config: dict[str, Any], case: Case) -> None:
    json_path = directory / "tokenizer.json"
    document = json.loads(json_path.read_text()) if json_path.exists() else None
    known = [] if document is None else document["added_tokens"]
    used = [entry["id"] for entry in known]
    first = max(used + ([] if document is None else list(document["model"]["vocab"].values())), default=ROWS - 1) + 1
    new = {first: "<think>", first + 1: "</think>"}
    flags = {**FLAGS, "special": case.special}
    if case.added_in == "tokenizer.json" and document is not None:
        known += [{"id": index, "content": text, **flags} for index, text in new.items()]
        json_path.write_text(json.dumps(document))
    elif case.added_in == "added_tokens_decoder":
        decoder = {str(e["id"]): {k: v for k, v in e.items() if k != "id"} for e in known}
        config["added_tokens_decoder"] = decoder | {str(i): {**flags, "content": t} for i, t in new.items()}
    elif case.added_in == "added_tokens.json":
        (directory / "added_tokens.json").write_text(json.dumps({text: index for index, text in new.items()}))
    elif case.added_in == "additional_special_tokens":
        (directory / "special_tokens_map.json").write_text(json.dumps({case.added_in: list(new.values())}))


def _rename(directory: Path, case: Case) -> None:
    """Weights with some rows more than the tokenizer needs, under the names of the case."""
    from safetensors.torch import load_file, save_file
    from torch import cat

    tensors = load_file(directory / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in tensors:
            tensors[name] = cat([tensors[name], tensors[name][: WIDE - ROWS]])
    change = {
        "plain": lambda name: name,
        "no model.": lambda name: name.removeprefix("model."),
        "model. twice": lambda name: name if name == "lm_head.weight" else "model." + name,
        "head only": lambda name: name.replace("model.embed_tokens", "lm_head"),
    }[case.names]
    save_file(
        {change(name): tensor for name, tensor in tensors.items()}, directory / "model.safetensors", {"format": "pt"}
    )
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "vocab_size": WIDE}))


def theirs(directory: Path) -> Any:
    """transformers' tokenizer; of a bare sentencepiece model through its JSON form, for which it needs no protobuf."""
    from transformers import AutoTokenizer

    if (directory / "tokenizer.json").exists():
        return AutoTokenizer.from_pretrained(directory)
    return read_pieces(directory, WIDE).original._tokenizer


def check_ids(tokenizer: Any, vocabulary: Vocabulary, source: Source, keys: dict[str, Any]) -> None:
    exact = not any("begins with a space" in note for note in source.warnings)
    around = not any("before a text" in note or "after a text" in note for note in source.warnings)
    added = [token for token, index in tokenizer.get_added_vocab().items() if index < WIDE and token.strip(" ▁\n")]
    strings = [*STRINGS, *(f"say {token} now" for token in added)] if exact else list(STRINGS)
    for text in strings:
        expected = tokenizer.encode(text, add_special_tokens=False)
        assert vocabulary.tokenize(text, parse_special=True) == expected, text
        if around:
            before = [vocabulary.bos_id] if vocabulary.adds_bos else []
            after = [keys["ggml.eos_token_id"]] if keys.get("ggml.add_eos_token") else []
            assert [*before, *expected, *after] == tokenizer.encode(text), text
    for token in added:
        index = tokenizer.convert_tokens_to_ids(token)
        assert keys["ggml.tokens"][index] in (token, token.replace("▁", " "))
        if keys["ggml.token_type"][index] != TokenType.UNKNOWN:
            special = tokenizer.added_tokens_decoder[index].special
            assert keys["ggml.token_type"][index] == (TokenType.CONTROL if special else TokenType.USER_DEFINED)


def check_conversations(tokenizer: Any, vocabulary: Vocabulary, source: Source, keys: dict[str, Any]) -> None:
    assert keys.get("chat_template") == tokenizer.chat_template
    spaces = any("space" in note for note in source.warnings)
    for messages, prompt in CONVERSATIONS if tokenizer.chat_template else ():
        options = {"add_generation_prompt": prompt}
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
        except Exception:  # the template's own
            continue
        if not spaces:
            ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **options)
            assert vocabulary.tokenize(text, parse_special=True) == ids


def check_ends(tokenizer: Any, vocabulary: Vocabulary, directory: Path) -> None:
    from transformers import GenerationConfig

    if (directory / "generation_config.json").exists():
        ends = GenerationConfig.from_pretrained(directory).eos_token_id
    else:
        ends = json.loads((directory / "config.json").read_text()).get("eos_token_id")
    ends = ends if isinstance(ends, list) else [ends]
    for index in (*ends, tokenizer.eos_token_id):
        assert index is None or index >= WIDE or index in vocabulary.end_ids, index


def check_run(vocabulary: Vocabulary, source: Source, directory: Path, path: Path) -> None:
    """Logits, and the token at which a reply ends; ``path`` is the file in float32."""
    expected = transformers_run(directory, [PROMPT], REPLY, ends=True)
    computed = llama_run(path, [PROMPT], REPLY)
    spread = expected.logits[0] - expected.logits[0].mean(-1, keepdims=True)
    difference = np.square(expected.logits[0] - computed.logits[0]).mean() / np.square(spread).mean()
    assert difference**0.5 < CLOSE
    ours = computed.greedy[0]
    stop = next((i + 1 for i, token in enumerate(ours) if token in vocabulary.end_ids), REPLY)
    if ours[:stop] != expected.greedy[0]:
        # At an end that transformers' generate does not have, and a note has said so.
        theirs = expected.greedy[0]
        assert ours[:stop] == theirs[:stop]
        assert any("whatever a file says" in note or "The written file ends" in note for note in source.warnings)


def check_weights(source: Source, directory: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype="float32")
    for spec in source.tensors():
        name = source.hf_name(spec.name)
        if name is not None:
            ours = source.to_hf(spec.name, source.read(spec.name))
            # A norm that llama.cpp wants greater by one loses its last bits to that.
            assert np.allclose(ours, model.get_parameter(name).detach().numpy(), rtol=0, atol=1e-6), name


@settings(
    max_examples=CASES,
    derandomize=True,
    database=None,
    print_blob=True,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
@given(case=cases())
@example(case=SEEN[0])
@example(case=SEEN[1])
@example(case=SEEN[2])
@example(case=SEEN[3])
@example(case=SEEN[4])
@example(case=SEEN[5])
@example(case=SEEN[6])
@example(case=SEEN[7])
@example(case=SEEN[8])
@example(case=SEEN[9])
@example(case=SEEN[10])
@example(case=SEEN[11])
def test_a_directory_becomes_what_transformers_makes_of_it(case: Case) -> None:
    with tempfile.TemporaryDirectory(prefix="lieq-test-") as name:
        directory = make(case, Path(name))
        source = open_source(str(directory))
        path = export_float32(source, Path(name) / "m.gguf")
        vocabulary, keys, tokenizer = Vocabulary(path), values(source), theirs(directory)
        check_ids(tokenizer, vocabulary, source, keys)
        check_conversations(tokenizer, vocabulary, source, keys)
        if not any("no key left" in note for note in source.warnings):
            check_ends(tokenizer, vocabulary, directory)
            check_run(vocabulary, source, directory, path)
        check_weights(source, directory)


def test_the_oracle_sees_a_difference(tmp_path: Path) -> None:
    """A file of one case does not pass for another."""
    case = Case(added_in="tokenizer.json", ends=(510, 3))
    directory = make(case, tmp_path)
    source = open_source(str(directory))
    keys = values(source)
    (tmp_path / "other").mkdir()
    other = make(replace(case, eos=-2, template="bos", special=True), tmp_path / "other")
    with pytest.raises(AssertionError):
        check_ids(theirs(other), source.vocabulary, source, keys)  # type: ignore[attr-defined]
    with pytest.raises(AssertionError):
        check_conversations(theirs(other), source.vocabulary, source, keys)  # type: ignore[attr-defined]
    (other / "generation_config.json").write_text(json.dumps({"eos_token_id": [5]}))
    with pytest.raises(AssertionError):
        check_ends(theirs(other), source.vocabulary, other)  # type: ignore[attr-defined]
