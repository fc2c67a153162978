"""Find the pre-tokenizer by trial: llama.cpp's tokens must equal the original tokenizer's on hard strings."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from gguf import GGUFValueType, Keys, TokenType

from ...errors import InputError
from ...gguf.container import KeyValue, write_container
from ...gguf.vocabulary_check import check_vocabulary
from ...llama.vocabulary import PRE_KEY, Vocabulary
from ...store import Entry
from ...system.child import StoppedError
from ...system.files import temporary_folder
from .battery import BATTERY, special_strings
from .conversations import check_conversations
from .hard_strings import HARD_STRINGS
from .pieces import Encoder, Pieces
from .roles import text_limits

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

_END_KEYS = (Keys.Tokenizer.EOT_ID, Keys.Tokenizer.EOM_ID)

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


@dataclass(frozen=True)
class _Fit:
    """A pre-tokenizer that passes, with the strings that it splits otherwise all the same."""

    name: str
    vocabulary: Vocabulary
    differences: list[Difference]


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
        architecture: GGUF architecture; llama.cpp wants it in any file.
        label: the model's name, for messages.
        candidates: values of ``tokenizer.ggml.pre``; a sentencepiece vocabulary has ``default`` only.

    Raises:
        InputError: no candidate does (the message shows the first difference of the best), or rendered conversations
            give other tokens.
    """
    by_key = {kv.key: kv.value for kv in values}
    check_vocabulary(by_key.get, label)
    with _loader(values, architecture) as load:
        fit = _best(pieces, _ordered(pieces, candidates), load, label)
        values, vocabulary, notes = _with_ends(pieces, _with_pre(values, fit.name), fit, label)
    if vocabulary is None:
        with _loader(values, architecture) as load:
            vocabulary = load(fit.name)
        missing = [index for index in pieces.ends if not vocabulary.ends(index)]
        notes += _missing_ends(pieces, missing, label)
    conversations = check_conversations(vocabulary, pieces, label)
    spaces = _check_special(vocabulary, pieces, label) or conversations
    plain = _notes(pieces, fit, label)
    if _puts_space(pieces) and (spaces or plain) and all(_begins_with_space(d.text) for d in fit.differences):
        plain, spaces = [_space_note(label)], []
    return Trial(values, vocabulary, (*pieces.notes, *plain, *text_limits(pieces).notes, *notes, *spaces))


def to_entry(trial: Trial) -> Entry:
    """A trial as an entry of the cache."""
    values = [[kv.key, kv.value, int(kv.type), kv.item_type] for kv in trial.key_values]
    return Entry(record={"values": values, "warnings": list(trial.warnings)})


def of_entry(entry: Entry, architecture: str) -> Trial:
    """The trial of an entry, its vocabulary loaded again; the original tokenizer is not needed."""
    values = [KeyValue(*row) for row in entry.record["values"]]
    name = next(kv.value for kv in values if kv.key == PRE_KEY)
    with _loader(values, architecture) as load:
        return Trial(values, load(name), tuple(entry.record["warnings"]))


def _ordered(pieces: Pieces, candidates: Sequence[str]) -> list[str]:
    if pieces.model != "gpt2":
        return ["default"]
    return sorted(candidates, key=lambda name: name != pieces.likely)


@contextmanager
def _loader(values: list[KeyValue], architecture: str) -> Iterator[Callable[[str], Vocabulary]]:
    """Load a vocabulary with a pre-tokenizer's name."""
    with temporary_folder() as folder:
        path = folder / "vocabulary.gguf"
        head = KeyValue("general.architecture", architecture, GGUFValueType.STRING)
        write_container(path, architecture, [head, *values], [], [])
        yield lambda name: Vocabulary(path, pre=name)


def _best(pieces: Pieces, candidates: Sequence[str], load: Callable[[str], Vocabulary], label: str) -> _Fit:
    """The pre-tokenizer that fits best.

    The short battery, a sample of the vocabulary and the plain ASCII of the long battery decide; the rest of that
    confirms. Where no candidate passes that too, the best of those that were chosen is taken, with a warning.
    """
    sample = _vocabulary_sample(pieces)
    strings = [_Strings(pieces, texts) for texts in (BATTERY, sample, HARD_STRINGS)]
    passed: _Fit | None = None
    best: tuple[float, str, str] = (-math.inf, "", "llama.cpp refuses the vocabulary")
    for name in candidates:
        try:
            vocabulary = load(name)
        except StoppedError:
            raise
        except InputError as error:
            if best[0] == -math.inf:
                best = (-math.inf, name, str(error))
            continue
        allowed = _allowance(pieces, name)
        differences = strings[0].differences(vocabulary)
        refused = [d for d in differences if not allowed(d.text)]
        score = -len(refused)
        if not refused:
            refused = [d for d in strings[1].differences(vocabulary) if not allowed(d.text)]
        if not refused:
            differences += strings[2].differences(vocabulary)
            if pieces.model == "gpt2":
                refused = [d for d in differences if _is_plain(d.text)]
        if refused:
            if score > best[0]:
                best = (score, name, refused[0].describe(pieces.tokens))
            continue
        if passed is None or len(differences) < len(passed.differences):
            passed = _Fit(name, vocabulary, differences)
        if not differences or name == pieces.nearest:
            break
    if passed is not None:
        return passed
    raise InputError(
        f"No pre-tokenizer of llama.cpp splits text as the tokenizer of {label} does (nearest {best[1]!r}: {best[2]}); "
        "choose another model, or give a GGUF file of this one, whose tokenizer is taken as it is."
    )


class _Strings:
    """Strings with the ids that the original gives them."""

    def __init__(self, pieces: Pieces, texts: Sequence[str]) -> None:
        self._texts = texts
        self._ids = [pieces.encode(text) for text in texts]
        self._reference: Encoder | None = pieces.reference

    def differences(self, vocabulary: Vocabulary) -> list[Difference]:
        differences = _compare(vocabulary, self._texts, self._ids)
        if self._reference is None:
            return differences
        return [d for d in differences if self._reference(d.text) != d.llama]


def _allowance(pieces: Pieces, name: str) -> Callable[[str], bool]:
    """Which texts may differ under a candidate, with a warning."""
    if pieces.model != "gpt2":
        return _begins_with_space if _puts_space(pieces) else _never
    return _is_beyond if name == pieces.nearest else _never


def _puts_space(pieces: Pieces) -> bool:
    """Whether a space is put before a text, as most sentencepiece models do."""
    return pieces.model != "gpt2" and pieces.tokens[pieces.encode("a")[0]].startswith("▁")


def _space_note(label: str) -> str:
    return (
        f"llama.cpp puts a space before texts and behind special tokens for {label}, as sentencepiece does; "
        "transformers puts none before a text that begins with a space, and none behind special tokens. All other "
        "texts give the same tokens."
    )


def _begins_with_space(text: str) -> bool:
    """True for text to which transformers 5 adds no space in front, because it has one; sentencepiece adds another."""
    return text.startswith(" ")


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


def _notes(pieces: Pieces, fit: _Fit, label: str) -> list[str]:
    """Warnings about strings that are split otherwise."""
    if not fit.differences:
        return []
    clause = fit.differences[0].describe(pieces.tokens)
    if fit.name == pieces.nearest:
        return [
            f"llama.cpp has the tokenizer of {label} ({fit.name}) but for combining marks (as in Hindi, Thai or "
            f"vowelled Arabic) and capitals outside ASCII, where it splits some texts otherwise: {clause}."
        ]
    return [
        f"llama.cpp splits {len(fit.differences)} of {len(HARD_STRINGS)} unusual strings otherwise than the tokenizer "
        f"of {label}: {clause}."
    ]


def _with_pre(values: list[KeyValue], name: str) -> list[KeyValue]:
    # Behind tokenizer.ggml.model, where llama.cpp's converter writes it.
    return [values[0], KeyValue(PRE_KEY, name, GGUFValueType.STRING), *values[1:]]


def _with_ends(
    pieces: Pieces, values: list[KeyValue], fit: _Fit, label: str
) -> tuple[list[KeyValue], Vocabulary | None, list[str]]:
    """Key-values with a key for ends of a text that llama.cpp would not know; the vocabulary too where none is needed.

    llama.cpp ends a generation at EOS, at tokens that it knows by name, and at those of ``eot_token_id`` and
    ``eom_token_id``; a file can hold no more.
    """
    missing = [index for index in pieces.ends if not fit.vocabulary.ends(index)]
    if not missing:
        return values, fit.vocabulary, []
    keys = zip(_END_KEYS, missing, strict=False)
    ends = [KeyValue(key, index, GGUFValueType.UINT32) for key, index in keys]
    roles = [i for i, kv in enumerate(values) if kv.key.endswith("_token_id")]
    place = roles[-1] + 1 if roles else len(values)
    return [*values[:place], *ends, *values[place:]], None, []


def _missing_ends(pieces: Pieces, missing: list[int], label: str) -> list[str]:
    if not missing:
        return []
    names = ", ".join(repr(pieces.tokens[index]) for index in missing)
    return [
        f"transformers ends a reply of {label} at {names} too, for which a GGUF file has no key left; give llama.cpp "
        "these as stop words."
    ]


def _compare(vocabulary: Vocabulary, strings: Sequence[str], expected: Sequence[list[int]]) -> list[Difference]:
    differences = []
    for text, original in zip(strings, expected, strict=True):
        ids = vocabulary.tokenize(text, parse_special=True)
        if ids != original:
            differences.append(Difference(text, original, ids))
    return differences


def _vocabulary_sample(pieces: Pieces) -> list[str]:
    """Texts of ordinary tokens, evenly over the vocabulary: a wrong token list or merge shows here."""
    if pieces.model == "gpt2":
        alphabet = _byte_alphabet()
        texts = [_decode(token, alphabet) for token in _every(pieces, TokenType.NORMAL, _SAMPLE)]
    else:
        texts = [token.replace("▁", " ") for token in _every(pieces, TokenType.NORMAL, _SAMPLE)]
    return [text for text in texts if text and unicodedata.is_normalized("NFC", text)]


def _every(pieces: Pieces, kind: int, most: int) -> list[str]:
    chosen = [token for token, type_ in zip(pieces.tokens, pieces.types, strict=True) if type_ == kind]
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


def _check_special(vocabulary: Vocabulary, pieces: Pieces, label: str) -> list[str]:
    """A warning when special tokens within text are split otherwise than by the original.

    It is not a reason to stop: originals differ from version to version in the space around special tokens, and
    llama.cpp finds the tokens themselves.
    """
    tokens = _every(pieces, TokenType.CONTROL, _MOST_SPECIAL) + _every(pieces, TokenType.USER_DEFINED, _MOST_SPECIAL)
    # Runs of spaces (Gemma) are ordinary text, of which the battery has enough.
    tokens = [token for token in tokens if token.strip()]
    alone = [token for token in tokens if pieces.encode(token) == [pieces.tokens.index(token)]]
    strings = special_strings(alone)
    differences = _compare(vocabulary, strings, [pieces.encode(text) for text in strings])
    if not differences:
        return []
    clause = differences[0].describe(pieces.tokens)
    return [f"llama.cpp splits text around special tokens of {label} otherwise than the original does: {clause}."]
