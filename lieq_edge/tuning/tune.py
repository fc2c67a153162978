"""Tune a written file: train what it leaves in float, and keep the result only if it is better on held-out text."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ..blockwise.model import BlockModel
from ..gguf.header import read_header, type_name
from ..sources.base import Source
from ..store import Cache, Entry, Run
from ..system import interrupt
from ..system.progress import log, stage
from ..texts.info import Windows
from .record import Tuned, TuningRequest
from .student import Student
from .teacher import LIKELIEST, Predictions, predict
from .train import EVERY, Training

# A judgement that is less than this share below the best one sends training back to the best state, at half the rate;
# after so many halvings training ends.
_ENOUGH = 0.005
_HALVINGS = 5
_SAVE_SECONDS = 60.0
_BEST = "best "


@dataclass
class _Course:
    """What is remembered between judgements; it is stored with the training."""

    first: float
    first_other: float
    best: float
    best_step: int = 0
    seconds: float = 0.0
    curve: list[tuple[float, int, float]] = field(default_factory=list)


Tensors = dict[str, npt.NDArray[np.uint8]]
"""Bytes of tensors by name."""


def tune(
    path: Path, source: Source, request: TuningRequest, *, threads: int | None, cache: Cache, run: Run
) -> tuple[Tuned, Tensors]:
    """Train scales, norms and biases of a file. The first Ctrl-C ends training, and the best state so far counts.

    Args:
        path: GGUF file with the layout of ``source``.
        source: its original.
        request: texts and limits.
        threads: number of CPU threads; None takes all cores.
        cache: cache of this model's results.
        run: run for this file and request, to resume from.

    Returns:
        The result, and the tuned tensors; none if they are refused.
    """
    texts = _predictions(source, request, threads, cache)
    student = Student(source, tensor_reader(path), threads=threads)
    with torch.no_grad(), interrupt.caught() as asked:
        stored = run.load("training")
        if stored is not None and request.steps is not None and stored.record["counts"]["steps"] > request.steps:
            # Fewer steps give the same bytes whether more were taken before or not, and those that were stay stored.
            stored, run = None, Run(None)
        training, course, best = _start(student, request, texts, stored)
        del stored  # its arrays were copied, and take as much memory as the training
        training.suit(course.first)
        _train(training, course, best, request, texts, run, asked)
        training.put(best)
        after = training.judge(texts[2])
        if asked():
            more = " The same command with --force goes on from there." if run.resumable else ""
            log(f"Note: tuning was stopped; the best state so far is taken.{more}")
    tuned = Tuned(
        training.steps,
        course.best_step,
        course.seconds,
        (course.first, course.best),
        (course.first_other, after),
        tuple(course.curve),
    )
    if not tuned.accepted:
        return tuned, {}
    tensors = {name: matrix.packed() for name, matrix in student.matrices.items()}
    return tuned, tensors | {name: vector.values.numpy().view(np.uint8) for name, vector in student.vectors.items()}


def _start(
    student: Student, request: TuningRequest, texts: list[Predictions], stored: Entry | None
) -> tuple[Training, _Course, dict[str, torch.Tensor]]:
    """A new training, or the stored one, with its best parameters."""
    if stored is not None:
        record = stored.record
        arrays = {name: array for name, array in stored.arrays.items() if not name.startswith(_BEST)}
        best = {
            name.removeprefix(_BEST): torch.from_numpy(array.copy())
            for name, array in stored.arrays.items()
            if name.startswith(_BEST)
        }
        training = Training.restored(student, request.seed, record["counts"], arrays)
        course = _Course(**record["course"])
        course.curve = [(float(a), int(b), float(c)) for a, b, c in course.curve]
        return training, course, best
    training = Training(student, request.seed)
    first, other = (training.judge(text) for text in texts[1:])
    course = _Course(first, other, first, curve=[(0.0, 0, first)])
    return training, course, training.present()


def _train(
    training: Training,
    course: _Course,
    best: dict[str, torch.Tensor],
    request: TuningRequest,
    texts: list[Predictions],
    run: Run,
    asked: Callable[[], bool],
) -> None:
    """Train until time or steps are over, little gets better, or the user stops it; ``best`` is kept up to date."""
    limit = float("inf") if request.minutes is None else 60 * request.minutes
    most = float("inf") if request.steps is None else request.steps
    # Progress counts steps, or seconds where only the time is limited.
    total = request.steps or max(1, int(limit))
    start, saved, shown = time.monotonic() - course.seconds, time.monotonic(), 0

    def judge() -> None:
        judged = training.judge(texts[1])
        course.seconds = time.monotonic() - start
        course.curve.append((course.seconds, training.steps, judged))
        log(f"Step {training.steps}: held-out divergence {judged:.4f}, before tuning {course.first:.4f}.")
        enough = judged <= (1 - _ENOUGH) * course.best
        if judged < course.best:
            course.best, course.best_step = judged, training.steps
            best.update(training.present())
        if not enough:
            training.retreat(best)

    with stage("Tuning", total) as advance:
        while not asked() and course.seconds < limit and training.steps < most and training.slowed < _HALVINGS:
            training.step(texts[0])
            course.seconds = time.monotonic() - start
            if training.steps % EVERY == 0:
                judge()
                if time.monotonic() - saved > _SAVE_SECONDS:
                    _save(training, course, best, run)
                    saved = time.monotonic()
            done = min(training.steps if request.steps else int(course.seconds), total)
            for _ in range(done - shown):
                advance()
            shown = max(shown, done)
    # Steps since the last judgement count for this file; a later run judges where it would have without the stop.
    _save(training, course, best, run)
    if course.curve[-1][1] != training.steps:
        judge()


def _save(training: Training, course: _Course, best: dict[str, torch.Tensor], run: Run) -> None:
    """Store the training and its best parameters, in one file: they belong together."""
    arrays = {**training.state(), **{_BEST + name: value.numpy() for name, value in best.items()}}
    run.save("training", arrays, {"counts": training.counts(), "course": course.__dict__})


def _predictions(source: Source, request: TuningRequest, threads: int | None, cache: Cache) -> list[Predictions]:
    """The original's predictions for the three texts."""
    models: list[BlockModel] = []

    def make(tokens: Windows) -> Entry:
        if not models:
            models.append(BlockModel(source, threads=threads))
        made = predict(models[0], tokens)
        return Entry({"ids": made.ids, "logs": made.logs})

    found = []
    for tokens in (request.learned, request.held_out, request.other):
        parts = {"tokens": tokens, "likeliest": LIKELIEST}
        entry = cache.entry("predictions", parts, lambda tokens=tokens: make(tokens))  # type: ignore[misc]
        found.append(Predictions(tokens, entry.arrays["ids"], entry.arrays["logs"]))
    return found


def tensor_reader(path: Path) -> Callable[[str], tuple[str, npt.NDArray[np.uint8]]]:
    """A function that reads tensors of a GGUF file."""
    tensors = {tensor.name: tensor for tensor in read_header(path).tensors}

    def read(name: str) -> tuple[str, npt.NDArray[np.uint8]]:
        tensor = tensors[name]
        content = np.fromfile(path, np.uint8, tensor.nbytes, offset=tensor.offset)
        rows = tensor.shape[0] if len(tensor.shape) > 1 else 1
        return type_name(tensor.type), content.reshape(rows, -1)

    return read
