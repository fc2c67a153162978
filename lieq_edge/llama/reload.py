"""Reload a file as a user's program would, through ``llama_cpp.Llama``, and let it write a little text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from ..gguf.header import read_header
from .child import encoded_path, shared
from .limits import load_seconds, run_seconds

Messages = Sequence[dict[str, str]]


def generate(
    path: Path,
    prompt: str | Messages,
    *,
    max_tokens: int = 64,
    seed: int = 0,
    temperature: float = 0.0,
    context: int = 1024,
    threads: int | None = None,
) -> str:
    """Text that the GGUF file ``path`` writes after ``prompt``.

    Args:
        path: the file.
        prompt: plain text to continue, or chat messages (``role``, ``content``) for the file's chat template.
        max_tokens: most tokens to write.
        seed: seed of the sampler; it matters above temperature 0.
        temperature: temperature of the sampler; 0 takes the likeliest token each time.
        context: tokens that prompt and answer may take together.
        threads: CPU threads; all cores when None.

    Raises:
        InputError: llama.cpp cannot load the file or ends on it, or the prompt does not fit the context.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; give the path of a GGUF file.")
    options = {
        "label": str(path),
        "model": {"n_ctx": context, "seed": seed, "n_threads": threads, "n_threads_batch": threads},
        "sampling": {"max_tokens": max_tokens, "temperature": temperature, "seed": seed},
    }
    child = shared()
    child.allow_memory(path)
    text: str = child.call(
        "generate",
        encoded_path(path),
        prompt if isinstance(prompt, str) else list(prompt),
        options,
        label=str(path),
        seconds=load_seconds(path) + run_seconds(path, context + max_tokens),
    )
    return text


def reload_check(path: Path, prompt: str, *, max_tokens: int = 32, threads: int | None = None) -> str:
    """A short answer to ``prompt``, as chat where the file has a chat template, else as continued text."""
    has_template = read_header(path).get("tokenizer.chat_template") is not None
    question: str | Messages = [{"role": "user", "content": prompt}] if has_template else prompt
    return generate(path, question, max_tokens=max_tokens, threads=threads).strip()
