"""The whole way from a model to a checked GGUF file: source, measure, allocate, quantize, write, validate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .allocate.budget import parse_budget
from .allocate.plan import Plan, TensorPlan
from .errors import InputError
from .export_report import ExportReport, layer_reports
from .files import check_output, check_space
from .measure.diagnostics import Diagnostics
from .planning import calibration_tokens, check_runnable, measure_blocks, open_model, plan_and_measure, settle_rounding
from .progress import stage
from .resources import Stopwatch, peak_rss_bytes
from .scoring import check_text_length, validate_export, validation_text
from .settings import ExportSettings

if TYPE_CHECKING:
    from .quantize.ggml import Packed
    from .quantize.tensors import Importance
    from .source.base import Source


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
    from .write.model import write_model

    check_output(out, force=force)
    parse_budget(settings.budget)
    if settings.validation:
        validation_text(settings.text)  # a missing file is told before any time is spent
    elif settings.max_ppl_ratio is not None:
        raise InputError("--max-ppl-ratio needs the validation; leave out one of it and --no-validate.")
    watch = Stopwatch()
    with watch.measure("open"):
        source = open_model(model, settings)
    settings = settle_rounding(source, settings)
    _check_not_source(out, model, source)
    check_runnable(source, settings, diagnostics)
    if settings.parity and source.in_transformers:
        from .parity import check_parity

        with watch.measure("parity"), stage("Comparing llama.cpp with transformers", 1):
            check_parity(source, out.parent, threads=settings.threads)
    importance: Importance = {}
    if settings.imatrix is not None:
        from .measure.imatrix_file import read_imatrix

        importance, given = read_imatrix(settings.imatrix, source)
    with watch.measure("measure"):
        diagnostics = measure_blocks(source, settings, diagnostics)
    if settings.validation:
        check_text_length(source, settings)
    with watch.measure("calibration text"):
        tokens, calibration = calibration_tokens(source, settings)
        calibration = given if settings.imatrix is not None else calibration
    plan, inputs = plan_and_measure(source, diagnostics, settings, tokens, watch)
    check_space(out.parent, plan.file_bytes)
    if show_plan:
        show_plan(plan)
    rounding = settings.rounding or "imatrix"
    if tokens is None and not importance:
        rounding = "nearest"
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
        predicted_loss=plan.predicted_loss,
        geometry_inputs=diagnostics.inputs,
    )


def _check_not_source(out: Path, model: str, source: Source) -> None:
    """Refuse to write over the model, which the validation still reads and the user may have only once."""
    if not out.exists():
        return
    directory = Path(model).expanduser()
    if source.files:
        clash = any(out.samefile(path) for path in source.files)
    else:
        clash = out.suffix != ".gguf" and directory.is_dir() and out.resolve().parent == directory.resolve()
    if clash:
        raise InputError(f"{out} belongs to the model itself; choose another output path.")


def _step(item: tuple[TensorPlan, Packed], advance: Callable[[], None]) -> tuple[TensorPlan, Packed]:
    advance()
    return item
