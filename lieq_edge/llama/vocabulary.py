"""A model's tokenizer as llama.cpp runs it, without the weights."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import InputError
from .child import Loaded
from .limits import LOAD_SECONDS, text_seconds

PRE_KEY = "tokenizer.ggml.pre"

# Texts go to llama.cpp in parcels of about so many characters: large enough to hide the way there, small enough that
# a time limit fits.
_PARCEL = 1 << 16


class Vocabulary:
    """The tokenizer of a GGUF file.

    It is loaded again when llama.cpp has died of another file meanwhile; ``path`` has to be there for that.

    Attributes:
        n_tokens: tokens in the vocabulary.
        bos_id: the token that starts a text, or None.
        adds_bos: llama.cpp puts BOS before every text.
    """

    def __init__(self, path: Path, *, pre: str | None = None) -> None:
        """Load the vocabulary of ``path``, which may hold no weights.

        Args:
            path: the file.
            pre: name of a pre-tokenizer that takes the place of the file's ``tokenizer.ggml.pre``.

        Raises:
            InputError: llama.cpp refuses the file (with its own reason), or ends on it.
        """
        self._path = path
        self._pre = pre
        self._state = _state(path)
        self._loaded = self._load()
        facts = self._loaded.facts
        self.n_tokens: int = facts["n_tokens"]
        self.bos_id: int | None = facts["bos_id"]
        self.adds_bos: bool = facts["adds_bos"]

    def _load(self) -> Loaded:
        return Loaded(self._path, str(self._path), "load_vocabulary", self._pre, seconds=LOAD_SECONDS)

    def _alive(self) -> Loaded:
        if not self._loaded.alive:
            if self._state is None or _state(self._path) != self._state:
                raise InputError(
                    f"llama.cpp has lost the tokenizer of {self._path} because it ended on another file; "
                    "open the model again."
                )
            self._loaded = self._load()
        return self._loaded

    def tokenize(self, text: str, *, parse_special: bool = False) -> list[int]:
        """Token ids of ``text``, nothing added before or after.

        Args:
            text: the text.
            parse_special: special tokens in the text become tokens; else they are read as text.
        """
        return self.tokenize_many([text], parse_special=parse_special)[0]

    def tokenize_many(self, texts: Sequence[str], *, parse_special: bool = False) -> list[list[int]]:
        """Token ids of each text, as ``tokenize`` gives them: in far less time than one by one."""
        loaded = self._alive()
        rows: list[list[int]] = []
        for parcel in _parcels(texts):
            for text in parcel:
                text.encode("utf-8")  # what is not UTF-8 fails here
            seconds = text_seconds(sum(map(len, parcel)))
            rows += loaded.call("tokenize", parcel, parse_special, seconds=seconds)
        return rows

    @functools.cached_property
    def end_ids(self) -> frozenset[int]:
        """All tokens at which llama.cpp ends a generation, by the file's keys or by their names."""
        return frozenset(self._alive().call("ends", seconds=text_seconds(self.n_tokens)))

    def ends(self, token: int) -> bool:
        """Whether llama.cpp ends a generation at ``token``."""
        return token in self.end_ids

    def detokenize(self, ids: Sequence[int], *, special: bool = False) -> str:
        """The text of ``ids``; special tokens are left out unless ``special``, broken UTF-8 becomes U+FFFD.

        Pieces are joined as they are: llama.cpp's own ``llama_detokenize`` drops spaces before punctuation for some
        vocabularies.
        """
        return self.detokenize_many([ids], special=special)[0]

    def detokenize_many(self, rows: Sequence[Sequence[int]], *, special: bool = False) -> list[str]:
        """The text of each row of ids, as ``detokenize`` gives it: in far less time than one by one."""
        rows = [list(map(int, row)) for row in rows]
        seconds = text_seconds(sum(map(len, rows)))
        texts: list[str] = self._alive().call("detokenize", rows, special, seconds=seconds)
        return texts


def _parcels(texts: Sequence[str]) -> Iterator[list[str]]:
    parcel: list[str] = []
    size = 0
    for text in texts:
        if parcel and size + len(text) > _PARCEL:
            yield parcel
            parcel, size = [], 0
        parcel.append(text)
        size += len(text)
    if parcel:
        yield parcel


def _state(path: Path) -> tuple[int, int] | None:
    """Size and time of change; None where the file is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
