"""Gather: measure everything that allocation and rounding will read, once."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..allocation.base import Candidates
from ..allocation.types import candidate_types
from ..evidence.blocks.records import Diagnostics, describe
from ..evidence.importance.records import Importances
from ..evidence.loss.request import Follow, LossRequest
from ..gguf.names import block_of
from ..store import Entry, Run
from ..texts.info import TextInfo
from ..texts.windows import Windows
from .blocks import is_stored, measure_diagnostics
from .calibration import CalibrationText, ImatrixFile
from .job import Job
from .validation import reference_stored

if TYPE_CHECKING:
    from ..evidence.loss.measure import LossEvidence


@dataclass
class Evidence:
    """Measurements. Use it in a ``with`` block: unfinished work is removed at its end, or stays after an error.

    Attributes:
        diagnostics: tensors of the model, and measurements of its blocks.
        calibration: record of the calibration text, or of the imatrix file.
        importances: importances by tensor name; empty where nothing reads them.
        loss: loss weights and predicted losses; None where nothing reads them.
        work: open runs, which stay stored until all is done.
        stored: run that holds Hessians or the residual stream, if there is one.
    """

    diagnostics: Diagnostics
    calibration: TextInfo | None = None
    importances: Importances = field(default_factory=dict)
    loss: LossEvidence | None = None
    work: ExitStack = field(default_factory=ExitStack)
    stored: Run | None = None

    def release(self) -> None:
        """Drop what only rounding needs, because it is the largest thing in memory and on the disk."""
        self.loss = None
        if self.stored is not None:
            self.stored.close(done=True)

    def __enter__(self) -> Evidence:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.work.__exit__(kind, error, trace)


def gather(job: Job, *, rounding: bool = True) -> Evidence:
    """Measure the evidence of the allocator and, unless ``rounding`` is False, of the rounder.

    Args:
        job: resolved job.
        rounding: False for a plan without a file.

    Raises:
        InputError: a text is too short, or the model gives outputs that are not numbers.
    """
    if rounding:
        _check_parity(job)
    with job.step("measure"):
        diagnostics = job.saved or measure_diagnostics(job.runtime, job.blocks, job.cache)
    evidence = Evidence(diagnostics)
    with ExitStack() as work:
        evidence.work = work
        _calibrate(job, evidence, rounding)
        evidence.work = work.pop_all()
    return evidence


def _check_parity(job: Job) -> None:
    """Compare llama.cpp with transformers on a piece of the model, once for each model."""
    wanted = job.settings.parity and job.source.in_transformers and job.out is not None
    if not wanted or job.cache.get("parity", {}) is not None:
        return
    # PyTorch comes with it, and a second export of the model does without.
    from ..validate.parity import check_parity

    assert job.out is not None
    with job.step("parity"):
        check_parity(job.source, job.out.parent, threads=job.threads)
    job.cache.put("parity", {}, Entry())


def _calibrate(job: Job, evidence: Evidence, rounding: bool) -> None:
    """Fill in the measurements that are made on the calibration text."""
    if isinstance(job.calibration, ImatrixFile):
        evidence.importances, evidence.calibration = job.calibration.importances, job.calibration.info
        return
    reads_text = job.allocator.predicts or (rounding and job.rounder.reads_text)
    if not isinstance(job.calibration, CalibrationText) or not reads_text:
        return
    with job.step("calibration text"):
        windows, evidence.calibration = job.windows
    if job.allocator.predicts or job.rounder.follow is not None:
        request = _loss_request(job, evidence.diagnostics, windows)
        evidence.stored = _place_of(job, request, rounding, evidence.work)
        with job.step("loss weights"):
            evidence.loss = job.runtime.measure_loss(request, job.cache, evidence.stored)
    if rounding and job.rounder.weighs:
        with job.step("calibrate"):
            evidence.importances = _importances(job, windows)


def loss_candidates(job: Job, diagnostics: Diagnostics) -> Candidates:
    """Types whose losses are predicted, by tensor name."""
    candidates = job.allocator.candidates(diagnostics)
    if job.rounder.follow is not Follow.HESSIANS or job.allocator.predicts:
        return candidates
    # Another budget may give other types, whose losses must be known by then.
    usual = candidate_types(diagnostics.tensors, "k", strict=False)
    return {name: tuple(dict.fromkeys((*usual[name], *types))) for name, types in candidates.items()}


def _loss_request(job: Job, diagnostics: Diagnostics, windows: Windows) -> LossRequest:
    """The request; losses of block matrices are predicted only if the allocator or the rounder reads them."""
    candidates = loss_candidates(job, diagnostics)
    follow = job.rounder.follow or Follow.NOTHING
    predicts_blocks = job.allocator.predicts or follow is Follow.HESSIANS
    return LossRequest(
        windows,
        job.seed,
        blocks={name: types for name, types in candidates.items() if predicts_blocks and block_of(name) is not None},
        outer={name: types for name, types in candidates.items() if block_of(name) is None},
        follow=follow,
        weighted=job.rounder.reads_text,
        rows=job.method.rows,
    )


def _place_of(job: Job, request: LossRequest, rounding: bool, work: ExitStack) -> Run | None:
    """The run that stores the residual stream or the Hessians, if rounding reads either."""
    if request.follow is Follow.STREAM and rounding:
        return work.enter_context(job.cache.run("residual-stream", {"tokens": request.windows}))
    if request.follow is Follow.HESSIANS:
        run = work.enter_context(job.cache.run("hessians", request.text_parts))
        # For a plan alone, only a run that a later export can resume is of use.
        return run if rounding or run.resumable else None
    return None


def imatrix_of(job: Job, evidence: Evidence) -> Importances | None:
    """What llama-imatrix would measure on the job's text; None where it reads no text.

    Error feedback and allocation by loss weigh inputs by the loss and need no importances; they are measured now, if
    the cache has none.
    """
    if evidence.importances:
        return evidence.importances
    if not isinstance(job.calibration, CalibrationText):
        return None
    windows, evidence.calibration = job.windows
    return _importances(job, windows)


def _importances(job: Job, windows: Windows) -> Importances:
    parts = _importance_parts(windows)
    entry = job.cache.get("importance", parts)
    if entry is None:
        with job.cache.run("importance", parts) as run:
            entry = Entry(dict(job.runtime.measure_importances(windows, run=run)))
            job.cache.put("importance", parts, entry)
    return entry.arrays


def _importance_parts(windows: Windows) -> dict[str, Any]:
    # Whether this processor has bfloat16 products is part of every key.
    return {"tokens": windows, "bfloat16": True}


def stored_steps(job: Job) -> frozenset[str]:
    """Names of the steps whose results the cache has, as far as that is known without running the model."""
    cache, calibration = job.cache, job.calibration
    stored = {"parity"} if cache.has("parity", {}) else set()
    if is_stored(job.runtime, job.blocks, cache):
        stored.add("measure")
    if job.validation is not None and reference_stored(job.source, job.validation, cache):
        stored.add("validate")
    if isinstance(calibration, CalibrationText) and not calibration.is_written:
        windows = job.windows[0]
        request = _loss_request(job, describe(job.source), windows)
        whole = request.follow is not Follow.HESSIANS or cache.has("hessians", request.text_parts)
        predicted = not request.blocks or cache.has("loss-predictions", request.prediction_parts)
        if whole and predicted and cache.has("loss-weights", request.text_parts):
            stored.add("loss weights")
        if cache.has("importance", _importance_parts(windows)):
            stored.add("calibrate")
    return frozenset(stored)
