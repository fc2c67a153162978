"""Find the pre-tokenizer by trial: llama.cpp's tokens must equal the original tokenizer's on hard strings."""

from __future__ import annotations

import math
import tempfile
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gguf import GGUFValueType, TokenType

from ...errors import InputError
from ...gguf.container import KeyValue, write_container
from ...gguf.vocabulary_check import check_vocabulary
from ...llama.vocabulary import PRE_KEY, Vocabulary
from .battery import BATTERY, special_strings
from .hard_strings import HARD_STRINGS
from .tokenizer import Pieces

# One name for each way in which llama.cpp splits text before byte-level BPE (llama-vocab.cpp), likely ones first.
# Names that the installed llama.cpp does not know are refused by it and passed over. Those that take raw UTF-8
# instead of the byte alphabet (gemma4, whitespace, ...) cannot fit and are left out.
CANDIDATES: tuple[str, ...] = (
    "llama-bpe",
    "qwen2",
    "smollm",
    "gpt-2",
    "tekken",
    "gpt-4o",
    "dbrx",
    "smaug-bpe",
    "deepseek-llm",
    "deepseek-coder",
    "deepseek-v3",
    "qwen35",
    "glm4",
    "chatglm-bpe",
    "minicpm5",
    "falcon",
    "starcoder",
    "refact",
    "command-r",
    "olmo",
    "mpt",
    "stablelm2",
    "seed-coder",
    "bailingmoe",
    "hunyuan-dense",
    "exaone",
    "exaone-moe",
    "jais-2",
    "trillion",
    "viking",
    "poro-chat",
    "superbpe",
    "youtu",
    "tiny_aya",
    "joyai-llm",
    "kimi-k2",
    "afmoe",
    "chameleon",
    "default",
)

_SAMPLE = 2000
_MARKS_AND_CAPITALS = ("Lu", "Lt", "Mn", "Mc", "Me")
_MOST_SPECIAL = 24


@dataclass(frozen=True)
class Difference:
    """The first string that two tokenizers split differently."""

    text: str
    original: list[int]
    llama: list[int]

    def describe(self, tokens: Sequence[str]) -> str:
        """One clause that shows the place and the tokens there."""
        at = next(
            (i for i, (a, b) in enumerate(zip(self.original, self.llama, strict=False)) if a != b),
            min(len(self.original), len(self.llama)),
        )

        def shown(ids: list[int]) -> str:
            return " ".join(repr(tokens[i]) for i in ids[at : at + 3]) or "nothing"

        text = self.text if len(self.text) <= 60 else self.text[:57] + "..."
        return f"in {text!r} the original has {shown(self.original)} where llama.cpp has {shown(self.llama)}"


@dataclass(frozen=True)
class Trial:
    """A vocabulary that llama.cpp runs as the original does.

    Attributes:
        key_values: the tokenizer's, ``tokenizer.ggml.pre`` included.
        vocabulary: llama.cpp's tokenizer.
        warnings: sentences for the user.
    """

    key_values: list[KeyValue]
    vocabulary: Vocabulary
    warnings: tuple[str, ...]


def settle(
    pieces: Pieces,
    values: list[KeyValue],
    architecture: str,
    label: str,
    candidates: Sequence[str] = CANDIDATES,
) -> Trial:
    """Load the vocabulary in llama.cpp with each candidate until one tokenizes as the original does.

    Args:
        pieces: the original.
        values: its key-values.
        architecture: of the model; llama.cpp wants it in any file.
        label: of the model, for messages.
        candidates: of ``tokenizer.ggml.pre``; a sentencepiece vocabulary has ``default`` only.

    The short battery, a sample of the vocabulary and what is plain ASCII of the long battery decide; the rest of that
    confirms. Where no candidate passes that too, the best of those that were chosen is taken, with a warning.
    ``pieces.nearest`` may differ, and is then taken with a warning, in texts with combining marks or with capitals
    outside ASCII.

    Raises:
        InputError: no candidate does; the message shows the first difference of the best.
    """
    candidates = [name for name in candidates if name == pieces.likely] + [
        name for name in candidates if name != pieces.likely
    ]
    if pieces.model != "gpt2":
        candidates = ["default"]
    by_key = {kv.key: kv.value for kv in values}
    check_vocabulary(by_key.get, label)
    sample = _vocabulary_sample(pieces)
    battery_ids, sample_ids, hard_ids = (
        [pieces.encode(text) for text in texts] for texts in (BATTERY, sample, HARD_STRINGS)
    )
    passed: tuple[int, str, Vocabulary, str] | None = None
    best: tuple[float, str, str] = (-math.inf, "", "llama.cpp refuses the vocabulary")
    with tempfile.TemporaryDirectory(prefix="lieq-") as folder:
        path = Path(folder) / "vocabulary.gguf"
        head = KeyValue("general.architecture", architecture, GGUFValueType.STRING)
        write_container(path, architecture, [head, *values], [], [])
        for name in candidates:
            try:
                vocabulary = Vocabulary(path, pre=name)
            except InputError as error:
                if best[0] == -math.inf:
                    best = (-math.inf, name, str(error))
                continue
            allowed = _is_beyond if name == pieces.nearest else _never
            found = _compare(vocabulary, BATTERY, battery_ids)
            differences = [d for d in found if not allowed(d.text)]
            score = -len(differences)
            if not differences:
                differences = [d for d in _compare(vocabulary, sample, sample_ids) if not allowed(d.text)]
            if not differences:
                found += _compare(vocabulary, HARD_STRINGS, hard_ids)
                if pieces.model == "gpt2":
                    differences = [d for d in found if _is_plain(d.text)]
            if not differences:
                if passed is None or len(found) < passed[0]:
                    note = _note(pieces, label, name, found) if found else ""
                    passed = (len(found), name, vocabulary, note)
                if not found or name == pieces.nearest:
                    break
                continue
            if score > best[0]:
                best = (score, name, differences[0].describe(pieces.tokens))
    if passed is not None:
        _, name, vocabulary, note = passed
        notes = [note] if note else []
        notes += _check_special(vocabulary, pieces, label)
        return Trial(_with_pre(values, name), vocabulary, tuple(notes))
    raise InputError(
        f"No pre-tokenizer of llama.cpp splits text as the tokenizer of {label} does (nearest {best[1]!r}: {best[2]}); "
        "choose another model, or give a GGUF file of this one, whose tokenizer is taken as it is."
    )


def _is_beyond(text: str) -> bool:
    """True for text with combining marks or capitals outside ASCII.

    llama.cpp's ``gpt-4o`` and ``tekken`` take marks for punctuation, and such capitals for small letters as well.
    """
    # The long s counts as s where case is ignored.
    return any(c == "ſ" or (not c.isascii() and unicodedata.category(c) in _MARKS_AND_CAPITALS) for c in text)


def _is_plain(text: str) -> bool:
    """True for ASCII without control characters: no table of Unicode excuses a difference in it."""
    return text.isascii() and all(c.isprintable() or c in "\t\n\r" for c in text)


def _never(_: str) -> bool:
    return False


def _note(pieces: Pieces, label: str, name: str, found: list[Difference]) -> str:
    """What the user is told of hard strings that are split otherwise."""
    clause = found[0].describe(pieces.tokens)
    if name == pieces.nearest:
        return (
            f"llama.cpp has the tokenizer of {label} ({name}) but for combining marks (as in Hindi, Thai or vowelled "
            f"Arabic) and capitals outside ASCII, where it splits some texts otherwise: {clause}."
        )
    return (
        f"llama.cpp splits {len(found)} of {len(HARD_STRINGS)} unusual strings otherwise than the tokenizer of "
        f"{label}: {clause}."
    )


def _with_pre(values: list[KeyValue], name: str) -> list[KeyValue]:
    # Behind tokenizer.ggml.model, where llama.cpp's converter writes it.
    return [values[0], KeyValue(PRE_KEY, name, GGUFValueType.STRING), *values[1:]]


def _compare(vocabulary: Vocabulary, strings: Sequence[str], expected: Sequence[list[int]]) -> list[Difference]:
    found = []
    for text, original in zip(strings, expected, strict=True):
        ids = vocabulary.tokenize(text, parse_special=True)
        if ids != original:
            found.append(Difference(text, original, ids))
    return found


def _vocabulary_sample(pieces: Pieces) -> list[str]:
    """Texts of ordinary tokens, evenly over the vocabulary: a wrong token list or merge shows here."""
    if pieces.model == "gpt2":
        alphabet = _byte_alphabet()
        texts = [_decode(token, alphabet) for token in _every(pieces, TokenType.NORMAL, _SAMPLE)]
    else:
        texts = [token.replace("▁", " ") for token in _every(pieces, TokenType.NORMAL, _SAMPLE)]
    return [text for text in texts if text and unicodedata.is_normalized("NFC", text)]


def _every(pieces: Pieces, kind: int, most: int) -> list[str]:
    chosen = [token for token, own in zip(pieces.tokens, pieces.types, strict=True) if own == kind]
    return chosen[:: max(1, len(chosen) // most)]


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes (``bytes_to_unicode``)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _decode(token: str, alphabet: dict[str, int]) -> str:
    try:
        return bytes(alphabet[c] for c in token).decode("utf-8")
    except (KeyError, UnicodeDecodeError):
        return ""


def _check_special(vocabulary: Vocabulary, pieces: Pieces, label: str) -> tuple[str, ...]:
    """A warning when special tokens within text are split otherwise than by the original.

    It is no reason to stop: originals differ from version to version in the space around special tokens, and
    llama.cpp finds the tokens themselves.
    """
    tokens = _every(pieces, TokenType.CONTROL, _MOST_SPECIAL) + _every(pieces, TokenType.USER_DEFINED, _MOST_SPECIAL)
    # A bare sentencepiece model does not look for special tokens at all.
    # Runs of spaces (Gemma) are ordinary text, of which the battery has enough.
    tokens = [token for token in tokens if token.strip()]
    found = [token for token in tokens if pieces.encode(token) == [pieces.tokens.index(token)]]
    strings = special_strings(found)
    differences = _compare(vocabulary, strings, [pieces.encode(text) for text in strings])
    if not differences:
        return ()
    clause = differences[0].describe(pieces.tokens)
    return (f"llama.cpp splits text around special tokens of {label} otherwise than the original does: {clause}.",)
