"""Measure a model and share out the bits: the first half of an export, and all of ``plan``."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from ..allocate.budget import parse_budget
from ..allocate.loss import make_loss_plan
from ..allocate.plan import Plan, PlanOptions, make_plan
from ..errors import InputError
from ..evidence.blocks.metrics import NEEDS
from ..evidence.blocks.records import Diagnostics, TextInfo
from ..gguf.types import is_matrix
from ..settings import ExportSettings
from ..store import NO_CACHE, Cache, Run, open_cache, parse_size
from ..system.memory import Stopwatch
from ..system.progress import log

if TYPE_CHECKING:
    from ..rounding.sequential import FeedbackInputs
    from ..sources.base import Source
    from ..texts.windows import Windows


def open_model(model: str, settings: ExportSettings) -> Source:
    """Open ``model`` as the settings say, and tell its warnings.

    Raises:
        InputError: there is no such model, it is damaged, or it is of a kind that is not read.
    """
    from ..sources import open_source

    source = open_source(model, revision=settings.revision, lora=settings.lora, allow_pickle=settings.allow_pickle)
    follows_loss = settings.metric == "loss" or settings.feeds_back
    if follows_loss and any(len(tensor.shape) > 2 for tensor in source.tensors()):
        raise InputError(
            f"{model} is a mixture of experts, on which the metric loss and --rounding feedback do not work yet; "
            "choose another --metric and --rounding imatrix."
        )
    # The tokenizer is settled, or refused, before anything else; it may have something to tell, too.
    _ = source.adds_bos
    for warning in source.warnings:
        log(f"Note: {warning}")
    return source


# Feedback learns on some windows of this many tokens and is judged on others.
_LEAST_FEEDBACK_TOKENS = 1024


def settle_rounding(source: Source, settings: ExportSettings) -> ExportSettings:
    """The settings with a rounding: feedback, unless the user chose, wherever the model and the text allow it."""
    if settings.rounding is not None:
        return settings
    dense = all(len(tensor.shape) < 3 for tensor in source.tensors())
    enough = settings.calibration_tokens is None or settings.calibration_tokens >= _LEAST_FEEDBACK_TOKENS
    text = settings.calibration != "none" and settings.imatrix is None
    follows = source.in_transformers and dense and enough and text
    return replace(settings, rounding="feedback" if follows else "imatrix")


def cache_of(settings: ExportSettings) -> Cache:
    """The cache that the settings name.

    Raises:
        InputError: its limit is no size.
    """
    limit = parse_size(settings.cache_limit)
    return open_cache(settings.cache_dir, limit=limit, threads=settings.threads) if settings.cache else NO_CACHE


def about_model(cache: Cache, source: Source) -> Cache:
    """The cache for results of one model, whose hash is over its weights, configuration and tokenizer."""
    return cache.about(model=source.content_hash)


def analyze_model(
    source: Source, settings: ExportSettings, metrics: frozenset[str] | None = None, *, cache: Cache | None = None
) -> Diagnostics:
    """Measure the blocks of a model as the settings say.

    Args:
        source: the model.
        settings: metric, projections, baseline, probe and seed are read.
        metrics: what to measure out of ``geometry`` and ``saliency``; None takes what the metric needs.
        cache: for results of this model; None takes that of the settings.
    """
    needed = NEEDS[settings.metric] if metrics is None else metrics
    if not needed:
        from ..evidence.blocks.measure import describe

        return describe(source)
    from ..evidence.blocks.measure import analyze

    return analyze(
        source,
        metrics=set(needed),
        projections=settings.projections,
        baseline=settings.baseline,
        seeds=tuple(range(settings.seed, settings.seed + 3)),
        probe_text=settings.probe_text,
        probe_tokens=settings.probe_tokens,
        threads=settings.threads,
        cache=about_model(cache_of(settings), source) if cache is None else cache,
    )


def plan_options(settings: ExportSettings) -> PlanOptions:
    """The part of the settings that allocation reads."""
    return PlanOptions(
        metric=settings.metric,
        levels=settings.levels,
        token_embedding_type=settings.token_embedding_type,
        output_type=settings.output_type,
        strict_types=settings.strict_types,
        seed=settings.seed,
        granularity=settings.granularity or ("tensor" if settings.metric == "loss" else "block"),
    )


def plan_model(model: str, settings: ExportSettings, diagnostics: Diagnostics | None = None) -> Plan:
    """Measure a model and share out the bits as ``export_model`` would; nothing is written.

    Args:
        model: Hugging Face directory, hub id, ``.gguf`` file or ``demo``.
        settings: of the export.
        diagnostics: saved measurements of the same model, to skip measuring.

    Raises:
        InputError: bad input.
    """
    parse_budget(settings.budget)
    source = open_model(model, settings)
    settings = settle_rounding(source, settings)
    check_runnable(source, settings, diagnostics)
    cache = about_model(cache_of(settings), source)
    measured = measure_blocks(source, settings, diagnostics, cache)
    tokens = calibration_tokens(source, settings, cache)[0] if settings.metric == "loss" else None
    with contextlib.ExitStack() as work:
        waiting = None
        if tokens is not None and settings.rounding == "feedback-once":
            # For an export later on; without a cache it would be for nothing.
            moments = work.enter_context(moments_run(cache, tokens, settings))
            waiting = moments if moments.resumable else None
        return plan_and_measure(source, measured, settings, tokens, Stopwatch(), cache, waiting)[0]


def moments_run(cache: Cache, tokens: Windows, settings: ExportSettings) -> Run:
    """Where H of all blocks is kept, for this budget and others."""
    from ..evidence.loss.measure import moments_parts

    return cache.run("moments", moments_parts(tokens, settings.seed))


def check_runnable(source: Source, settings: ExportSettings, saved: Diagnostics | None) -> None:
    """Refuse measurements that need PyTorch for a model that only llama.cpp runs, before any time is spent."""
    if source.in_transformers:
        return
    from ..evidence.blocks.measure import check_measurable

    by_loss = settings.metric == "loss"
    if by_loss or settings.feeds_back:
        flag, instead = ("--metric loss", "geometry") if by_loss else (f"--rounding {settings.rounding}", "imatrix")
        raise InputError(
            f"{source.label} ({source.architecture}) is run through llama.cpp, which gives no gradients for {flag}; "
            f"take {instead} instead."
        )
    check_measurable(source, NEEDS[settings.metric] if saved is None else frozenset(), settings.baseline)


def measure_blocks(
    source: Source, settings: ExportSettings, saved: Diagnostics | None, cache: Cache = NO_CACHE
) -> Diagnostics:
    """Saved measurements, if they are of this model, or new ones."""
    if saved is not None:
        if saved.model_hash != source.content_hash:
            raise InputError(f"The saved measurements are of another model ({saved.model}); run analyze again.")
        return saved
    if settings.metric != "loss":
        from ..evidence.blocks.measure import describe

        # Which budgets, levels and types are possible does not depend on the scores: told before the model is run.
        make_plan(describe(source), settings.budget, replace(plan_options(settings), metric="first"))
    return analyze_model(source, settings, cache=cache)


# H of n columns is of full rank from n tokens on, and worth following from a few times as many.
_LEAST_TOKENS, _TOKENS_A_COLUMN, _WINDOW = 16384, 3, 512


def default_tokens(source: Source, settings: ExportSettings) -> int:
    """Tokens to calibrate on unless the user says: where the loss is followed, more for models with wider rows."""
    if settings.metric != "loss" and not settings.feeds_back:
        return 8192
    widest = max(spec.shape[-1] for spec in source.tensors() if is_matrix(spec.name, spec.shape))
    return max(_LEAST_TOKENS, -(-_TOKENS_A_COLUMN * widest // _WINDOW) * _WINDOW)


def calibration_tokens(
    source: Source, settings: ExportSettings, cache: Cache = NO_CACHE
) -> tuple[Windows | None, TextInfo | None]:
    """Windows of the calibration text, or none of either for ``--calibration none`` and ``--imatrix``."""
    if settings.imatrix is not None:
        if settings.metric == "loss" or settings.rounding != "imatrix":
            raise InputError("--imatrix is read for --rounding imatrix only, and not with --metric loss; leave it out.")
        return None, None
    if settings.calibration == "none":
        if settings.metric == "loss":
            raise InputError("The metric loss is measured on a calibration text; choose one, or another --metric.")
        if settings.feeds_back:
            raise InputError(
                f"--rounding {settings.rounding} follows a calibration text; choose one, or another --rounding."
            )
        return None, None
    from ..texts.windows import calibration_windows

    tokens = settings.calibration_tokens or default_tokens(source, settings)
    return calibration_windows(
        source, settings.calibration, tokens=tokens, seed=settings.seed, threads=settings.threads, cache=cache
    )


def plan_and_measure(
    source: Source,
    diagnostics: Diagnostics,
    settings: ExportSettings,
    tokens: Windows | None,
    watch: Stopwatch,
    cache: Cache = NO_CACHE,
    waiting: Run | None = None,
) -> tuple[Plan, FeedbackInputs | None]:
    """The plan, and what feedback needs: predicted losses come before the one or after it.

    Where feedback follows, ``waiting`` keeps what waits for it: the residual stream, or H of all blocks.
    """
    options = plan_options(settings)
    by_loss = settings.metric == "loss"
    if not by_loss:
        with watch.measure("allocate"):
            plan = make_plan(diagnostics, settings.budget, options)
        if not settings.feeds_back or tokens is None:
            return plan, None
    assert tokens is not None  # the metric loss without calibration was refused
    from ..evidence.loss.measure import candidate_types, losses_of, measure_loss, planned_types

    once = settings.rounding == "feedback-once"
    candidates = candidate_types(diagnostics.tensors, settings.types) if by_loss else planned_types(plan)
    if once and not by_loss:
        # Other budgets give other types, whose losses are then known.
        usual = candidate_types(diagnostics.tensors, "k", strict=False)
        candidates = {name: tuple(dict.fromkeys((*usual[name], *types))) for name, types in candidates.items()}
    if by_loss:
        # Which budgets are possible does not depend on the losses: told before the model is run.
        nothing = {name: dict.fromkeys(names, 0.0) for name, names in candidates.items()}
        make_loss_plan(diagnostics, settings.budget, nothing, options)
    with watch.measure("loss weights"):
        inputs = measure_loss(
            source,
            tokens,
            candidates,
            predict_blocks=by_loss,
            seed=settings.seed,
            threads=settings.threads,
            cache=cache,
            once=once,
            waiting=waiting,
        )
    if by_loss:
        with watch.measure("allocate"):
            losses = losses_of(inputs.sensitivity, settings.rounding or "feedback")
            plan = make_loss_plan(diagnostics, settings.budget, losses, options)
    return plan, inputs
