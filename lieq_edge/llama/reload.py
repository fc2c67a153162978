"""Reload a file as a user's program would, through ``llama_cpp.Llama``, and let it write a little text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..gguf.header import read_header
from .vocabulary import captured_log

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
        seed: of the sampler; matters above temperature 0.
        temperature: 0 takes the likeliest token each time.
        context: tokens that prompt and answer may take together.
        threads: CPU threads; all cores when None.

    Raises:
        InputError: llama.cpp cannot load the file, or the prompt does not fit the context.
    """
    import llama_cpp

    if not path.is_file():
        raise InputError(f"{path} does not exist; give the path of a GGUF file.")
    options: dict[str, Any] = {"n_ctx": context, "seed": seed, "n_threads": threads, "n_threads_batch": threads}
    sampling: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    with captured_log() as errors:
        try:
            model = llama_cpp.Llama(str(path), n_gpu_layers=0, verbose=False, **options)
        except ValueError as error:
            reason = errors[0] if errors else str(error)
            raise InputError(f"llama.cpp cannot load {path} ({reason}); write the file again.") from error
        try:
            if isinstance(prompt, str):
                answer = model.create_completion(prompt, **sampling)
                return str(answer["choices"][0]["text"])
            answer = model.create_chat_completion(list(prompt), **sampling)
            return str(answer["choices"][0]["message"]["content"])
        except ValueError as error:
            raise InputError(f"{path} cannot answer the prompt ({error}); give a shorter one.") from error
        finally:
            model.close()


def reload_check(path: Path, prompt: str, *, max_tokens: int = 32, threads: int | None = None) -> str:
    """A short answer to ``prompt``, as chat where the file has a chat template, else as continued text."""
    has_template = read_header(path).get("tokenizer.chat_template") is not None
    question: str | Messages = [{"role": "user", "content": prompt}] if has_template else prompt
    return generate(path, question, max_tokens=max_tokens, threads=threads).strip()
