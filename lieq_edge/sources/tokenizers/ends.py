"""Where a reply ends: in transformers by configuration, in llama.cpp by three keys of a file and by names of tokens."""

from __future__ import annotations

from collections.abc import Iterable

from gguf import GGUFValueType, Keys

from ...gguf.container import KeyValue
from ...llama.vocabulary import Vocabulary
from .pieces import Pieces

_KEYS = (Keys.Tokenizer.EOT_ID, Keys.Tokenizer.EOM_ID)
"""Keys of ends beside EOS; a file can hold no more."""


def with_ends(pieces: Pieces, values: list[KeyValue], vocabulary: Vocabulary) -> list[KeyValue]:
    """Key-values with a key for every end that llama.cpp would not know, as far as there are keys.

    Args:
        pieces: the original.
        values: its key-values.
        vocabulary: the same as llama.cpp loads them.
    """
    missing = [index for index in pieces.ends if index not in vocabulary.end_ids]
    ends = [KeyValue(key, index, GGUFValueType.UINT32) for key, index in zip(_KEYS, missing, strict=False)]
    roles = [i for i, kv in enumerate(values) if kv.key.endswith("_token_id")]
    place = roles[-1] + 1 if roles else len(values)
    return [*values[:place], *ends, *values[place:]]


def end_notes(pieces: Pieces, vocabulary: Vocabulary, label: str) -> list[str]:
    """Sentences about tokens at which only one of the two ends a reply.

    Args:
        pieces: the original.
        vocabulary: what llama.cpp loads from the written file.
        label: the model's name, for messages.
    """
    notes = []
    if missing := [index for index in pieces.ends if index not in vocabulary.end_ids]:
        notes.append(
            f"transformers ends a reply of {label} at {_names(pieces, missing)} too, for which a GGUF file has no key "
            "left; give llama.cpp these as stop words."
        )
    names = _names(pieces, pieces.reply_ends)
    only = f"transformers ends one at {names} only" if names else "transformers ends one at no token"
    if named := sorted(vocabulary.end_ids - set(pieces.ends)):
        notes.append(f"llama.cpp ends a reply of {label} at {_names(pieces, named)} too, whatever a file says; {only}.")
    if others := [index for index in pieces.ends if index in vocabulary.end_ids and index not in pieces.reply_ends]:
        notes.append(
            f"The written file ends a reply of {label} at {_names(pieces, others)} too, as the tokenizer or "
            f"config.json has it; {only}."
        )
    return notes


def _names(pieces: Pieces, ids: Iterable[int]) -> str:
    return ", ".join(repr(pieces.tokens[index]) for index in ids)
