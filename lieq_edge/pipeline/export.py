"""Export: from a model to a validated GGUF file by resolve, gather, allocate and write."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ..allocation.plan import Plan, TensorPlan
from ..blockwise.threads import restored_threads
from ..evidence.blocks.records import Diagnostics
from ..llama.encoders import Packed
from ..rounding.base import RoundingTask
from ..settings import Settings
from ..store import Run
from ..system.exclusive import one_at_a_time
from ..system.files import check_output, check_space, output_target, sweep
from ..system.jsonio import to_json
from ..system.progress import Progress, reporting_to, stage
from .calibration import NoCalibration
from .gather import Evidence, gather
from .job import Job, cache_of, resolve
from .plan import allocate
from .report import ExportReport, make_report
from .validation import validate_export
from .write import write_model


def export_model(
    model: str | Path,
    out: str | Path,
    settings: Settings,
    *,
    saved: Diagnostics | None = None,
    force: bool = False,
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
        on_plan: function that is called with the plan before anything is encoded.
        progress: function that receives steps and notes; None leaves the present receiver.

    Returns:
        The report.

    Raises:
        InputError: bad input; nothing is written.

    The gate ``max_ppl_ratio`` is not applied here: see ``check_gate``.
    """
    model, out = str(model), Path(out).expanduser()
    cache = cache_of(settings)
    command = {"model": model, "out": os.path.abspath(out), "settings": to_json(settings)}
    # A killed export resumes even if its file was written already: unfinished work is stored until all is done.
    with (
        reporting_to(progress),
        one_at_a_time(),
        restored_threads(),
        cache.labelled(model).run("export", command) as started,
    ):
        replace = force or _is_own(out, started)
        check_output(out, force=replace)
        sweep(out)
        job = resolve(model, settings, saved=saved, out=out, cache=cache)
        with gather(job) as evidence:
            plan = allocate(job, evidence)
            if on_plan is not None:
                on_plan(plan)
            return write(job, evidence, plan, started=started, replace=replace)


def write(
    job: Job, evidence: Evidence, plan: Plan, *, started: Run | None = None, replace: bool = False
) -> ExportReport:
    """Round, write, and score the file.

    Args:
        job: resolved job with an output file.
        evidence: measurements; those that only rounding needs are released.
        plan: types of all tensors.
        started: run of the whole command, which remembers a finished file.
        replace: True replaces an existing file, even one that appeared meanwhile.

    Raises:
        InputError: the rounding would ruin a type of the plan, or the disk has too little space.
    """
    assert job.out is not None
    out, watch = job.out, job.watch
    check_space(output_target(out).parent, plan.file_bytes)
    wants_none = isinstance(job.calibration, NoCalibration) and job.calibration.wanted
    job.rounder.check(plan, evidence.importances, allow_none=wants_none)
    with watch.measure("quantize and write"), stage("Quantise and write", len(plan.tensors)) as advance:
        file_bytes = write_model(
            out,
            job.source,
            plan,
            _encode(job, evidence, plan, advance),
            calibration=evidence.calibration,
            rounding=job.rounder.name,
            ready=lambda path: _finish(job, path, started),
            replace=replace,
        )
        # The end of the stage returns their memory, which scoring needs.
        evidence.release()
    validation = None
    if job.validation is not None:
        with watch.measure("validate"):
            validation = validate_export(out, job.source, job.validation, threads=job.threads, cache=job.cache)
    return make_report(job, evidence, plan, file_bytes, validation)


def _encode(
    job: Job, evidence: Evidence, plan: Plan, advance: Callable[[], None]
) -> Iterator[tuple[TensorPlan, Packed]]:
    """The tensors of the plan, rounded. Rounded blocks stay stored until all work is done."""
    parts = job.rounder.resume_parts(plan, evidence.loss)
    run = Run(None) if parts is None else evidence.work.enter_context(job.cache.run("rounding", parts))
    task = RoundingTask(job.source, plan, evidence.importances, evidence.loss, job.threads, run, job.cache)
    for tensor, packed in job.rounder.encode(task):
        advance()
        yield tensor, packed


def _finish(job: Job, path: Path, started: Run | None) -> None:
    """Check the model once more, then note the finished file before it gets its name: so it is known afterwards."""
    job.files.check()
    _remember(path, started)


def _remember(path: Path, started: Run | None) -> None:
    """Record the finished file before it gets its name, so that a later run recognises it."""
    if started is not None:
        status = path.stat()
        started.save("written", {}, [status.st_ino, status.st_size, status.st_mtime_ns])


def _is_own(out: Path, started: Run) -> bool:
    """The file at ``out`` is the one that this command wrote before it was stopped."""
    written = started.load("written")
    if written is None or not out.is_file():
        return False
    status = out.stat()
    return list(written.record) == [status.st_ino, status.st_size, status.st_mtime_ns]
