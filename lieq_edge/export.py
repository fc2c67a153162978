"""The whole way from a model to a checked GGUF file: source, measure, allocate, quantize, write, validate."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .allocate.budget import parse_budget
from .allocate.loss import make_loss_plan
from .allocate.plan import Plan, PlanOptions, TensorPlan, make_plan
from .allocate.scores import NEEDS
from .errors import GateError, InputError
from .export_report import ExportReport, layer_reports
from .files import check_output, check_space
from .measure.diagnostics import Diagnostics, TextInfo
from .progress import log, stage
from .resources import Stopwatch, peak_rss_bytes
from .settings import ExportSettings
from .validate.perplexity import Validation, validate

if TYPE_CHECKING:
    from torch import Tensor

    from .quantize.ggml import Packed
    from .quantize.streamed import FeedbackInputs
    from .quantize.tensors import Importance
    from .source.base import Source


def analyze_model(source: Source, settings: ExportSettings, metrics: frozenset[str] | None = None) -> Diagnostics:
    """Measure the blocks of a model as the settings say.

    Args:
        source: the model.
        settings: metric, projections, baseline, probe and seed are read.
        metrics: what to measure out of ``geometry`` and ``saliency``; None takes what the metric needs.
    """
    needed = NEEDS[settings.metric] if metrics is None else metrics
    if not needed:
        from .measure.analyze import describe

        return describe(source)
    from .measure.analyze import analyze

    return analyze(
        source,
        metrics=set(needed),
        projections=settings.projections,
        baseline=settings.baseline,
        seeds=tuple(range(settings.seed, settings.seed + 3)),
        probe_text=settings.probe_text,
        probe_tokens=settings.probe_tokens,
        threads=settings.threads,
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


def export_model(
    model: str,
    out: Path,
    settings: ExportSettings,
    *,
    diagnostics: Diagnostics | None = None,
    force: bool = False,
    show_plan: Callable[[Plan], None] | None = None,
) -> ExportReport:
    """Write a mixed-precision GGUF file of ``model`` and check it.

    Args:
        model: Hugging Face directory, hub id, ``.gguf`` file or ``demo``.
        out: the file to write; it appears whole or not at all.
        settings: of the export.
        diagnostics: saved measurements of the same model, to skip measuring.
        force: replace an existing file.
        show_plan: is called with the plan before anything is encoded.

    Returns:
        The report.

    Raises:
        InputError: bad input; nothing is written.

    The gate ``max_ppl_ratio`` is not applied here: see ``check_gate``.
    """
    from .quantize.streamed import encode_streamed
    from .quantize.tensors import check_importance, encode_tensors
    from .source import open_source
    from .write.model import write_model

    check_output(out, force=force)
    parse_budget(settings.budget)
    if settings.validation:
        validation_text(settings.text)  # a missing file is told before any time is spent
    elif settings.max_ppl_ratio is not None:
        raise InputError("--max-ppl-ratio needs the validation; leave out one of it and --no-validate.")
    watch = Stopwatch()
    with watch.measure("open"):
        source = open_source(model)
    _check_not_source(out, model, source)
    for warning in source.warnings:
        log(f"Note: {warning}")
    with watch.measure("measure"):
        diagnostics = _measure_blocks(source, settings, diagnostics)
    if settings.validation:
        _check_text_length(source, settings)
    with watch.measure("calibration text"):
        tokens, calibration = calibration_tokens(source, settings)
    plan, inputs = _plan_and_measure(source, diagnostics, settings, tokens, watch)
    check_space(out.parent, plan.file_bytes)
    if show_plan:
        show_plan(plan)
    rounding = settings.rounding if tokens is not None else "nearest"
    importance: Importance = {}
    if tokens is not None and rounding == "imatrix":
        from .measure.importance import measure_importance

        with watch.measure("calibrate"):
            importance = measure_importance(source, tokens, threads=settings.threads)
    if rounding != "feedback":  # which has importance of its own for every matrix
        check_importance(plan, importance, allow_none=settings.calibration == "none")
    with watch.measure("quantize and write"), stage("Quantise and write", len(plan.tensors)) as advance:
        if inputs is not None and rounding == "feedback":
            encoded = encode_streamed(source, plan, importance, inputs, threads=settings.threads)
        else:
            encoded = encode_tensors(source, plan, importance, threads=settings.threads)
        stepped = (_step(item, advance) for item in encoded)
        file_bytes = write_model(out, source, plan, stepped, calibration=calibration, rounding=rounding)
    validation = None
    if settings.validation:
        with watch.measure("validate"):
            validation = validate_export(out, source, settings)
    return ExportReport(
        model=model,
        out=str(out),
        architecture=plan.architecture,
        file_bytes=file_bytes,
        nominal_bits=plan.nominal_bits,
        bpw=plan.bpw,
        file_bpw=plan.file_bpw,
        metric=plan.metric,
        budget=plan.budget,
        rounding=rounding,
        embedding_types={t.name: t.type for t in plan.tensors if t.name in ("token_embd.weight", "output.weight")},
        layers=layer_reports(plan, diagnostics),
        fallbacks=plan.fallbacks,
        calibration=calibration,
        probe=plan.probe,
        warnings=tuple(source.warnings),
        seconds=watch.seconds,
        peak_rss_bytes=peak_rss_bytes(),
        validation=validation,
        correlations=diagnostics.correlations,
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
    from .source import open_source

    parse_budget(settings.budget)
    source = open_source(model)
    for warning in source.warnings:
        log(f"Note: {warning}")
    measured = _measure_blocks(source, settings, diagnostics)
    tokens = calibration_tokens(source, settings)[0] if settings.metric == "loss" else None
    return _plan_and_measure(source, measured, settings, tokens, Stopwatch())[0]


def _measure_blocks(source: Source, settings: ExportSettings, saved: Diagnostics | None) -> Diagnostics:
    """Saved measurements, if they are of this model, or new ones."""
    if saved is not None:
        if saved.model_hash != source.content_hash:
            raise InputError(f"The saved measurements are of another model ({saved.model}); run analyze again.")
        return saved
    if settings.metric != "loss":
        from .measure.analyze import describe

        # Which budgets, levels and types are possible does not depend on the scores: told before the model is run.
        make_plan(describe(source), settings.budget, replace(plan_options(settings), metric="first"))
    return analyze_model(source, settings)


def _check_not_source(out: Path, model: str, source: Source) -> None:
    """Refuse to write over the model, which the validation still reads and the user may have only once."""
    if not out.exists():
        return
    directory = Path(model).expanduser()
    if source.gguf_path is not None:
        clash = out.samefile(source.gguf_path)
    else:
        clash = out.suffix != ".gguf" and directory.is_dir() and out.resolve().parent == directory.resolve()
    if clash:
        raise InputError(f"{out} belongs to the model itself; choose another output path.")


def calibration_tokens(source: Source, settings: ExportSettings) -> tuple[Tensor | None, TextInfo | None]:
    """Windows of the calibration text, or none of either for ``--calibration none``."""
    if settings.calibration == "none":
        if settings.metric == "loss":
            raise InputError("The metric loss is measured on a calibration text; choose one, or another --metric.")
        if settings.rounding == "feedback":
            raise InputError("--rounding feedback follows a calibration text; choose one, or another --rounding.")
        return None, None
    from .measure.texts import calibration_windows

    follows_loss = settings.metric == "loss" or settings.rounding == "feedback"
    tokens = settings.calibration_tokens or (16384 if follows_loss else 8192)
    return calibration_windows(
        source, settings.calibration, tokens=tokens, seed=settings.seed, threads=settings.threads
    )


def _plan_and_measure(
    source: Source, diagnostics: Diagnostics, settings: ExportSettings, tokens: Tensor | None, watch: Stopwatch
) -> tuple[Plan, FeedbackInputs | None]:
    """The plan, and what feedback needs: predicted losses come before the one or after it."""
    options = plan_options(settings)
    by_loss = settings.metric == "loss"
    if not by_loss:
        with watch.measure("allocate"):
            plan = make_plan(diagnostics, settings.budget, options)
        if settings.rounding != "feedback" or tokens is None:
            return plan, None
    assert tokens is not None  # the metric loss without calibration was refused
    from .lossaware import candidate_types, losses_of, measure_loss, planned_types

    candidates = candidate_types(diagnostics.tensors, settings.types) if by_loss else planned_types(plan)
    if by_loss:
        # Which budgets are possible does not depend on the losses: told before the model is run.
        nothing = {name: dict.fromkeys(names, 0.0) for name, names in candidates.items()}
        make_loss_plan(diagnostics, settings.budget, nothing, options)
    with watch.measure("loss weights"):
        inputs = measure_loss(source, tokens, candidates, seed=settings.seed, threads=settings.threads)
    if by_loss:
        with watch.measure("allocate"):
            losses = losses_of(inputs.sensitivity, settings.rounding)
            plan = make_loss_plan(diagnostics, settings.budget, losses, options)
    return plan, inputs


def validate_export(out: Path, source: Source, settings: ExportSettings) -> Validation:
    """Perplexity of the written file and, unless switched off, its divergence from the unquantised model."""
    text, name = validation_text(settings.text)
    context, chunks, threads = settings.context, settings.chunks, settings.threads
    if not settings.reference and settings.max_ppl_ratio is None:
        return validate(out, text, text_name=name, context=context, chunks=chunks, threads=threads)
    with reference_file(source, out.parent) as reference:
        return validate(
            out,
            text,
            text_name=name,
            context=context,
            chunks=chunks,
            threads=threads,
            reference=reference,
            reference_name=source.label,
        )


@contextlib.contextmanager
def reference_file(source: Source, folder: Path) -> Iterator[Path]:
    """A GGUF file of the unquantised model: the source itself, or a 16-bit copy in ``folder`` that is removed after."""
    if source.gguf_path is not None:
        yield source.gguf_path
        return
    from .write.plain import plain_bytes, write_plain

    check_space(folder, plain_bytes(source))
    with tempfile.TemporaryDirectory(prefix=".lieq-reference.", dir=folder) as temporary:
        path = Path(temporary) / "reference.gguf"
        write_plain(path, source)
        yield path


def validation_text(path: Path | None) -> tuple[str, str]:
    """Text to score on and its name: the user's, or the built-in one that nothing is calibrated on."""
    from .measure.texts import builtin_text, load_text

    if path is None:
        return builtin_text("validation")
    return load_text(path), path.name


def _check_text_length(source: Source, settings: ExportSettings) -> None:
    """Tell a text shorter than one window before anything is made, not after."""
    text, name = validation_text(settings.text)
    # The beginning of a long text nearly always has tokens enough.
    for part in (text[: 16 * settings.context], text):
        tokens = len(source.tokenize(part, add_bos=source.adds_bos))
        if tokens >= settings.context:
            return
    raise InputError(
        f"The text {name} has {tokens} tokens, fewer than one window of {settings.context}; "
        "give a longer --text or a smaller --context."
    )


def check_gate(validation: Validation | None, max_ppl_ratio: float | None) -> None:
    """Raise GateError when the perplexity exceeds the reference's by more than ``max_ppl_ratio``."""
    if max_ppl_ratio is None or validation is None or validation.reference_ppl is None:
        return
    ratio = validation.ppl / validation.reference_ppl
    # A NaN perplexity must fail too, so the comparison asks for success.
    if not ratio <= max_ppl_ratio:
        raise GateError(
            f"The perplexity {validation.ppl:.2f} is {ratio:.3f} times the unquantised model's "
            f"{validation.reference_ppl:.2f}, above --max-ppl-ratio {max_ppl_ratio:g}; raise the budget."
        )


def _step(item: tuple[TensorPlan, Packed], advance: Callable[[], None]) -> tuple[TensorPlan, Packed]:
    advance()
    return item


def validate_against(
    file: Path,
    reference: str | None,
    *,
    text: Path | None = None,
    context: int = 512,
    chunks: int | None = None,
    threads: int | None = None,
) -> Validation:
    """Score a GGUF file, alone or against a GGUF file or any model that can be opened.

    Raises:
        InputError: a file is missing or unreadable, or the text is shorter than one window.
    """
    body, name = validation_text(text)
    if reference is None or reference.endswith(".gguf"):
        path = Path(reference) if reference else None
        return validate(file, body, text_name=name, context=context, chunks=chunks, threads=threads, reference=path)
    from .source import open_source

    with (
        tempfile.TemporaryDirectory(prefix="lieq-validate.") as folder,
        reference_file(open_source(reference), Path(folder)) as path,
    ):
        return validate(
            file,
            body,
            text_name=name,
            context=context,
            chunks=chunks,
            threads=threads,
            reference=path,
            reference_name=reference,
        )
