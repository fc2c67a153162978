"""``export``: all stages."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

import lieq_edge as api

from ..system import interrupt
from ..system.files import check_output, user_path
from ..system.progress import log, set_quiet
from . import report
from .flags import (
    FIRST,
    VALIDATION,
    BaselineFlag,
    BudgetsFlag,
    CacheDirFlag,
    CacheLimitFlag,
    CalibrationFlag,
    CalibrationTokensFlag,
    ContextSizeFlag,
    DebugFlag,
    DeviceFlag,
    EffortFlag,
    EmbeddingFlag,
    ForceFlag,
    GranularityFlag,
    ImatrixFlag,
    JsonFlag,
    KvFlag,
    LevelsFlag,
    LoraFlag,
    MetricFlag,
    MinTpsFlag,
    Model,
    NoCacheFlag,
    OutputTypeFlag,
    ParseSpecialFlag,
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
    TuneFlag,
    TuneStepsFlag,
    TuneTokensFlag,
    TypesFlag,
    VerboseFlag,
)
from .given import given_settings, introduce, load_saved
from .resuming import last_words


def export(
    context: typer.Context,
    model: Model,
    budget: BudgetsFlag = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            rich_help_panel=FIRST,
            help="GGUF file to write. {name} stands for the model and {budget} for the budget. Default: a name by "
            "llama.cpp's convention.",
        ),
    ] = None,
    effort: EffortFlag = "normal",
    recipe: RecipeFlag = None,
    quiet: QuietFlag = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", rich_help_panel=FIRST, help="Measure and plan, but write nothing.")
    ] = False,
    device: DeviceFlag = None,
    context_size: ContextSizeFlag = None,
    kv: KvFlag = None,
    min_tps: MinTpsFlag = None,
    revision: RevisionFlag = None,
    lora: LoraFlag = None,
    allow_pickle: PickleFlag = False,
    metric: MetricFlag = None,
    types: TypesFlag = "k",
    granularity: GranularityFlag = None,
    levels: LevelsFlag = "2,3,4",
    token_embedding_type: EmbeddingFlag = None,
    output_type: OutputTypeFlag = None,
    strict_types: StrictFlag = False,
    rounding: RoundingFlag = None,
    calibration: CalibrationFlag = "builtin",
    calibration_tokens: CalibrationTokensFlag = None,
    imatrix: ImatrixFlag = None,
    tune: TuneFlag = None,
    tune_steps: TuneStepsFlag = None,
    tune_tokens: TuneTokensFlag = None,
    projections: ProjectionsFlag = "qkv",
    baseline: BaselineFlag = "projection",
    probe_text: ProbeFlag = None,
    probe_tokens: ProbeTokensFlag = 512,
    diagnostics: Annotated[
        Path | None,
        typer.Option(rich_help_panel="Measurements of the blocks", help="Use saved measurements of this model."),
    ] = None,
    text: TextFlag = None,
    context_tokens: Annotated[
        int, typer.Option("--context", min=8, rich_help_panel=VALIDATION, help="Tokens per window.")
    ] = 512,
    chunks: Annotated[
        int, typer.Option(min=1, rich_help_panel=VALIDATION, help="Number of windows to validate on.")
    ] = 16,
    parse_special: ParseSpecialFlag = False,
    max_ppl_ratio: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=VALIDATION,
            help="Exit with code 1 if PPL exceeds the unquantised model's by more than this factor.",
        ),
    ] = None,
    no_validate: Annotated[
        bool, typer.Option("--no-validate", rich_help_panel=VALIDATION, help="Do not score the written file.")
    ] = False,
    no_reference: Annotated[
        bool,
        typer.Option(
            "--no-reference",
            rich_help_panel=VALIDATION,
            help="Score only the written file, without running the unquantised model.",
        ),
    ] = False,
    no_parity: Annotated[
        bool,
        typer.Option(
            "--no-parity",
            rich_help_panel=VALIDATION,
            help="Skip the check of llama.cpp against transformers before the work.",
        ),
    ] = False,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=FIRST,
            help="Also make llama.cpp's preset of the same size, and say which is closer to the model; a name, "
            "e.g. Q4_K_M, chooses another preset. Repeat it for several presets.",
        ),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option("--report", rich_help_panel=FIRST, help="Write an HTML page with charts, scores and answers."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(rich_help_panel=VALIDATION, help="Plot size against KL divergence of all files as a PNG."),
    ] = None,
    seed: SeedFlag = 0,
    threads: ThreadsFlag = None,
    cache_dir: CacheDirFlag = None,
    no_cache: NoCacheFlag = False,
    cache_limit: CacheLimitFlag = "10GB",
    force: ForceFlag = False,
    json_output: JsonFlag = False,
    verbose: VerboseFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Make a GGUF file of a given size as close to the model as possible: measure, allocate, round, write, validate."""
    set_quiet(quiet)
    introduce(recipe)
    plot, page = (None if path is None else user_path(path) for path in (plot, page))
    api.check_plot(plot)
    budgets: list[str | None] = [*budget] if budget else [None]
    settings = [given_settings(context, recipe, each) for each in budgets]
    saved = None if diagnostics is None else load_saved(diagnostics)
    if plot is not None:
        api.check_scored(settings[0])
    others = [path for path in (plot, page) if path is not None]
    files = list(zip(api.output_paths(model, out, settings), settings, strict=True))
    for path in [*others, *(path for path, _ in files if path is not None and dry_run)]:
        # A plan replaces nothing, so an existing file does not matter.
        check_output(path, force=force or dry_run)
    if dry_run:
        api.check_comparison(settings[0], compare or ())
        report.show_plans(api.plan_models(model, settings, saved), as_json=json_output)
        return
    interrupt.set_last_words((lambda: last_words("blocks")) if settings[0].cache else None)
    done = api.export_models(
        model,
        files,
        saved=saved,
        force=force,
        compare=compare or (),
        others=others,
        on_plan=None if json_output or quiet or not verbose else report.announce_plan,
        on_file=None if json_output else lambda made: report.show_export(made, verbose=verbose),
    )
    if page is not None:
        _write_page(page, model, done, settings[0], force=force)
    interrupt.set_last_words(None)
    if json_output:
        report.print_json(done[0] if len(done) == 1 else done)
    elif len(done) > 1:
        report.show_frontier(done)
    if plot is not None:
        api.plot_frontier(done, plot, replace=force)
    for made in done:
        api.check_gate(made.validation, settings[0].max_ppl_ratio)


def _write_page(
    path: Path, model: str, done: Sequence[api.ExportReport], settings: api.Settings, *, force: bool
) -> None:
    answers = api.answers_of(model, [made.out for made in done], settings)
    # Files of several budgets may have one name in folders of their own, and the page knows ours by their paths.
    ours = [replace(made.compared[0], name=made.out) for made in done if made.compared]
    compared = {row.name: row for row in (*ours, *(row for made in done for row in made.compared[1:]))}
    command = shlex.join(["lieq-edge", *sys.argv[1:]])
    api.write_page(path, done, compared=list(compared.values()), answers=answers, command=command, replace=force)
    log(f"Wrote {path}.")
