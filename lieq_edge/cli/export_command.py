"""``export``: all stages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import lieq_edge as api

from ..system.progress import set_quiet
from . import report
from .flags import (
    BaselineFlag,
    BudgetFlag,
    CacheDirFlag,
    CacheLimitFlag,
    CalibrationFlag,
    CalibrationTokensFlag,
    DebugFlag,
    EmbeddingFlag,
    ForceFlag,
    GranularityFlag,
    ImatrixFlag,
    JsonFlag,
    LevelsFlag,
    LoraFlag,
    MetricFlag,
    Model,
    NoCacheFlag,
    OutputTypeFlag,
    PickleFlag,
    ProbeFlag,
    ProbeTokensFlag,
    ProjectionsFlag,
    QuietFlag,
    RecipeFlag,
    RevisionFlag,
    RoundingFlag,
    SeedFlag,
    StrictFlag,
    TextFlag,
    ThreadsFlag,
    TypesFlag,
)
from .given import given_settings, introduce, load_saved


def export(
    context: typer.Context,
    model: Model,
    out: Annotated[Path | None, typer.Option(help="GGUF file to write; not needed for --dry-run.")] = None,
    budget: BudgetFlag = None,
    revision: RevisionFlag = None,
    lora: LoraFlag = None,
    allow_pickle: PickleFlag = False,
    metric: MetricFlag = "geometry",
    levels: LevelsFlag = "2,3,4",
    rounding: RoundingFlag = None,
    types: TypesFlag = "k",
    granularity: GranularityFlag = None,
    projections: ProjectionsFlag = "qkv",
    baseline: BaselineFlag = "projection",
    probe_text: ProbeFlag = None,
    probe_tokens: ProbeTokensFlag = 512,
    diagnostics: Annotated[Path | None, typer.Option(help="Saved measurements of this model.")] = None,
    seed: SeedFlag = 0,
    threads: ThreadsFlag = None,
    calibration: CalibrationFlag = "self",
    calibration_tokens: CalibrationTokensFlag = None,
    imatrix: ImatrixFlag = None,
    token_embedding_type: EmbeddingFlag = None,
    output_type: OutputTypeFlag = None,
    strict_types: StrictFlag = False,
    recipe: RecipeFlag = None,
    text: TextFlag = None,
    context_tokens: Annotated[int, typer.Option("--context", min=8, help="Tokens of a window.")] = 512,
    chunks: Annotated[int, typer.Option(min=1, help="Windows to validate on.")] = 16,
    max_ppl_ratio: Annotated[
        float | None,
        typer.Option(help="Exit with 1 if PPL exceeds the unquantised model's by more than this factor."),
    ] = None,
    no_validate: Annotated[bool, typer.Option("--no-validate", help="Do not score the written file.")] = False,
    no_reference: Annotated[
        bool,
        typer.Option("--no-reference", help="Score the written file alone, without the unquantised model."),
    ] = False,
    no_parity: Annotated[
        bool, typer.Option("--no-parity", help="Do not compare llama.cpp with transformers before the work.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure and plan, write nothing.")] = False,
    cache_dir: CacheDirFlag = None,
    no_cache: NoCacheFlag = False,
    cache_limit: CacheLimitFlag = "10GB",
    force: ForceFlag = False,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Measure, allocate, quantise, write and validate: one GGUF under a budget."""
    set_quiet(quiet)
    introduce(recipe)
    if out is None and not dry_run:
        raise api.InputError("--out is missing: give the GGUF file to write, or --dry-run to see the plan only.")
    settings, saved = given_settings(context, recipe), load_saved(diagnostics)
    if out is None or dry_run:
        report.show_plan(api.plan_model(model, settings, saved), as_json=json_output)
        return
    show = None if json_output or quiet else report.announce_plan
    done = api.export_model(model, out, settings, saved=saved, force=force, on_plan=show)
    report.show_export(done, as_json=json_output)
    api.check_gate(done.validation, settings.max_ppl_ratio)
