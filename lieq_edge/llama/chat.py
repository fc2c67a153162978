"""Talk to a GGUF file: its own chat template, llama.cpp's sampling, and answers that come while they are written."""

from __future__ import annotations

import codecs
import secrets
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from gguf import Keys

from ..errors import InputError
from ..gguf.splits import first_part, read_model
from ..system.files import user_path
from ..system.progress import log
from ..system.threads import available_threads
from .child import Loaded
from .limits import load_seconds, run_seconds, text_seconds
from .model_file import check_file, check_positions
from .template import Messages, chat_template, encodable

USUAL_CONTEXT = 4096
"""Tokens of the context where none are asked for and the model was trained on as many."""

# Between two pieces of a prompt the user may interrupt.
_PIECE = 128
# Room for an answer that a prompt leaves: a part of the context, and no more tokens than that.
_ROOM_PART, _MOST_ROOM = 4, 256
# llama.cpp's defaults, where the file has no values of its own.
_SAMPLING: dict[str, tuple[str, float]] = {
    "temperature": (Keys.General.SAMPLING_TEMP, 0.8),
    "top_k": (Keys.General.SAMPLING_TOP_K, 40),
    "top_p": (Keys.General.SAMPLING_TOP_P, 0.95),
    "min_p": (Keys.General.SAMPLING_MIN_P, 0.05),
}


class Chat:
    """A conversation with a GGUF file. Close it, or use it in a ``with`` block.

    A file without a chat template continues each message as a text of its own.

    Attributes:
        path: the file.
        template: its chat template, or None.
        context: tokens that the conversation may take.
        messages: the conversation so far, without the system prompt.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        context: int | None = None,
        threads: int | None = None,
    ) -> None:
        """Load the file.

        Args:
            path: the file, or the first of several parts.
            system: the system prompt.
            max_tokens: most tokens of an answer; as many as the context has room for when None.
            temperature: temperature of the sampler; 0 takes the likeliest token each time. The file's own value, or
                llama.cpp's, when None.
            seed: seed of the sampler, another one each time when None.
            context: tokens of the context; those that the model was trained on, at most ``USUAL_CONTEXT``, when None.
            threads: CPU threads; all cores when None.

        Raises:
            InputError: a value makes no sense, there is a system prompt and no chat template, or llama.cpp refuses the
                file or ends on it.
        """
        self.path = path = first_part(user_path(path))
        _check_numbers(max_tokens, temperature, context, threads)
        check_file(path, str(path))
        header = read_model(path).header
        self.template = chat_template(path)
        if system is not None and self.template is None:
            raise InputError(f"{path} has no chat template and takes no system prompt; leave it out.")
        if context is not None:
            check_positions(path, str(path), context, "take a smaller context")
        sampling = {name: _number(header.get(key), usual) for name, (key, usual) in _SAMPLING.items()}
        sampling["top_k"] = int(sampling["top_k"])
        if temperature is not None:
            sampling["temperature"] = temperature
        self._options = {
            "context": context,
            "usual_context": USUAL_CONTEXT,
            "threads": threads or available_threads(),
            "sampling": {**sampling, "seed": secrets.randbits(32) if seed is None else seed},
        }
        self._system = [] if system is None else [{"role": "system", "content": encodable(system)}]
        self._max_tokens = max_tokens
        self.messages: list[dict[str, str]] = []
        self._open()

    def _open(self) -> None:
        seconds = load_seconds(self.path)
        self._loaded = Loaded(self.path, str(self.path), "load_writer", self._options, seconds=seconds)
        facts = self._loaded.facts
        self.context: int = facts["context"]
        self._bos: int | None = facts["bos"]
        self._adds_space: bool = facts["adds_space"]
        self._piece = min(_PIECE, facts["batch"])
        # Tokens that llama.cpp has read.
        self._known: list[int] = []

    def say(self, text: str, *, stop: Callable[[], bool] = lambda: False) -> Generator[str, None, None]:
        """Say something; gives the pieces of the answer, which is over where they end.

        What was written so far is the answer if the caller stops early. Notes go to the receiver of progress: the
        oldest messages are left out, or the answer ends, where the context is full.

        Args:
            text: the message.
            stop: whether the answer is to end; asked before each token, and while the message is read.

        Raises:
            InputError: the message does not fit the context, the template refuses it, or llama.cpp ends on it.
        """
        if not self._loaded.alive:
            self._open()
        message = {"role": "user", "content": encodable(text)}
        tokens = self._fitting(message)
        answer = ""
        try:
            for piece in self._write(tokens, stop):
                answer += piece
                yield piece
        finally:
            if answer:
                self.messages += [message, {"role": "assistant", "content": answer}]

    def reset(self) -> None:
        """Forget the conversation; the system prompt stays."""
        self.messages = []
        self._known = []
        if self._loaded.alive:
            self._loaded.call("restart", seconds=run_seconds(self.path, 1))

    def _fitting(self, message: dict[str, str]) -> list[int]:
        """Tokens of the conversation with a new message; the oldest messages are left out as far as needed."""
        room = min(self.context // _ROOM_PART, _MOST_ROOM, self._max_tokens or _MOST_ROOM)
        left_out = 0
        while True:
            tokens = self._tokens([*self._system, *self.messages, message])
            if len(tokens) + room <= self.context:
                break
            if not self.messages:
                raise InputError(
                    f"The message takes {len(tokens):,} tokens and the context of {self.context:,} has to hold the "
                    "answer too; shorten it, or take a larger context."
                )
            # A question and its answer.
            self.messages = self.messages[2:]
            left_out += 2
        if left_out:
            log(f"The context of {self.context:,} tokens is full: the {left_out} oldest messages are left out.")
        return tokens

    def _tokens(self, messages: Messages) -> list[int]:
        if self.template is None:
            text = messages[-1]["content"]
        else:
            text = self.template.render(messages)
            # llama.cpp puts BOS before the text by itself.
            if self._bos is not None and self.template.bos:
                text = text.removeprefix(self.template.bos)
        parse_special = self.template is not None
        seconds = text_seconds(len(text))
        ids: list[int] = self._loaded.call("tokenize", [text], parse_special, seconds=seconds)[0]
        tokens = [*([] if self._bos is None else [self._bos]), *ids]
        if not tokens:
            raise InputError("The message is empty, and so is the text that the model would continue; say something.")
        return tokens

    def _write(self, tokens: list[int], stop: Callable[[], bool]) -> Iterator[str]:
        """Read the conversation, as far as it is not known, and write the answer piece by piece."""
        last = tokens[-1]
        self._read(tokens[:-1], stop)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        began = not self._adds_space
        written = 0
        while not stop() and (self._max_tokens is None or written < self._max_tokens):
            if len(self._known) == self.context:
                log(f"The context of {self.context:,} tokens is full: the answer ends here.")
                break
            drawn, characters, ends = self._call("write", last, len(self._known), tokens=1)
            self._known.append(last)
            if ends:
                break
            last, written = drawn, written + 1
            piece = decoder.decode(characters.encode("latin-1"))
            if piece and not began:
                began, piece = True, piece.removeprefix(" ")
            if piece:
                yield piece
        if rest := decoder.decode(b"", final=True):
            yield rest

    def _read(self, tokens: list[int], stop: Callable[[], bool]) -> None:
        """Let llama.cpp read ``tokens`` from the start, without what it knows of them already."""
        same = next((i for i, (a, b) in enumerate(zip(self._known, tokens, strict=False)) if a != b), None)
        count = min(len(self._known), len(tokens)) if same is None else same
        if count < len(self._known) or not count:
            count = self._call("keep", count, tokens=1)
        self._known = tokens[:count]
        for start in range(count, len(tokens), self._piece):
            if stop():
                return
            part = tokens[start : start + self._piece]
            self._call("read", part, start, tokens=len(part))
            self._known += part

    def _call(self, function: str, *arguments: Any, tokens: int) -> Any:
        return self._loaded.call(function, *arguments, seconds=run_seconds(self.path, tokens))

    def close(self) -> None:
        """Free the native memory; further calls do nothing."""
        self._loaded.close()

    def __enter__(self) -> Chat:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_chat(
    path: str | Path,
    *,
    system: str | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    seed: int | None = None,
    context: int | None = None,
    threads: int | None = None,
) -> Chat:
    """Begin a conversation with a GGUF file; ``Chat`` explains the arguments."""
    return Chat(
        path,
        system=system,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        context=context,
        threads=threads,
    )


def answer(path: str | Path, messages: Messages, *, max_tokens: int = 96, threads: int | None = None) -> str:
    """The likeliest answer of a GGUF file: the same one each time on one machine with one number of threads.

    Args:
        path: the file, or the first of several parts.
        messages: a conversation (``role`` and ``content`` of each message) that ends with the user's; a file without a
            chat template continues the last one.
        max_tokens: most tokens of the answer.
        threads: CPU threads; all cores when None.

    Raises:
        InputError: the messages are no such conversation or do not fit, or llama.cpp refuses the file or ends on it.
    """
    roles = [message["role"] for message in messages]
    system = messages[0]["content"] if roles[:1] == ["system"] else None
    turns = list(messages[system is not None :])
    expected = [("user", "assistant")[index % 2] for index in range(len(turns))]
    if [message["role"] for message in turns] != expected or expected[-1:] != ["user"]:
        raise InputError(f"The roles {', '.join(roles)} are no conversation that ends with the user; give one.")
    with Chat(path, system=system, max_tokens=max_tokens, temperature=0.0, seed=0, threads=threads) as chat:
        chat.messages = turns[:-1]
        return "".join(chat.say(turns[-1]["content"])).strip()


def _number(value: Any, usual: float) -> float:
    """A value of the file's metadata, or the usual one where that is none."""
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e6
    return value if fits else usual


def _check_numbers(max_tokens: int | None, temperature: float | None, context: int | None, threads: int | None) -> None:
    for name, value, least in (("max_tokens", max_tokens, 1), ("context", context, 8), ("threads", threads, 1)):
        if value is not None and value < least:
            raise InputError(f"{name} has to be at least {least}; got {value}.")
    if temperature is not None and not 0 <= temperature <= 100:  # so that NaN is refused too
        raise InputError(f"temperature takes a number from 0 to 100; got {temperature:g}.")
