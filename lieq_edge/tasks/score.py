"""Score files on tasks, and the original on the same items."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import InputError
from ..gguf.splits import first_part
from ..llama.model_file import check_file
from ..presets.original import written_original
from ..sources import open_source
from ..sources.base import TokenizingSource
from ..store import NO_CACHE, Cache, open_cache
from ..system.exclusive import one_at_a_time
from ..system.files import user_path
from ..system.fingerprint import Fingerprints
from ..system.progress import Progress, log, reporting_to, step_of
from ..system.schedule import Schedule, Step, following
from ..validate.scored import short_names
from .answers import Answers
from .encoding import Encoder
from .harness import LoadedTask, check_harness, load_tasks, measure_task
from .paired import Measured, pool, score
from .records import TaskScore, TaskScores

_STEP = "task"
# About how long an item takes for each byte of a model.
_SECONDS = 1.5e-9


def score_tasks(
    files: Sequence[str | Path],
    reference: str | Path | None = None,
    *,
    tasks: Sequence[str],
    limit: int | None = None,
    threads: int | None = None,
    cache: bool = True,
    cache_dir: Path | None = None,
    allow_code: bool = False,
    progress: Progress | None = None,
) -> tuple[TaskScores, ...]:
    """Score GGUF files on tasks of lm-evaluation-harness, and a reference on the same items.

    All of them run through llama.cpp on the CPU; a reference that is not GGUF is first written as GGUF with 16 bits, in
    the folder for temporary files. Answers are stored in the cache as they come, so that a killed run resumes.

    Args:
        files: GGUF files to score, named without their folder if they lie in the same one.
        reference: GGUF file, or any model that can be opened; None scores the files alone.
        tasks: names of tasks, groups or tags of the harness, also with ``*``; or paths of YAML files.
        limit: most items of a task, from the first; None takes all.
        threads: number of CPU threads, None for all cores.
        cache: False computes everything again and stores nothing.
        cache_dir: folder of the cache; None takes ``LIEQ_CACHE_DIR`` or the platform's folder.
        allow_code: YAML files may name Python code, which is run.
        progress: function that receives steps and notes.

    Returns:
        The scores of each file: a row for each task and metric, and for groups one more over all their items.

    Raises:
        InputError: the harness is not installed, a task is unknown or cannot be loaded, or a model cannot be read.
    """
    paths = [user_path(file) for file in files]
    names = [name.strip() for name in tasks if name.strip()]
    if not paths:
        raise InputError("There is no file to score; give one GGUF file or several.")
    if not names:
        raise InputError("There is no task to score; name one, e.g. --tasks arc_easy.")
    if limit is not None and limit < 1:
        raise InputError(f"Cannot score {limit} items; ask for at least 1.")
    check_harness()
    for path in paths:
        check_file(first_part(path), str(path))
    with reporting_to(progress), one_at_a_time(), contextlib.ExitStack() as stack:
        store = open_cache(cache_dir, threads=threads) if cache else NO_CACHE
        models = [_Model(str(first_part(path)), path.name, store, threads) for path in paths]
        original = None
        if reference is not None:
            original = _Model(str(reference), "the original", store, threads)
            for warning in original.source.warnings:
                log(f"Note: {warning}")
        loaded = load_tasks(names, limit=limit, allow_code=allow_code)
        everyone = [*models, *([] if original is None else [original])]
        schedule = _schedule(everyone, loaded)
        stack.enter_context(following(schedule))
        measured = [one.measure(schedule, loaded, limit) for one in everyone]
        theirs = measured[-1] if original is not None else None
        name = None if original is None else original.source.label
        return tuple(
            TaskScores(label, model.file_bytes, name, _scores(mine, theirs, loaded))
            for label, model, mine in zip(short_names(paths), models, measured, strict=False)
        )


class _Model:
    """A model to score.

    Attributes:
        source: the opened model.
        title: name for progress.
        file_bytes: size of its files.
    """

    def __init__(self, model: str, title: str, store: Cache, threads: int | None) -> None:
        source = open_source(model)
        assert isinstance(source, TokenizingSource)
        self.source, self.title, self._threads = source, title, threads
        prints = Fingerprints()
        for path in source.read_files:
            prints.remember(path)
        self.file_bytes = sum(path.stat().st_size for path in source.read_files)
        self._cache = store.about(model=source.content_hash).guarded(prints.check).labelled(source.label)
        source.use_cache(self._cache)

    def measure(self, schedule: Schedule, loaded: Sequence[LoadedTask], limit: int | None) -> list[Measured]:
        """What it gives for all tasks."""
        from .model import LlamaModel  # the harness

        with contextlib.ExitStack() as stack:
            answers = Answers(
                self._file(stack), self.source.vocabulary, self._cache, label=self.source.label, threads=self._threads
            )
            encoder = Encoder(self.source)
            measured: list[Measured] = []
            for task in loaded:
                with step_of(schedule, _STEP):
                    model = LlamaModel(encoder, answers, f"{task.name}, {self.title}")
                    measured += measure_task(task, model, limit=limit)
            return measured

    def _file(self, stack: contextlib.ExitStack) -> Callable[[], Path]:
        """A function that gives the GGUF file, which is written when it is first needed and removed with ``stack``."""
        places: list[Path] = []

        def place() -> Path:
            if not places:
                own = self.source.gguf_path
                beside = Path(tempfile.gettempdir())
                places.append(own if own is not None else stack.enter_context(written_original(self.source, beside)))
            return places[0]

        return place


def _schedule(models: Sequence[_Model], loaded: Sequence[LoadedTask]) -> Schedule:
    """A step for each model and task."""
    return Schedule(
        [
            Step(_STEP, f"Score {model.title} on {task.name}", max(1.0, _SECONDS * task.items * model.file_bytes))
            for model in models
            for task in loaded
        ]
    )


def _scores(mine: list[Measured], theirs: list[Measured] | None, loaded: Sequence[LoadedTask]) -> tuple[TaskScore, ...]:
    """A row for each task and metric, and for each group of the user's."""
    own = [*mine, *_pooled(mine, loaded)]
    others = {} if theirs is None else {(one.task, one.metric): one for one in [*theirs, *_pooled(theirs, loaded)]}
    return tuple(score(one, others.get((one.task, one.metric))) for one in own)


def _pooled(measured: Sequence[Measured], loaded: Sequence[LoadedTask]) -> list[Measured]:
    pooled: list[Measured] = []
    for group in dict.fromkeys(name for task in loaded for name in task.groups):
        members = {task.name for task in loaded if group in task.groups}
        pooled += pool([one for one in measured if one.task in members], group)
    return pooled
