"""Refuse vocabularies on which llama.cpp would end its process, with a better reason than llama.cpp has.

llama.cpp checks much of a file with exceptions, which its loader turns into a message, but a few conditions with
``GGML_ASSERT``, and its tokenizers may throw where nobody catches. The likely ones are tested here (llama-vocab.cpp);
the others end the process that it runs in, and are reported by ``llama.child``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from gguf import Keys, TokenType

from ..errors import InputError

_WITHOUT_TOKENS = ("no_vocab", "none")
_SPECIAL = (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN)


def check_vocabulary(get: Callable[[str], Any], label: str) -> None:
    """Raise InputError when llama.cpp could not run the tokenizer of a file.

    Args:
        get: function from a GGUF key to its value, or None.
        label: name of the file in the message.
    """
    reason = _reason(get)
    if reason:
        raise InputError(f"The tokenizer of {label} is damaged ({reason}); fetch or convert the model again.")


def _reason(get: Callable[[str], Any]) -> str:
    model, tokens = get(Keys.Tokenizer.MODEL), get(Keys.Tokenizer.LIST)
    types, scores = get(Keys.Tokenizer.TOKEN_TYPE), get(Keys.Tokenizer.SCORES)
    if not isinstance(model, str) or model in _WITHOUT_TOKENS:
        return f"its kind is {str(model)[:40]!r}"
    if not _all(tokens, str) or not tokens:
        return "no list of tokens"
    if types is not None and (not _all(types, int) or len(types) < len(tokens)):
        return "no type for every token"
    if scores is not None and (not _all(scores, (int, float)) or len(scores) < len(tokens)):
        return "no score for every token"
    if scores is not None and any(math.isnan(score) for score in scores):
        return "a score is not a number"
    # C strings: what follows a NUL is not seen, and an empty token is given a name.
    texts = {token.split("\0", 1)[0] or f"[EMPTY_{i}]" for i, token in enumerate(tokens)}
    if len(texts) < len(tokens):
        return "a token occurs twice"
    if any(
        _not_utf8(token) for token, kind in zip(tokens, types or (), strict=False) if kind in _SPECIAL
    ):  # the text around such a token would be cut within a character
        return "a special token is not UTF-8"
    if model == "llama":
        known = set(tokens)
        for byte in range(256):
            if f"<0x{byte:02X}>" not in known and bytes([byte]).decode("utf-8", "surrogateescape") not in known:
                return f"it has no token for the byte {byte:#04x}"
    return ""


def _all(values: Any, kind: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def _not_utf8(token: str) -> bool:
    try:
        token.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False
