"""The worker's functions that write text, token by token, and render chat templates. Imports llama.cpp."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from ..errors import InputError
from .loaded import Api, LoadedModel, Words
from .rendering import Message, without_system
from .worker import Worker

_BATCH = 512
# A conversation of a few thousand tokens has some ten thousand characters.
_LONGEST_TEXT = 1 << 24


class LoadedWriter(LoadedModel):
    """A model with one sequence and a sampler; see ``chat.Chat``.

    Attributes:
        words: its vocabulary.
    """

    def __init__(self, path: bytes, label: str, options: dict[str, Any]) -> None:
        super().__init__(path, label)
        self.words = Words(self.vocab)
        self.trained_context = int(Api.llama_model_n_ctx_train(self._model))
        self.context: int = options["context"] or min(options["usual_context"], self.trained_context)
        params = Api.llama_context_default_params()
        params.n_ctx = self.context
        params.n_batch = params.n_ubatch = min(_BATCH, self.context)
        params.n_threads = params.n_threads_batch = options["threads"]
        self._sampler: Any = None
        self.make_context(params, self.context)
        self._sampler = _sampler(options["sampling"])

    def tokenize(self, text: str, parse_special: bool) -> list[int]:
        return self.words.tokenize(text, parse_special)

    def keep(self, count: int) -> int:
        """Forget what comes after the first ``count`` tokens; returns how many are still known."""
        memory = Api.llama_get_memory(self._context)
        # Models with a running state cannot go back a part of the way.
        if count and Api.llama_memory_seq_rm(memory, 0, count, -1):
            return count
        self.forget()
        return 0

    def read(self, tokens: list[int], position: int) -> None:
        """Run tokens of the text, at most a batch; logits of the last one."""
        place = np.arange(position, position + len(tokens))
        self.decode(tokens, place, np.zeros(len(tokens), np.int64), place == place[-1])

    def draw(self) -> int:
        """The next token."""
        return int(Api.llama_sampler_sample(self._sampler, self._context, -1))

    def close(self) -> None:
        if self._sampler is not None:
            Api.llama_sampler_free(self._sampler)
            self._sampler = None
        super().close()


def _sampler(options: dict[str, Any]) -> Any:
    """llama.cpp's usual chain, or the likeliest token at temperature 0."""
    chain = Api.llama_sampler_chain_init(Api.llama_sampler_chain_default_params())
    if options["temperature"] <= 0:
        parts = [Api.llama_sampler_init_greedy()]
    else:
        parts = [
            Api.llama_sampler_init_top_k(options["top_k"]),
            Api.llama_sampler_init_top_p(options["top_p"], 1),
            Api.llama_sampler_init_min_p(options["min_p"], 1),
            Api.llama_sampler_init_temp(options["temperature"]),
            Api.llama_sampler_init_dist(options["seed"]),
        ]
    for part in parts:
        Api.llama_sampler_chain_add(chain, part)
    return chain


def load_writer(worker: Worker, path: str, label: str, options: dict[str, Any]) -> dict[str, Any]:
    writer = LoadedWriter(path.encode("latin-1"), label, options)
    return {
        "handle": worker.add(writer),
        "context": writer.context,
        "trained_context": writer.trained_context,
        "bos": writer.words.bos_id if writer.words.adds_bos else None,
        "adds_space": writer.words.adds_space,
        "batch": min(_BATCH, writer.context),
    }


def keep(worker: Worker, handle: int, count: int) -> int:
    return int(worker.objects[handle].keep(count))


def read(worker: Worker, handle: int, tokens: list[int], position: int) -> None:
    worker.objects[handle].read(tokens, position)


def write(worker: Worker, handle: int, token: int, position: int) -> tuple[int, str, bool]:
    """Run one token; returns the next one, its bytes (one character for each), and whether it ends the answer."""
    writer: LoadedWriter = worker.objects[handle]
    writer.read([token], position)
    drawn = writer.draw()
    return drawn, writer.words.piece(drawn, False).decode("latin-1"), writer.words.ends(drawn)


def restart(worker: Worker, handle: int) -> None:
    """Begin anew, with the seed too."""
    writer: LoadedWriter = worker.objects[handle]
    writer.forget()
    Api.llama_sampler_reset(writer._sampler)


def render(worker: Worker, template: str, bos: str, eos: str, messages: Sequence[Message], label: str) -> str:
    """The text of a conversation up to where the answer begins, by llama-cpp-python's sandboxed jinja2."""
    try:
        formatter = Jinja2ChatFormatter(template, eos_token=eos, bos_token=bos)
    except Exception as error:
        raise InputError(f"The chat template of {label} is damaged ({_line(error)}); convert it again.") from error
    first: Exception | None = None
    for variant in (messages, without_system(messages), _in_parts(messages), _in_parts(without_system(messages))):
        try:
            text = str(formatter(messages=variant).prompt)
        except MemoryError:
            raise
        except Exception as error:
            # The first of them is about the messages as they were given.
            first = first or error
            continue
        if str(messages[-1]["content"]).strip() in text:
            if len(text) > _LONGEST_TEXT:
                raise InputError(f"The chat template of {label} writes {len(text):,} characters; convert it again.")
            return text
    reason = _line(first) if first is not None else "it leaves the message out"
    raise InputError(f"The chat template of {label} cannot render this conversation ({reason}); try other messages.")


def _in_parts(messages: Sequence[Message]) -> list[Message]:
    """Contents as lists of parts, for templates of models that take pictures too."""
    return [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


FUNCTIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (load_writer, keep, read, write, restart, render)
}
"""Functions that the parent may call, by name."""
