"""Output of the commands: tables for people, one JSON document for programs."""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, Any

import lieq_edge as api

from ..gguf.names import EMBEDDING, HEAD, TensorName
from ..system.jsonio import to_json

if TYPE_CHECKING:
    from rich.console import Console

    from ..allocation.plan import Plan
    from ..evidence.blocks.records import Diagnostics
    from ..gguf.inspect import FileReport
    from ..pipeline.report import ExportReport
    from ..validate.perplexity import Validation


def print_json(value: Any) -> None:
    """Print one JSON document; numbers that are not finite become null, because JSON has no others."""
    print(json.dumps(_finite(to_json(value)), indent=1))


def announce_plan(plan: Plan) -> None:
    """Print the plan on stderr before the work starts; the report will list the fallbacks."""
    _plan_table(plan, _console(stderr=True), fallbacks=False)


def show_plan(plan: Plan, *, as_json: bool) -> None:
    """Print a plan: bits and types of each block, sizes, fallbacks."""
    if as_json:
        print_json(plan)
    else:
        _plan_table(plan, _console())


def show_diagnostics(diagnostics: Diagnostics, *, as_json: bool) -> None:
    """Print the measurements of every block, and how well the proxies agree with the perplexity drop."""
    if as_json:
        print_json(diagnostics)
        return
    from rich.table import Table

    console = _console()
    table = Table(title=f"{diagnostics.model}: {diagnostics.architecture}, {len(diagnostics.blocks)} blocks")
    for column in ("block", "dPPL", "dr", "top-k gain", *_projection_names(diagnostics)):
        table.add_column(column, justify="right")
    for block in diagnostics.blocks:
        details = [_number(block.projections.get(name)) for name in _projection_names(diagnostics)]
        values = (block.delta_ppl, block.compactness_gain, block.energy_gain)
        table.add_row(str(block.index), *(_number(value) for value in values), *details)
    console.print(table)
    if diagnostics.base_ppl is not None:
        console.print(f"Perplexity of the whole model: {diagnostics.base_ppl:.3f}")
    for name, rho in diagnostics.correlations.items():
        console.print(f"Spearman correlation of {name} with |dPPL|: {rho:+.3f}")
    if diagnostics.inputs is not None:
        console.print(api.describe_inputs(diagnostics.inputs))
    if diagnostics.probe is not None:
        probe = diagnostics.probe
        console.print(f"Probe text: {probe.name}, {probe.tokens} tokens, SHA-256 {probe.sha256[:16]}")


def show_export(report: ExportReport, *, as_json: bool) -> None:
    """Print the sizes and scores of a written file."""
    if as_json:
        print_json(report)
        return
    console = _console()
    console.print(f"Wrote {report.out}: {report.file_bytes / 1e6:.1f} MB", highlight=False)
    console.print(
        f"  block weights: {report.nominal_bits:.3f} nominal bits, {report.bpw:.3f} bits a weight in the file; "
        f"all weights: {report.file_bpw:.3f}",
        highlight=False,
    )
    if report.fallbacks:
        _print_fallbacks(report.fallbacks, console)
    if report.validation is not None:
        _print_validation(report.validation, console)
    for note in report.notes():
        console.print(f"  {note}", highlight=False)
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in report.seconds.items())
    console.print(f"  time: {seconds}; peak memory {report.peak_rss_bytes / 1e6:.0f} MB", highlight=False)


def show_validation(validation: Validation, *, as_json: bool) -> None:
    """Print the scores of a file."""
    if as_json:
        print_json(validation)
    else:
        _print_validation(validation, _console())


def show_inspection(report: FileReport, *, as_json: bool) -> None:
    """Print types and sizes of a GGUF file, block by block, and the ``lieq.*`` key-values."""
    if as_json:
        print_json(report)
        return
    from ..gguf.inspect import render

    render(report, _console())


def _plan_table(plan: Plan, console: Console, *, fallbacks: bool = True) -> None:
    from rich.table import Table

    table = Table(title=f"{plan.model}: {plan.metric}, budget {plan.budget}")
    table.add_column("block", justify="right")
    table.add_column("score", justify="right")
    table.add_column("bits", justify="right")
    table.add_column("types")
    for block, counts in zip(plan.blocks, plan.types_by_block(), strict=True):
        types = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        table.add_row(str(block.index), _number(block.score), f"{block.bits:.3g}", types)
    console.print(table)
    console.print(
        f"Block weights: {plan.nominal_bits:.3f} nominal bits, {plan.bpw:.3f} bits a weight in the file "
        f"(paper's compression ratio {plan.compression_ratio:.3f}); file: at most {plan.file_bytes / 1e6:.1f} MB, "
        f"{plan.file_bpw:.3f} bits a weight.",
        highlight=False,
    )
    for tensor in plan.tensors:
        if tensor.name in (EMBEDDING, HEAD):
            console.print(f"  {tensor.name}: {tensor.type}, {tensor.nbytes / 1e6:.1f} MB", highlight=False)
    if plan.fallbacks and fallbacks:
        _print_fallbacks(plan.fallbacks, console)


def _print_fallbacks(fallbacks: dict[str, str], console: Console) -> None:
    """Print one line for all tensors of the same projection and replacement."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for name, change in fallbacks.items():
        parsed = TensorName.parse(name)
        wanted, _, taken = change.partition(" -> ")
        kind = name if parsed.block is None else str(TensorName(None, parsed.role, parsed.suffix))
        grouped.setdefault((kind, taken), []).append(wanted)
    console.print("  rows that the wanted type does not fit took the smallest type that fits them:")
    for (name, taken), replaced in grouped.items():
        count = f" ({len(replaced)} tensors)" if len(replaced) > 1 else ""
        console.print(f"    {name}: {', '.join(sorted(set(replaced)))} -> {taken}{count}", highlight=False)


def _print_validation(validation: Validation, console: Console) -> None:
    console.print(
        f"  perplexity {validation.ppl:.3f} +/- {validation.ppl_se:.3f} on {validation.tokens} tokens "
        f"of {validation.text.name}",
        highlight=False,
    )
    if validation.reference_ppl is not None:
        console.print(
            f"  unquantised model: {validation.reference_ppl:.3f}; KL divergence {_number(validation.kld)} "
            f"+/- {_number(validation.kld_se)} (99 % of tokens below {_number(validation.kld_p99)}), "
            f"same top token {100 * (validation.top1 or 0):.1f} %",
            highlight=False,
        )


def _projection_names(diagnostics: Diagnostics) -> list[str]:
    return list(diagnostics.blocks[0].projections)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    # Piped output has no width of its own; 80 columns would cut the tables.
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else 140)
