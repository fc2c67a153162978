"""Find the pre-tokenizer by trial: llama.cpp's tokens must equal the original tokenizer's on hard strings."""

from __future__ import annotations

import contextlib
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from gguf import GGUFValueType, TokenType

from ...errors import InputError
from ...gguf.container import KeyValue, write_container
from ...gguf.vocabulary_check import check_vocabulary
from ...llama.vocabulary import PRE_KEY, Vocabulary
from ...store import Entry
from ...system.child import StoppedError
from ...system.files import temporary_folder
from .battery import BATTERY, special_strings
from .bpe import text_of
from .conversations import check_conversations, template_notes
from .ends import end_notes, with_ends
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

_ACTED_ON = re.compile("(phi)-?(3)|(?<=modern)-(?=bert)", re.IGNORECASE)
"""Names of models by which llama.cpp changes tokens (llama-vocab.cpp), whatever the file says of these."""

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
        name: the model's name in the file.
    """

    key_values: list[KeyValue]
    vocabulary: Vocabulary
    warnings: tuple[str, ...]
    name: str = ""


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
    name: str = "",
) -> Trial:
    """Load the vocabulary in llama.cpp with each candidate until one tokenizes as the original does.

    Of a name by which llama.cpp would choose a treatment of tokens, a neutral form is tried too; the one with fewer
    differences is taken.

    Args:
        pieces: the original.
        values: its key-values.
        architecture: GGUF architecture; llama.cpp wants it in any file.
        label: the model's name, for messages.
        candidates: values of ``tokenizer.ggml.pre``; a sentencepiece vocabulary has ``default`` only.
        name: the model's name.

    Raises:
        InputError: no candidate does (the message shows the first difference of the best), or rendered conversations
            give other tokens.
    """
    by_key = {kv.key: kv.value for kv in values}
    check_vocabulary(by_key.get, label)
    neutral = _ACTED_ON.sub(r"\1 \2", name)
    if neutral == name:
        return _settle_as(name, pieces, values, architecture, label, candidates)
    plain = _settle_as(neutral, pieces, values, architecture, label, candidates)
    with contextlib.suppress(InputError):  # llama.cpp does not load a vocabulary that lacks Phi-3's tokens
        named = _settle_as(name, pieces, values, architecture, label, candidates)
        if len(named.warnings) <= len(plain.warnings):
            return named
    note = f"The written file calls {label} {neutral!r}, because llama.cpp changes tokens of files called {name!r}."
    return replace(plain, warnings=(*plain.warnings, note))


def _settle_as(
    name: str,
    pieces: Pieces,
    values: list[KeyValue],
    architecture: str,
    label: str,
    candidates: Sequence[str],
) -> Trial:
    with _loader(values, architecture, name) as load:
        fit = _best(pieces, _ordered(pieces, candidates), load, label)
    plain, vocabulary = _with_pre(values, fit.name), fit.vocabulary
    values = with_ends(pieces, plain, vocabulary)
    if values != plain:
        with _loader(values, architecture, name) as load:
            vocabulary = load(fit.name)
    conversations = check_conversations(vocabulary, pieces, label)
    spaces = _check_special(vocabulary, pieces, label) or conversations
    notes = _notes(pieces, fit, label)
    if _puts_space(pieces) and (spaces or notes) and all(_begins_with_space(d.text) for d in fit.differences):
        strips = _takes_space(pieces)
        notes, spaces = [_space_note(label, alone=not strips)], spaces if strips else []
    ends = end_notes(pieces, vocabulary, label)
    ends += template_notes(pieces, label)
    return Trial(values, vocabulary, (*pieces.notes, *notes, *text_limits(pieces).notes, *ends, *spaces), name)


def to_entry(trial: Trial) -> Entry:
    """A trial as an entry of the cache."""
    values = [[kv.key, kv.value, int(kv.type), kv.item_type] for kv in trial.key_values]
    return Entry(record={"values": values, "warnings": list(trial.warnings), "name": trial.name})


def of_entry(entry: Entry, architecture: str) -> Trial:
    """The trial of an entry, its vocabulary loaded again; the original tokenizer is not needed."""
    values = [KeyValue(*row) for row in entry.record["values"]]
    pre, name = next(kv.value for kv in values if kv.key == PRE_KEY), entry.record["name"]
    with _loader(values, architecture, name) as load:
        return Trial(values, load(pre), tuple(entry.record["warnings"]), name)


def _ordered(pieces: Pieces, candidates: Sequence[str]) -> list[str]:
    if pieces.model != "gpt2":
        return ["default"]
    return sorted(candidates, key=lambda name: name != pieces.likely)


@contextlib.contextmanager
def _loader(values: list[KeyValue], architecture: str, name: str) -> Iterator[Callable[[str], Vocabulary]]:
    """Load a vocabulary with a pre-tokenizer's name."""
    with temporary_folder() as folder:
        path = folder / "vocabulary.gguf"
        general = {"general.architecture": architecture, "general.name": name}
        head = [KeyValue(key, value, GGUFValueType.STRING) for key, value in general.items()]
        write_container(path, architecture, [*head, *values], [], [])
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


def _takes_space(pieces: Pieces) -> bool:
    """Whether an added token takes the white space beside it, or stands between white space only."""
    entries = pieces.original.document.get("added_tokens") or []
    return any(entry.get(flag) for entry in entries for flag in ("lstrip", "rstrip", "single_word"))


def _space_note(label: str, *, alone: bool) -> str:
    return (
        f"llama.cpp puts a space before texts and behind special tokens for {label}, as sentencepiece does; "
        "transformers puts none before a text that begins with a space, and none behind special tokens."
    ) + (" All other texts give the same tokens." if alone else "")


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
        texts = [text_of(token) for token in _every(pieces, TokenType.NORMAL, _SAMPLE)]
    else:
        texts = [token.replace("▁", " ") for token in _every(pieces, TokenType.NORMAL, _SAMPLE)]
    return [text for text in texts if text and unicodedata.is_normalized("NFC", text)]


def _every(pieces: Pieces, kind: int, most: int) -> list[str]:
    chosen = [token for token, type_ in zip(pieces.tokens, pieces.types, strict=True) if type_ == kind]
    return chosen[:: max(1, len(chosen) // most)]


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
