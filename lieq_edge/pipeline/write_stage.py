"""Write: round the tensors of a plan, write the file, and score it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from ..allocation.plan import Plan, TensorPlan
from ..llama.encoders import Packed
from ..rounding.base import RoundingTask
from ..store import Run
from ..system.files import check_space, output_target
from ..system.progress import stage
from .calibration import NoCalibration
from .gather import Evidence
from .job import Job
from .report import ExportReport, make_report
from .tuning import tune_file
from .validation import validate_export
from .write import write_model


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
    out = job.out
    target = output_target(out)
    needed = plan.file_bytes
    if job.tuning is not None:
        # The tuned file is written beside the rounded one, which has taken the place of an older file.
        older = target.stat().st_size if replace and target.is_file() else 0
        needed = max(needed, 2 * plan.file_bytes - older)
    check_space(target.parent, needed)
    wants_none = isinstance(job.calibration, NoCalibration) and job.calibration.wanted
    job.rounder.check(plan, evidence.importances, allow_none=wants_none)
    with job.step("quantize and write"), stage("Quantise and write", len(plan.tensors)) as advance:
        file_bytes = write_model(
            out,
            job.source,
            plan,
            _encode(job, evidence, plan, advance),
            calibration=evidence.calibration,
            rounding=job.rounder.name,
            tunes=job.tuning is not None,
            ready=lambda path: _finish(job, path, started),
            replace=replace,
        )
        # The end of the stage returns their memory, which scoring needs.
        evidence.release()
    tuned = None
    if job.tuning is not None:
        with job.step("tune"):
            tuned = tune_file(job, out, lambda path: _finish(job, path, started))
    validation = None
    if job.validation is not None:
        with job.step("validate"):
            validation = validate_export(out, job.source, job.validation, threads=job.threads, cache=job.cache)
    return make_report(job, evidence, plan, file_bytes, validation, tuned)


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
