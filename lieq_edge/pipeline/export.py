"""The whole way from a model to a checked GGUF file: source, measure, allocate, quantize, write, validate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ..allocate.budget import parse_budget
from ..allocate.plan import Plan, TensorPlan
from ..errors import InputError
from ..evidence.blocks.records import Diagnostics
from ..settings import ExportSettings
from ..store import Cache, Entry, Run
from ..system.files import check_output, check_space, sweep
from ..system.jsonio import to_json
from ..system.memory import Stopwatch, peak_rss_bytes
from ..system.progress import stage
from .planning import (
    about_model,
    cache_of,
    calibration_tokens,
    check_runnable,
    measure_blocks,
    moments_run,
    open_model,
    plan_and_measure,
    settle_rounding,
)
from .report import ExportReport, layer_reports
from .validation import check_text_length, validate_export, validation_text

if TYPE_CHECKING:
    from ..llama.encoders import Packed
    from ..rounding.importance import Importance
    from ..rounding.sequential import FeedbackInputs
    from ..sources.base import Source


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
    cache = cache_of(settings)
    command = {"model": model, "out": str(out.resolve()), "settings": to_json(settings)}
    # An export that was killed goes on, even one that had written its file already; what is unfinished is kept until
    # all is done.
    with cache.run("export", command) as started, ExitStack() as work:
        check_output(out, force=force or _is_own(out, started))
        sweep(out)
        return _export(model, out, settings, diagnostics, show_plan, cache, started, work)


def _export(
    model: str,
    out: Path,
    settings: ExportSettings,
    diagnostics: Diagnostics | None,
    show_plan: Callable[[Plan], None] | None,
    cache: Cache,
    started: Run,
    work: ExitStack,
) -> ExportReport:
    from ..rounding.importance import check_importance
    from .write import write_model

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
    cache = about_model(cache, source)
    if settings.parity and source.in_transformers and cache.get("parity", {}) is None:
        from ..validate.parity import check_parity

        with watch.measure("parity"), stage("Comparing llama.cpp with transformers", 1):
            check_parity(source, out.parent, threads=settings.threads)
        cache.put("parity", {}, Entry())
    importance: Importance = {}
    if settings.imatrix is not None:
        from ..evidence.importance.imatrix_file import read_imatrix

        importance, given = read_imatrix(settings.imatrix, source)
    with watch.measure("measure"):
        diagnostics = measure_blocks(source, settings, diagnostics, cache)
    if settings.validation:
        check_text_length(source, settings)
    with watch.measure("calibration text"):
        tokens, calibration = calibration_tokens(source, settings, cache)
        calibration = given if settings.imatrix is not None else calibration
    waiting = None
    if tokens is not None and settings.rounding == "feedback":
        waiting = work.enter_context(cache.run("residual-stream", {"tokens": tokens}))
    elif tokens is not None and settings.feeds_back:
        waiting = work.enter_context(moments_run(cache, tokens, settings))
    plan, inputs = plan_and_measure(source, diagnostics, settings, tokens, watch, cache, waiting)
    check_space(out.parent, plan.file_bytes)
    if show_plan:
        show_plan(plan)
    rounding = settings.rounding or "imatrix"
    if tokens is None and not importance:
        rounding = "nearest"
    if tokens is not None and rounding == "imatrix":
        from ..evidence.importance.measure import measure_importance

        with watch.measure("calibrate"):
            importance = measure_importance(source, tokens, threads=settings.threads, cache=cache)
    if not settings.feeds_back:  # which has importance of its own for every matrix
        check_importance(plan, importance, allow_none=settings.calibration == "none")
    with watch.measure("quantize and write"), stage("Quantise and write", len(plan.tensors)) as advance:
        feedback = inputs if settings.feeds_back else None
        encoded = _encode(source, plan, importance, feedback, settings.threads, cache, work)
        stepped = (_step(item, advance) for item in encoded)
        file_bytes = write_model(
            out,
            source,
            plan,
            stepped,
            calibration=calibration,
            rounding=rounding,
            ready=lambda path: _remember(path, started),
        )
        # The end of the stage gives their memory back; the original and the file come next.
        del inputs, feedback, encoded, stepped
    if waiting is not None:
        waiting.close(done=True)  # residual streams are the largest thing on the disk, and of no use any more
    validation = None
    if settings.validation:
        with watch.measure("validate"):
            validation = validate_export(out, source, settings, cache)
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


def _encode(
    source: Source,
    plan: Plan,
    importance: Importance,
    feedback: FeedbackInputs | None,
    threads: int | None,
    cache: Cache,
    work: ExitStack,
) -> Iterator[tuple[TensorPlan, Packed]]:
    """The tensors, with feedback or by importance. Rounded blocks are kept until all ``work`` is done."""
    if feedback is None:
        from ..rounding.importance import encode_tensors

        return encode_tensors(source, plan, importance, threads=threads)
    from ..rounding.sequential import encode_streamed, rounding_parts

    run = work.enter_context(cache.run("rounding", rounding_parts(plan, feedback)))
    return encode_streamed(source, plan, importance, feedback, threads=threads, run=run, cache=cache)


def _remember(path: Path, started: Run) -> None:
    """Note the finished file before it gets its name, so that it is known whatever happens then."""
    status = path.stat()
    started.save("written", {}, [status.st_ino, status.st_size, status.st_mtime_ns])


def _is_own(out: Path, started: Run) -> bool:
    """The file at ``out`` is the one that this command wrote before it was stopped."""
    written = started.load("written")
    if written is None or not out.is_file():
        return False
    status = out.stat()
    return list(written.record) == [status.st_ino, status.st_size, status.st_mtime_ns]


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
