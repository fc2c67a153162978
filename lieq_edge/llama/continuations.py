"""Score and write continuations of texts with a GGUF file in llama.cpp; common beginnings are computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..errors import InputError
from ..system.threads import available_threads
from .child import Loaded
from .engine import UBATCH
from .limits import load_seconds, run_seconds
from .model_file import check_file
from .prefixes import Move, Scored, Step, common_tokens, plan_steps

_SEQUENCES = 64


@dataclass(frozen=True)
class Likelihood:
    """How likely a model finds a continuation.

    Attributes:
        logprob: sum of the log-probabilities of its tokens, nats.
        greedy: each of its tokens is the most probable one.
    """

    logprob: float
    greedy: bool


class Continuations:
    """A GGUF file loaded on the CPU, with llama.cpp's own defaults. Close it, or use it in a ``with`` block.

    Attributes:
        label: what messages call the file.
        sequences: most sequences side by side.
    """

    def __init__(
        self,
        path: Path,
        *,
        context: int,
        threads: int | None = None,
        label: str | None = None,
        share: bool = True,
    ) -> None:
        """Load ``path``.

        Args:
            path: the file, or the first of several parts.
            context: tokens of the longest text; with ``write``, of all texts and answers that are at work together.
            threads: CPU threads; all cores when None.
            label: what messages call the file, by default its path.
            share: common beginnings are computed once, where the model's memory allows it.

        Raises:
            InputError: the file is missing, or llama.cpp refuses it or ends on it.
        """
        self._path = path
        self.label = label or str(path)
        check_file(path, self.label)
        options = {
            "context": context,
            "sequences": _SEQUENCES,
            "threads": threads or available_threads(),
            "most": UBATCH,
        }
        self._loaded = Loaded(path, self.label, "load_continued", options, seconds=load_seconds(path))
        facts = self._loaded.facts
        self.sequences: int = facts["sequences"]
        self._most: int = facts["most"]
        self._shares: bool = facts["shares"] and share
        self.flash_attention: bool | None = facts["flash_attention"]

    def score(self, rows: Sequence[Scored]) -> list[Likelihood]:
        """The likelihood of each row's continuation, in the order of the rows.

        Raises:
            InputError: llama.cpp fails on the model, or its output is not a number.
        """
        sums, greedy = np.zeros(len(rows)), np.ones(len(rows), np.bool_)
        for step in plan_steps(rows, most=self._most, sequences=self.sequences, share=self._shares):
            wanted = sorted(step.targets)
            ids = [[target.token for target in step.targets[index]] for index in wanted]
            answers = self._run(step, list(zip(wanted, ids, strict=True)))
            for index, (best, logprobs) in zip(wanted, answers, strict=True):
                for target, logprob in zip(step.targets[index], logprobs, strict=True):
                    sums[target.row] += logprob
                    greedy[target.row] &= target.token == best
        if not np.isfinite(sums).all():
            raise InputError(f"{self.label} gives outputs that are not numbers; write the file again.")
        return [Likelihood(float(logprob), bool(best)) for logprob, best in zip(sums, greedy, strict=True)]

    def write(
        self,
        prompts: Sequence[Sequence[int]],
        most: int,
        ends: Callable[[int, Sequence[int]], bool],
    ) -> list[list[int]]:
        """The most probable tokens after each prompt, side by side.

        Args:
            prompts: ids of each prompt, at least one; no more prompts than ``sequences``.
            most: most tokens of an answer.
            ends: function of a prompt's number and its answer so far, asked after every token: whether it ends there.
        """
        answers: list[list[int]] = [[] for _ in prompts]
        following = [self._read(number, prompts) for number in range(len(prompts))]
        at_work = list(range(len(prompts)))
        while at_work:
            for number in at_work:
                answers[number].append(following[number])
            at_work = [n for n in at_work if len(answers[n]) < most and not ends(n, answers[n])]
            for start in range(0, len(at_work), self._most):
                part = at_work[start : start + self._most]
                step = Step(
                    (),
                    [answers[number][-1] for number in part],
                    [len(prompts[number]) + len(answers[number]) - 1 for number in part],
                    [[number] for number in part],
                    {},
                )
                replies = self._run(step, [(index, []) for index in range(len(part))])
                for number, (best, _) in zip(part, replies, strict=True):
                    following[number] = best
        return answers

    def _read(self, number: int, prompts: Sequence[Sequence[int]]) -> int:
        """Read a prompt as the sequence of its number; returns the token that follows."""
        prompt, kept = prompts[number], 0
        moves: tuple[Move, ...] = (Move("clear"),)
        if number:
            before = prompts[number - 1]
            kept = min(common_tokens(before, prompt), len(prompt) - 1) if self._shares else 0
            moves = (Move("copy", number - 1, number, kept),) if kept else ()
        replies: list[Any] = []
        for start in range(kept, len(prompt), self._most):
            part = list(prompt[start : start + self._most])
            places = list(range(start, start + len(part)))
            step = Step(moves, part, places, [[number]] * len(part), {})
            is_end = start + len(part) == len(prompt)
            replies = self._run(step, [(len(part) - 1, [])] if is_end else [])
            moves = ()
        best: int = replies[0][0]
        return best

    def _run(self, step: Step, targets: Sequence[tuple[int, list[int]]]) -> list[Any]:
        answers: list[Any] = self._loaded.call(
            "run_shared",
            [astuple(move) for move in step.moves],
            step.tokens,
            step.positions,
            step.owners,
            targets,
            seconds=run_seconds(self._path, len(step.tokens)),
        )
        return answers

    def close(self) -> None:
        """Free the native memory; further calls do nothing."""
        self._loaded.close()

    def __enter__(self) -> Continuations:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
