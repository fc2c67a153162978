"""Output of the commands: tables for people, one JSON document for programs."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import lieq_edge as api

from ..gguf.names import EMBEDDING, HEAD, TensorName
from .printing import Printer

if TYPE_CHECKING:
    from ..allocation.plan import Plan
    from ..device.pace import Pace
    from ..evidence.blocks.records import Diagnostics
    from ..gguf.inspect import FileReport
    from ..pipeline.report import ExportReport
    from ..tasks.records import TaskScore, TaskScores
    from ..validate.perplexity import Validation
    from ..validate.scored import ScoredFile


def print_json(value: Any) -> None:
    """Print one JSON document; numbers that are not finite become null, because JSON has no others."""
    print(json.dumps(_finite(api.to_json(value)), indent=1))


def announce_plan(plan: Plan) -> None:
    """Print the plan on stderr before the work starts; the report will list the fallbacks."""
    if sys.stderr is not None:  # as it is where the caller has closed it
        _plan_table(plan, Printer(sys.stderr), fallbacks=False)


def show_plans(plans: Sequence[Plan], *, as_json: bool) -> None:
    """Print plans: bits and types of each block, sizes, fallbacks."""
    if as_json:
        print_json(plans[0] if len(plans) == 1 else list(plans))
        return
    for plan in plans:
        _plan_table(plan, Printer())


def show_diagnostics(diagnostics: Diagnostics, *, as_json: bool) -> None:
    """Print the measurements of every block, and how well the proxies agree with the perplexity drop."""
    if as_json:
        print_json(diagnostics)
        return
    printer = Printer()
    names = list(diagnostics.blocks[0].projections)
    rows = []
    for block in diagnostics.blocks:
        values = (block.delta_ppl, block.compactness_gain, block.energy_gain)
        details = (block.projections.get(name) for name in names)
        rows.append([str(block.index), *(number(value) for value in (*values, *details))])
    printer.table(
        f"{diagnostics.model}: {diagnostics.architecture}, {len(diagnostics.blocks)} blocks",
        [(column, True) for column in ("block", "dPPL", "dr", "top-k gain", *names)],
        rows,
    )
    if diagnostics.base_ppl is not None:
        printer.line(f"Perplexity of the whole model: {diagnostics.base_ppl:.3f}")
    for name, rho in diagnostics.correlations.items():
        printer.line(f"Spearman correlation of {name} with |dPPL|: {rho:+.3f}")
    if diagnostics.inputs is not None:
        printer.line(api.describe_inputs(diagnostics.inputs))
    if diagnostics.probe is not None:
        probe = diagnostics.probe
        printer.line(f"Probe text: {probe.name}, {probe.tokens} tokens, SHA-256 {probe.sha256[:16]}")


def show_export(report: ExportReport, *, verbose: bool = False) -> None:
    """Print size and scores of a written file, what it was compared with, and what to do next."""
    printer = Printer()
    size = f"{report.file_bytes / 1e6:.1f} MB, {report.file_bpw:.2f} bits a weight"
    printer.line(f"Wrote {report.out}: {size}")
    if report.validation is not None:
        _print_validation(report.validation, printer)
    if report.compared:
        show_comparison(report.compared, as_json=False)
        printer.line(f"  {api.comparison_note(report.compared)}")
    if report.pace is not None:
        printer.line(f"  {_predicted(report.pace)}")
    printer.line(f"  next: llama-cli -m {shlex.quote(report.out)}")
    if device := report.settings.get("device"):
        there = ["lieq-edge", "fit", report.out, "--device", device, "--context", str(report.settings["context_size"])]
        printer.line(f"  flags for the device: {shlex.join([*there, '--kv', report.settings['kv']])}")
    printer.line(f"  {report.method}")
    if report.tuned is not None:
        printer.line(f"  {report.tuned.sentence}")
    if verbose:
        printer.line(
            f"  block weights: {report.nominal_bits:.3f} nominal bits, {report.bpw:.3f} bits a weight in the file; "
            f"all weights: {report.file_bpw:.3f}"
        )
        if report.fallbacks:
            _print_fallbacks(report.fallbacks, printer)
        for note in report.notes():
            printer.line(f"  {note}")
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in report.shown_seconds.items() if value >= 0.05)
    printer.line(f"  time: {seconds}; peak memory {report.peak_rss_bytes / 1e6:.0f} MB")


def show_frontier(reports: Sequence[ExportReport]) -> None:
    """Print size and scores of several files of one model, the smallest first."""
    rows = []
    for report in sorted(reports, key=lambda one: one.file_bytes):
        scores = report.validation
        kld = None if scores is None else scores.kld
        ppl = None if scores is None else scores.ppl
        top1 = None if scores is None or scores.top1 is None else 100 * scores.top1
        sizes = [f"{report.file_bytes / 1e6:.1f}", f"{report.file_bpw:.2f}"]
        rows.append([report.out, report.budget, *sizes, *map(number, (kld, report.predicted_loss, ppl, top1))])
    columns = ("file", "budget", "MB", "bits a weight", "KL divergence", "predicted", "PPL", "same top token, %")
    Printer().table("Size against quality", [(name, i > 1) for i, name in enumerate(columns)], rows)


def show_validation(validation: Validation, *, as_json: bool) -> None:
    """Print the scores of a file."""
    if as_json:
        print_json(validation)
    else:
        _print_validation(validation, Printer())


def show_scores(rows: Sequence[ScoredFile], *, as_json: bool) -> None:
    """Print the scores of one file, as ``show_validation`` with speeds where they were measured, or of several."""
    if len(rows) > 1:
        show_comparison(rows, as_json=as_json)
        return
    (row,) = rows
    speeds = {"prefill": row.prefill, "decode": row.decode}
    if row.decode is None:
        show_validation(row.validation, as_json=as_json)
    elif as_json:
        print_json({**api.to_json(row.validation), **speeds})
    else:
        printer = Printer()
        _print_validation(row.validation, printer)
        printer.line(f"  tokens a second: {_speed(row.prefill)} of a prompt, {_speed(row.decode)} of an answer")


def show_comparison(rows: Sequence[ScoredFile], *, as_json: bool) -> None:
    """Print a row for each file: size, perplexity, distance from the original and, where measured, speed."""
    if as_json:
        print_json(list(rows))
        return
    first = rows[0].validation
    compared, timed = first.reference_ppl is not None, any(row.decode is not None for row in rows)
    columns = ["file", "MB", "PPL"]
    columns += ["KL divergence", "median", "99.9 %", "same top token, %"] if compared else []
    columns += ["prompt, tokens/s", "answer, tokens/s"] if timed else []
    cells = []
    for row in rows:
        scores = row.validation
        cell = [row.name, f"{row.file_bytes / 1e6:.1f}", f"{scores.ppl:.2f}"]
        if compared:
            top1 = None if scores.top1 is None else 100 * scores.top1
            mean = f"{number(scores.kld)} +/- {number(scores.kld_se)}"
            cell += [mean, number(scores.kld_p50), number(scores.kld_p999), number(top1)]
        if timed:
            cell += [_speed(row.prefill), _speed(row.decode)]
        cells.append(cell)
    printer = Printer()
    title = f"{first.tokens} tokens of {first.text.name}"
    if first.reference_ppl is not None:
        title += f"; perplexity of the original {first.reference_ppl:.2f}"
    printer.table(title, [(name, index > 0) for index, name in enumerate(columns)], cells)


def show_tasks(files: Sequence[TaskScores], *, as_json: bool) -> None:
    """Print a row for each file, task and metric, with the distance from the original on the same items."""
    if as_json:
        print_json(files[0] if len(files) == 1 else list(files))
        return
    columns = ["file"] if len(files) > 1 else []
    columns += ["task", "metric", "items", "value"]
    compared = files[0].reference is not None
    columns += ["original", "difference", "better", "worse"] if compared else []
    cells = []
    for file in files:
        for score in file.scores:
            cell = [file.name] if len(files) > 1 else []
            cell += [score.task, score.metric, f"{score.items:,}", _with_error(score.value, score.error)]
            cells.append(cell + (_task_difference(score) if compared else []))
    title = files[0].name if len(files) == 1 else "Tasks"
    if compared:
        title += f"; item by item against {files[0].reference}"
    left = ("file", "task", "metric")
    Printer().table(title, [(name, name not in left) for name in columns], cells)


def show_inspection(report: FileReport, *, as_json: bool) -> None:
    """Print types and sizes of a GGUF file, block by block, and the ``lieq.*`` key-values."""
    if as_json:
        print_json(report)
        return
    from .inspection import show

    show(report, Printer())


def _plan_table(plan: Plan, printer: Printer, *, fallbacks: bool = True) -> None:
    rows = []
    for block, counts in zip(plan.blocks, plan.types_by_block(), strict=True):
        types = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        rows.append([str(block.index), number(block.score), f"{block.bits:.3g}", types])
    columns = [("block", True), ("score", True), ("bits", True), ("types", False)]
    printer.table(f"{plan.model}: {plan.metric}, budget {plan.budget}", columns, rows)
    printer.line(
        f"Block weights: {plan.nominal_bits:.3f} nominal bits, {plan.bpw:.3f} bits a weight in the file "
        f"(paper's compression ratio {plan.compression_ratio:.3f}); file: at most {plan.file_bytes / 1e6:.1f} MB, "
        f"{plan.file_bpw:.3f} bits a weight."
    )
    if plan.pace is not None:
        printer.line(_predicted(plan.pace))
    for tensor in plan.tensors:
        if tensor.name in (EMBEDDING, HEAD):
            printer.line(f"  {tensor.name}: {tensor.type}, {tensor.nbytes / 1e6:.1f} MB")
    if plan.fallbacks and fallbacks:
        _print_fallbacks(plan.fallbacks, printer)


def _print_fallbacks(fallbacks: dict[str, str], printer: Printer) -> None:
    """Print one line for all tensors of the same projection and replacement."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for name, change in fallbacks.items():
        parsed = TensorName.parse(name)
        wanted, _, taken = change.partition(" -> ")
        kind = name if parsed.block is None else str(TensorName(None, parsed.role, parsed.suffix))
        grouped.setdefault((kind, taken), []).append(wanted)
    printer.line("  rows that the wanted type does not fit took the smallest type that fits them:")
    for (name, taken), replaced in grouped.items():
        count = f" ({len(replaced)} tensors)" if len(replaced) > 1 else ""
        printer.line(f"    {name}: {', '.join(sorted(set(replaced)))} -> {taken}{count}")


def _print_validation(validation: Validation, printer: Printer) -> None:
    printer.line(
        f"  perplexity {validation.ppl:.3f} +/- {validation.ppl_se:.3f} on {validation.tokens} tokens "
        f"of {validation.text.name}"
    )
    if validation.reference_ppl is not None:
        printer.line(
            f"  unquantised model: {validation.reference_ppl:.3f}; KL divergence {number(validation.kld)} "
            f"+/- {number(validation.kld_se)} (99 % of tokens below {number(validation.kld_p99)}), "
            f"same top token {100 * (validation.top1 or 0):.1f} %"
        )
    if validation.flash_attention is not None:
        state = "on" if validation.flash_attention else "off"
        printer.line(f"  run with llama.cpp's defaults; flash attention is {state} by them")


def _task_difference(score: TaskScore) -> list[str]:
    counts = ["-" if count is None else f"{count:,}" for count in (score.better, score.worse)]
    difference = "-" if score.difference is None else _with_error(score.difference, score.difference_error, signed=True)
    return [_with_error(score.reference, score.reference_error), difference, *counts]


def _with_error(value: float | None, error: float | None, *, signed: bool = False) -> str:
    """A value and its standard error, with three digits behind the point."""
    if value is None:
        return "-"
    text = f"{value:+.3f}" if signed else f"{value:.3f}"
    return text if error is None else f"{text} +/- {error:.3f}"


def _predicted(pace: Pace) -> str:
    sentence = f"predicted tokens a second: {_speed(pace.prefill)} of a prompt, {_speed(pace.decode)} of an answer"
    if pace.interpolated:
        sentence += f"; {', '.join(pace.interpolated)} interpolated by bits"
    return f"{sentence} (estimated)" if pace.estimated else sentence


def number(value: float | None) -> str:
    """Four digits, or a dash."""
    if value is None:
        return "-"
    return f"{value:.4g}"


def _speed(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
