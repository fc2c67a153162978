"""The harness's interface to a model, on llama.cpp. Imports the harness, which takes seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.model import LM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from ..errors import InputError
from ..llama.prefixes import Scored
from .answers import Answers, Prompt
from .encoding import Encoder

# The harness's own default (``HFLM``), and its names for the number.
_MOST_TOKENS = 256
_MOST_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
# Longer windows of a rolling likelihood take much memory and change little.
_LONGEST_WINDOW = 4096


class LlamaModel(LM):
    """A GGUF file as the harness sees a model."""

    def __init__(self, encoder: Encoder, answers: Answers, title: str) -> None:
        """Prepare; nothing is loaded before it is needed.

        Args:
            encoder: tokenizer of the model.
            answers: answers of the model.
            title: title of the stages for progress.
        """
        super().__init__()
        self._encoder = encoder
        self._answers = answers
        self._title = title

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Log-probability (nats) of each continuation after its context, and whether it is the most probable text."""
        rows = self._encoder.pairs([request.args for request in requests])
        return [(one.logprob, one.greedy) for one in self._answers.likelihoods(rows, self._title)]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Log-probability (nats) of each whole text; one that is too long is read in windows, as ``HFLM`` does."""
        texts = self._encoder.encode([request.args[0] for request in requests])
        rows: list[Scored] = []
        counts: list[int] = []
        for tokens in texts:
            windows = get_rolling_token_windows(
                token_list=tokens,
                prefix_token=self._encoder.prefix,
                max_seq_len=min(self._encoder.longest, _LONGEST_WINDOW),
                context_len=1,
            )
            parts = [make_disjoint_window(window) for window in windows]
            rows += [Scored((*context, *end), len(context)) for context, end in parts]
            counts.append(len(parts))
        answers = iter(self._answers.likelihoods(rows, self._title))
        return [sum(next(answers).logprob for _ in range(count)) for count in counts]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The most probable text after each context, up to a stop.

        Raises:
            InputError: the task draws its answers at random.
        """
        contexts = self._encoder.encode([request.args[0] for request in requests])
        prompts = []
        for tokens, request in zip(contexts, requests, strict=True):
            most, stops = _how_to_write(request.args[1], request.task_name)
            room = self._encoder.longest - most
            if room < 1:
                raise InputError(
                    f"{request.task_name} asks for answers of {most} tokens, and the model reads "
                    f"{self._encoder.longest}; choose other tasks."
                )
            prompts.append(Prompt(tuple(tokens[-room:] or [self._encoder.prefix]), most, stops))
        return self._answers.texts(prompts, self._title)


def _how_to_write(settings: Mapping[str, Any], task: str) -> tuple[int, tuple[str, ...]]:
    """The largest number of tokens of an answer, and its stops."""
    if settings.get("do_sample") and settings.get("temperature", 1.0) > 0:
        raise InputError(
            f"{task} draws its answers at random, and only the most probable ones can be compared item by item; choose "
            "another task."
        )
    until = settings.get("until") or []
    stops = (until,) if isinstance(until, str) else tuple(until)
    most = next((settings[name] for name in _MOST_NAMES if settings.get(name)), _MOST_TOKENS)
    return int(most), stops
