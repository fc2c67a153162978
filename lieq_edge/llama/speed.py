"""Speed, load time and memory of a GGUF file in llama.cpp on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median

from ..errors import InputError
from ..gguf.splits import first_part
from ..system.files import user_path
from ..system.progress import stage
from ..system.threads import available_threads
from .child import Child, encoded_path
from .limits import LOAD_SECONDS, load_seconds, run_seconds
from .model_file import check_file, check_positions

# Tokens before the measurements of decoding.
_WARM_UP = 4


@dataclass(frozen=True)
class Speed:
    """Medians of several measurements.

    Attributes:
        prefill: tokens a second of a prompt, which go through the model together.
        decode: tokens a second of an answer, which go through the model one after the other.
        load_seconds: time to load the file and to make a context; the file has been read before.
        peak_bytes: largest resident size of llama.cpp's process; mapped pages of the file count.
        threads: CPU threads.
        prompt: tokens of the prompt.
        generated: tokens of the answer.
    """

    prefill: float
    decode: float
    load_seconds: float
    peak_bytes: int
    threads: int
    prompt: int
    generated: int


def measure_speed(
    path: str | Path,
    *,
    prompt: int = 256,
    generated: int = 64,
    repeats: int = 3,
    threads: int | None = None,
    quickest: bool = False,
    title: str | None = None,
) -> Speed:
    """Measure a GGUF file as llama-bench does: prompt and answer apart, each from an empty memory, after a warm-up.

    llama.cpp runs in a process of its own that ends with the measurement, so that ``peak_bytes`` is of this file alone.

    Args:
        path: the file, or the first of several parts.
        prompt: tokens of the prompt.
        generated: tokens of the answer.
        repeats: measurements, whose medians are reported.
        threads: CPU threads; all cores when None.
        quickest: take the quickest measurements instead of the medians: others may be at work on the machine.
        title: name of the work for the user; by default it names the file.

    Raises:
        InputError: a number is below 1, the file is missing, or llama.cpp refuses it or ends on it.
    """
    given = {"prompt": prompt, "generated": generated, "repeats": repeats, "threads": threads}
    for name, value in given.items():
        if value is not None and value < 1:
            raise InputError(f"{name} has to be at least 1; got {value}.")
    path = first_part(user_path(path))
    label = str(path)
    check_file(path, label)
    context = max(prompt, generated)
    check_positions(path, label, context, "measure fewer tokens")
    cores = threads or available_threads()
    options = {"context": context, "threads": cores}
    child = Child()
    try:
        child.allow_memory(path)

        def load() -> tuple[int, float]:
            limit = load_seconds(path)
            facts = child.call("load_timed", encoded_path(path), label, options, label=label, seconds=limit)
            return facts["handle"], facts["seconds"]

        def seconds(function: str, tokens: int) -> float:
            taken: float = child.call(function, handle, tokens, label=label, seconds=run_seconds(path, tokens))
            return taken

        loads: list[float] = []
        prefills: list[float] = []
        decodes: list[float] = []
        with stage(title or f"Measuring the speed of {path.name}", repeats + 1) as advance:
            handle, _ = load()  # brings the file into memory
            for _ in range(repeats):
                child.release(handle)
                handle, taken = load()
                loads.append(taken)
            seconds("time_prefill", prompt)
            seconds("time_decode", min(generated, _WARM_UP))
            advance()
            for _ in range(repeats):
                prefills.append(seconds("time_prefill", prompt))
                decodes.append(seconds("time_decode", generated))
                advance()
        peak: int = child.call("peak_bytes", label=label, seconds=LOAD_SECONDS)
    finally:
        child.kill()

    def take(values: list[float]) -> float:
        return min(values) if quickest else median(values)

    return Speed(
        prefill=prompt / take(prefills),
        decode=generated / take(decodes),
        load_seconds=take(loads),
        peak_bytes=peak,
        threads=cores,
        prompt=prompt,
        generated=generated,
    )
