"""Export: from a model to a validated GGUF file by resolve, gather, allocate and write."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from ..allocation.budget import parse_budget
from ..allocation.plan import Plan
from ..blockwise.threads import restored_threads
from ..errors import InputError
from ..evidence.blocks.records import Diagnostics
from ..settings import Settings
from ..store import Cache, Run
from ..system.exclusive import one_at_a_time
from ..system.files import check_output, sweep, user_path
from ..system.jsonio import to_json
from ..system.progress import Progress, reporting_to
from ..system.schedule import Schedule, following
from .choices import check_combination, check_inputs
from .compare import check_comparison, check_makeable, compare_presets
from .gather import gather
from .job import Job, open_for, resolve, shared_cache
from .plan import allocate
from .report import ExportReport
from .steps import announced
from .write_stage import write

Files = Sequence[tuple[str | Path | None, Settings]]
"""Path and settings of each file."""


def export_model(
    model: str | Path,
    out: str | Path,
    settings: Settings,
    *,
    saved: Diagnostics | None = None,
    force: bool = False,
    compare: Sequence[str] = (),
    on_plan: Callable[[Plan], None] | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Write a mixed-precision GGUF file of ``model`` and score it.

    Args:
        model: Hugging Face directory, hub id, ``.gguf`` file or ``demo``.
        out: file to write; it appears whole or not at all.
        settings: settings of the export.
        saved: saved measurements of the same model, to skip measuring.
        force: replace an existing file.
        compare: presets of llama.cpp to make and score beside the file: their names, or ``nearest`` in size.
        on_plan: function that is called with the plan before anything is encoded.
        progress: function that receives steps and notes; None leaves the present receiver.

    Returns:
        The report.

    Raises:
        InputError: bad input; nothing is written.

    The gate ``max_ppl_ratio`` is not applied here: see ``check_gate``.
    """
    (report,) = export_models(
        model, [(out, settings)], saved=saved, force=force, compare=compare, on_plan=on_plan, progress=progress
    )
    return report


def export_models(
    model: str | Path,
    files: Files,
    *,
    saved: Diagnostics | None = None,
    force: bool = False,
    compare: Sequence[str] = (),
    others: Sequence[str | Path] = (),
    on_plan: Callable[[Plan], None] | None = None,
    on_file: Callable[[ExportReport], None] | None = None,
    progress: Progress | None = None,
) -> list[ExportReport]:
    """Write several files of one model, which is measured once.

    Args:
        model: Hugging Face directory, hub id, ``.gguf`` file or ``demo``.
        files: path and settings of each file; a path of None takes a name by llama.cpp's convention in the current
            folder. Only the budgets should differ, so that measurements are shared through the cache; without a cache
            a temporary one is used.
        saved: saved measurements of the same model, to skip measuring.
        force: replace existing files.
        compare: presets of llama.cpp to make and score beside each file: their names, or ``nearest`` in size.
        others: files that the caller writes afterwards; one that would replace a file of the export is refused.
        on_plan: function that is called with each plan before anything is encoded.
        on_file: function that is called with the report of each file when it is written.
        progress: function that receives steps and notes; None leaves the present receiver.

    Returns:
        The reports, in the order of ``files``.

    Raises:
        InputError: bad input. All budgets are checked before any work; files that were written before an error stay.
    """
    if not files:
        raise InputError("There is no file to make; give the path and the settings of one or several.")
    with ExitStack() as stack:
        stack.enter_context(reporting_to(progress))
        stack.enter_context(one_at_a_time())
        stack.enter_context(restored_threads())
        for _, settings in files:
            check_combination(settings)
            parse_budget(settings.budget)
            presets = check_comparison(settings, compare)
        check_inputs(files[0][1], writes=True)
        cache = shared_cache([settings for _, settings in files], stack)
        beside = [user_path(path) for path in others]
        explicit = [user_path(out) for out, _ in files if out is not None]
        check_distinct(explicit, beside)
        claims = {out: _claim(out, str(model), settings, cache, force, stack) for out, settings in _named(files)}
        opened = open_for(model, files[0][1], cache)
        works = []
        for out, settings in files:
            job = resolve(model, settings, saved=saved, out=out, opened=opened, name_file=True)
            assert job.out is not None
            started, replaces = claims.get(job.out) or _claim(job.out, str(model), settings, cache, force, stack)
            works.append(_Work(job, started, replaces))
        check_distinct([work.job.out for work in works if work.job.out is not None], beside)
        check_makeable(works[0].job, presets)
        schedule = announced([work.job for work in works], presets=len(presets))
        with following(schedule):
            return [_make(work, schedule, presets, on_plan, on_file) for work in works]


@dataclass(frozen=True)
class _Work:
    """A file to make: its job, the run of its command, and whether it replaces a file."""

    job: Job
    started: Run
    replaces: bool


def _named(files: Files) -> Iterator[tuple[Path, Settings]]:
    return ((user_path(out), settings) for out, settings in files if out is not None)


def _claim(out: Path, model: str, settings: Settings, cache: Cache, force: bool, stack: ExitStack) -> tuple[Run, bool]:
    """The run of the command that writes ``out``, and whether it may replace a file there."""
    command = {"model": model, "out": os.path.abspath(out), "settings": to_json(settings)}
    # A killed export resumes even if its file was written already: unfinished work is stored until all is done.
    started = stack.enter_context(cache.labelled(model).run("export", command))
    replaces = force or _is_own(out, started)
    check_output(out, force=replaces)
    sweep(out)
    return started, replaces


def _make(
    work: _Work,
    schedule: Schedule,
    presets: Sequence[str],
    on_plan: Callable[[Plan], None] | None,
    on_file: Callable[[ExportReport], None] | None,
) -> ExportReport:
    job = replace(work.job, schedule=schedule)
    with gather(job) as evidence:
        plan = allocate(job, evidence)
        if on_plan is not None:
            on_plan(plan)
        report = write(job, evidence, plan, started=work.started, replace=work.replaces)
        if presets and job.out is not None:
            try:
                compared = compare_presets(job, evidence, job.out, presets, ours=report.validation)
            except Exception:
                if on_file is not None:
                    on_file(report)  # the file is there, whatever became of the comparison
                raise
            report = replace(report, compared=compared)
    if on_file is not None:
        on_file(report)
    return report


def check_distinct(paths: Sequence[Path], others: Sequence[Path] = ()) -> None:
    """Refuse two outputs in one place.

    Args:
        paths: GGUF files.
        others: pictures and pages.

    Raises:
        InputError: the sentence names the file.
    """
    seen: set[str] = set()
    sentences = ["Two budgets would write {}; put {{budget}} into --out, e.g. model-{{budget}}.gguf."] * len(paths)
    sentences += ["Another output of this command is {} too; choose another path for one of them."] * len(others)
    for path, sentence in zip((*paths, *others), sentences, strict=True):
        real = os.path.realpath(path)
        if real in seen:
            raise InputError(sentence.format(path))
        seen.add(real)


def _is_own(out: Path, started: Run) -> bool:
    """The file at ``out`` is the one that this command wrote before it was stopped."""
    written = started.load("written")
    if written is None or not out.is_file():
        return False
    status = out.stat()
    return list(written.record) == [status.st_ino, status.st_size, status.st_mtime_ns]
