"""Prompts that the original and a file answer, always with the likeliest token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..blockwise.threads import restored_threads
from ..llama.chat import open_chat
from ..llama.template import chat_template
from ..llama.vocabulary import Vocabulary
from ..pipeline.job import open_for
from ..settings import Settings
from ..sources.base import Source
from ..store import NO_CACHE, Cache, Entry
from ..system.exclusive import one_at_a_time
from ..system.files import user_path
from ..system.memory import free_bytes
from ..system.progress import Advance, Progress, log, reporting_to, stage
from ..system.units import size_text

PROMPTS = (
    "What is the capital of Japan, and what is it known for?",
    "A train travels 60 km in 45 minutes. What is its speed in km/h?",
    "Make this sentence polite: Send me the report now.",
    "Write a Python function that returns the largest of three numbers.",
    "List five things to take along on a hike.",
)
"""A fact, arithmetic, rewriting, code, and a list."""

MAX_TOKENS = 64
"""Most tokens of an answer."""

# Of the way in which the original answers: the cache does not see changes of the code of pages.
_VERSION = 1

# PyTorch runs the original in float32, and needs some memory beside the weights.
_WEIGHT_BYTES, _BESIDE = 4, 1.1


@dataclass(frozen=True)
class Answer:
    """A prompt, and what was answered.

    Attributes:
        prompt: text of the user.
        original: answer of the unquantised model.
        file: answer of the written file.
        name: name of the file, where a page has several.
    """

    prompt: str
    original: str
    file: str
    name: str = ""


def answers_of(model: str | Path, files: Sequence[str | Path], settings: Settings) -> tuple[Answer, ...]:
    """``make_answers`` for each file of a model, which is opened once; the original's answers come from the cache.

    Args:
        model: Hugging Face directory, hub id, ``.gguf`` file or ``demo``.
        files: GGUF files that were made of it.
        settings: settings of the export.
    """
    opened = open_for(model, settings, notes=False)
    made = (make_answers(opened.source, file, threads=settings.threads, cache=opened.cache) for file in files)
    return tuple(answer for answers in made for answer in answers)


def make_answers(
    source: Source,
    file: str | Path,
    *,
    prompts: Sequence[str] = PROMPTS,
    max_tokens: int = MAX_TOKENS,
    threads: int | None = None,
    cache: Cache = NO_CACHE,
    progress: Progress | None = None,
) -> tuple[Answer, ...]:
    """Ask a written file and its original the same questions, one model in memory at a time.

    Both answer in the chat template of the file; a model without one continues the prompts. llama.cpp runs the file,
    and an original that is a GGUF file; PyTorch runs any other.

    Args:
        source: the original.
        file: GGUF file that was made of it.
        prompts: texts of the user.
        max_tokens: most tokens of an answer.
        threads: number of CPU threads, None for all cores.
        cache: cache of the original's results.
        progress: function that receives steps and notes; None leaves the present receiver.

    Returns:
        One answer a prompt; none, with a note, where the original does not fit the free memory.

    Raises:
        InputError: the file cannot be loaded, or its chat template refuses a prompt.
    """
    path = user_path(file)
    with reporting_to(progress), one_at_a_time(), restored_threads():
        parts = {"prompts": list(prompts), "tokens": max_tokens, "version": _VERSION}
        stored = cache.get("answers", parts)
        if stored is None and not _fits(source):
            return ()
        with stage("Answering prompts", len(prompts) * (1 if stored else 2)) as advance:
            answers = _from_file(path, prompts, max_tokens, threads, advance)
            if stored is None:
                if source.gguf_path is not None:
                    originals = _from_file(source.gguf_path, prompts, max_tokens, threads, advance)
                else:
                    originals = _from_source(source, path, prompts, max_tokens, threads, advance)
                stored = Entry({}, originals)
                cache.put("answers", parts, stored)
    return tuple(
        Answer(prompt, original, answer, path.name)
        for prompt, original, answer in zip(prompts, stored.record, answers, strict=True)
    )


def _fits(source: Source) -> bool:
    """The original can be run; a note says if it cannot."""
    if source.gguf_path is not None:
        return True  # llama.cpp maps a file that is larger than the memory
    needed = _WEIGHT_BYTES * _BESIDE * sum(math.prod(spec.shape) for spec in source.tensors())
    free = free_bytes()
    if needed > free:
        log(
            f"Note: the original needs {size_text(needed)} of memory to answer prompts and {size_text(free)} are free; "
            "no prompts are answered."
        )
    return needed <= free


def _from_file(path: Path, prompts: Sequence[str], max_tokens: int, threads: int | None, advance: Advance) -> list[str]:
    """Answers of a GGUF file."""
    answers = []
    with open_chat(path, max_tokens=max_tokens, temperature=0.0, seed=0, threads=threads) as chat:
        for prompt in prompts:
            answers.append("".join(chat.say(prompt)).strip())
            chat.reset()
            advance()
    return answers


def _from_source(
    source: Source, file: Path, prompts: Sequence[str], max_tokens: int, threads: int | None, advance: Advance
) -> list[str]:
    """Answers of a model that PyTorch runs, with template and tokenizer of the file, which are its own."""
    from ..blockwise.model import BlockModel  # PyTorch
    from ..blockwise.sampling import likeliest

    vocabulary, template = Vocabulary(file), chat_template(file)
    start = [vocabulary.bos_id] if vocabulary.adds_bos and vocabulary.bos_id is not None else []
    ids = []
    for prompt in prompts:
        text = prompt
        if template is not None:
            text = template.render([{"role": "user", "content": prompt}])
            text = text.removeprefix(template.bos) if start else text
        ids.append(start + vocabulary.tokenize(text, parse_special=template is not None))
    answers = []
    for written in likeliest(BlockModel(source, threads=threads), ids, max_tokens, vocabulary.ends):
        answers.append(vocabulary.detokenize(written).strip())
        advance()
    return answers
