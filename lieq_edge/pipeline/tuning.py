"""Tuning of a written file: its text and limits, and the file that takes the place of the rounded one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from gguf import GGUFValueType

from ..errors import InputError
from ..gguf.container import ARCHITECTURE_KEY, KeyValue, write_container
from ..gguf.header import Header, StoredTensor, read_header, type_name
from ..gguf.storage import storage_type
from ..sources.checks import hash_files
from ..system.files import atomic_path
from ..system.progress import log
from ..texts.documentation import stdlib_code
from ..texts.windows import (
    CALIBRATION_CONTEXT,
    CALIBRATIONS,
    Windows,
    builtin_text,
    calibration_windows,
    longest_window,
    text_windows,
)
from ..tuning.record import Tuned, TuningRequest

if TYPE_CHECKING:
    from ..sources.base import Source
    from .job import Job

STEPS_KEY = "lieq.tuning_steps"
"""Key of the step whose values are in the file; 0 for a file that was not tuned."""

_HELD_OUT, _MOST_HELD_OUT, _OTHER_WINDOWS = 8, 8, 8
_LEAST_WINDOWS = 2 * _HELD_OUT


@dataclass(frozen=True)
class TuningChoice:
    """The tuning that the settings ask for.

    Attributes:
        text: calibration text, as in ``CalibrationText``.
        tokens: tokens to tune on, of which an eighth is held out, 8 windows at most.
        minutes: time for training; None for no limit.
        steps: largest number of steps; None for no limit.
    """

    text: str
    tokens: int
    minutes: float | None
    steps: int | None


def lacking(source: Source, text: str, tokens: int) -> tuple[str, str] | None:
    """What is missing in a text to tune on, and what to do; None if it is enough.

    Raises:
        InputError: the text cannot be read, or is shorter than one window.
    """
    context = longest_window(source, CALIBRATION_CONTEXT)
    least = _LEAST_WINDOWS * context
    if tokens < least:
        return f"{tokens} tokens are fewer than {_LEAST_WINDOWS} windows of {context}", f"give --tune-tokens {least}"
    if text in CALIBRATIONS:
        return None
    windows, info = calibration_windows(source, text, tokens=least)
    if len(windows) < _LEAST_WINDOWS:
        count = f"{len(windows)} window{'s' * (len(windows) != 1)}"
        return f"{info.name} has {count} of {context} tokens, and {_LEAST_WINDOWS} are needed", "give a longer text"
    return None


def steps_key(steps: int) -> KeyValue:
    """The key-value that says how a file was tuned."""
    return KeyValue(STEPS_KEY, steps, GGUFValueType.UINT32)


def tune_file(job: Job, path: Path, ready: Callable[[Path], None]) -> Tuned:
    """Tune a written file, and replace it if that is better on held-out text.

    Args:
        job: resolved job with a tuning.
        path: the file, with ``STEPS_KEY``.
        ready: function that is called with the whole tuned file before it takes the name.

    Raises:
        InputError: the text is too short, or the disk fails; the rounded file stays.
    """
    # PyTorch comes with it, which only a job that tunes needs.
    from ..tuning.tune import tune

    request = _request(job)
    header = read_header(path)
    parts = {"tuning": request.parts, "file": hash_files([path], named=False)}
    with job.cache.run("tuning", parts) as run:
        tuned, tensors = tune(path, job.source, request, threads=job.threads, cache=job.cache, run=run)
    if tuned.accepted:
        _rewrite(path, header, tensors, tuned.best_step, ready)
    else:
        log(f"Note: the file stays as it was rounded: {tuned.reason}.")
    return tuned


def _request(job: Job) -> TuningRequest:
    choice, source = job.tuning, job.source
    assert choice is not None
    windows, info = calibration_windows(
        source, choice.text, tokens=choice.tokens, seed=job.seed, write=job.runtime.write_text, cache=job.cache
    )
    if len(windows) < _LEAST_WINDOWS:
        raise InputError(
            f"--tune needs {_LEAST_WINDOWS} windows of text, and {info.name} gives {len(windows)}; give a longer "
            "--calibration text, or --tune 0."
        )
    # Evenly spread: texts of several kinds come one kind after the other.
    held = min(_MOST_HELD_OUT, len(windows) // _HELD_OUT)
    is_held = np.zeros(len(windows), np.bool_)
    is_held[np.arange(1, held + 1) * len(windows) // held - 1] = True
    return TuningRequest(windows[~is_held], windows[is_held], _other(job), choice.minutes, choice.steps, job.seed)


def _other(job: Job) -> Windows:
    """Windows of a text of another kind than the one that is learned."""
    source, choice = job.source, job.tuning
    assert choice is not None
    context = longest_window(source, CALIBRATION_CONTEXT)
    tokens = _OTHER_WINDOWS * context
    if choice.text in ("docs", "mixed"):
        return calibration_windows(source, "builtin", tokens=tokens, seed=job.seed)[0]
    if choice.text == "builtin":  # which documentation follows where more tokens are wanted
        return text_windows(source, *stdlib_code(6 * tokens), tokens=tokens, context=context)[0]
    return text_windows(source, *builtin_text("probe"), tokens=tokens, context=context)[0]


def _rewrite(
    path: Path,
    header: Header,
    tensors: Mapping[str, npt.NDArray[np.uint8]],
    step: int,
    ready: Callable[[Path], None],
) -> None:
    """Write the file again with other bytes of some tensors."""
    metadata = [steps_key(step) if kv.key == STEPS_KEY else kv for kv in header.metadata]
    architecture = next(kv.value for kv in metadata if kv.key == ARCHITECTURE_KEY)
    entries = [(tensor.name, tensor.shape, storage_type(type_name(tensor.type))) for tensor in header.tensors]
    try:
        with atomic_path(path) as temporary:
            write_container(temporary, architecture, metadata, entries, _contents(path, header.tensors, tensors))
            ready(temporary)
    except OSError as error:
        raise InputError(
            f"Writing the tuned {path} failed: {error.strerror or error}; the file before tuning is there."
        ) from error


def _contents(
    path: Path, stored: tuple[StoredTensor, ...], changed: Mapping[str, npt.NDArray[np.uint8]]
) -> Iterator[npt.NDArray[np.uint8]]:
    for tensor in stored:
        if tensor.name in changed:
            yield changed[tensor.name]
        else:
            yield np.fromfile(path, np.uint8, tensor.nbytes, offset=tensor.offset)
