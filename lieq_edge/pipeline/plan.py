"""Allocate: from evidence to a plan; plans and measurements without an export."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from ..allocation import by_loss
from ..allocation.budget import parse_budget
from ..allocation.plan import Plan
from ..blockwise.threads import restored_threads
from ..errors import InputError
from ..evidence.blocks.metrics import GEOMETRY
from ..evidence.blocks.records import Diagnostics
from ..settings import Settings
from ..system.exclusive import one_at_a_time
from ..system.progress import Progress, reporting_to
from ..system.schedule import following
from .blocks import measure_diagnostics
from .choices import check_combination, check_inputs, choose_allocator
from .gather import Evidence, gather
from .job import Job, check_saved, note_ceiling, open_for, resolve, shared_cache
from .outputs import check_different
from .steps import announced


def allocate(job: Job, evidence: Evidence) -> Plan:
    """The type of every tensor.

    Raises:
        InputError: the budget is out of reach, or the rounding would ruin a type.
    """
    losses = {}
    if job.allocator.predicts:
        assert evidence.loss is not None
        for name, by_type in evidence.loss.losses.items():
            losses[name] = {kind: job.rounder.predicted(loss) for kind, loss in by_type.items()}
    with job.step("allocate"):
        return job.allocator.plan(evidence.diagnostics, job.budget, losses)


def plan_model(
    model: str | Path, settings: Settings, saved: Diagnostics | None = None, *, progress: Progress | None = None
) -> Plan:
    """Measure a model and share out the bits as ``export_model`` would; nothing is written.

    Args:
        model: Hugging Face directory, hub id, ``.gguf`` file or ``demo``.
        settings: settings of the export.
        saved: saved measurements of the same model, to skip measuring.
        progress: function that receives steps and notes.

    Raises:
        InputError: bad input.
    """
    return plan_models(model, [settings], saved, progress=progress)[0]


def plan_models(
    model: str | Path,
    settings: Sequence[Settings],
    saved: Diagnostics | None = None,
    *,
    progress: Progress | None = None,
) -> list[Plan]:
    """The plans of several exports, whose settings should differ in the budget only: the model is measured once.

    Args:
        model: Hugging Face directory, hub id, ``.gguf`` file or ``demo``.
        settings: settings of each export.
        saved: saved measurements of the same model, to skip measuring.
        progress: function that receives steps and notes.

    Raises:
        InputError: bad input.
    """
    if not settings:
        raise InputError("There is nothing to plan; give the settings of one export or several.")
    with ExitStack() as stack:
        for context in (reporting_to(progress), one_at_a_time(), restored_threads()):
            stack.enter_context(context)
        check_different(settings)
        for each in settings:
            check_combination(each)
        check_inputs(settings[0], writes=False)
        opened = open_for(model, settings[0], shared_cache(settings, stack))
        jobs = [resolve(model, each, saved=saved, opened=opened) for each in settings]
        schedule = announced(jobs)
        plans = []
        with following(schedule):
            for job in jobs:
                with gather(replace(job, schedule=schedule), rounding=False) as evidence:
                    plans.append(allocate(job, evidence))
        return plans


def plan_saved(saved: Diagnostics, settings: Settings) -> Plan:
    """Share out the bits from saved measurements alone, without the model.

    Raises:
        InputError: bad input, or the metric needs the model.
    """
    check_combination(settings)
    allocator = choose_allocator(settings, _metric_of(settings))
    if allocator.predicts:
        raise InputError(
            f"The metric {allocator.metric} needs the model itself; give it instead of saved measurements."
        )
    check_saved(saved, settings)
    budget = parse_budget(settings.budget)
    if budget.kind in ("preset", "fit"):
        raise InputError(f"The size of {budget.text} depends on the model; give it instead of saved measurements.")
    allocator.check(saved, budget)
    note_ceiling(allocator, saved, budget)
    return allocator.plan(saved, budget, {})


def _metric_of(settings: Settings) -> str:
    """The metric for saved measurements of the blocks."""
    if settings.metric is not None:
        return settings.metric
    return by_loss.NAME if settings.type_choices else GEOMETRY


def analyze_model(model: str | Path, settings: Settings, *, progress: Progress | None = None) -> Diagnostics:
    """Measure the blocks of a model as the settings say; the budget is not read.

    Raises:
        InputError: bad input.
    """
    with reporting_to(progress), one_at_a_time(), restored_threads():
        job = resolve(model, settings)
        return measure_diagnostics(job.runtime, job.blocks, job.cache)
