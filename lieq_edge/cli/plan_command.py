"""``plan``: share out the bits only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import lieq_edge as api

from ..system.files import check_output, user_path
from ..system.progress import set_quiet
from . import report
from .flags import (
    FIRST,
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
    JsonFlag,
    KvFlag,
    LevelsFlag,
    LoraFlag,
    MetricFlag,
    MinTpsFlag,
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
    ThreadsFlag,
    TypesFlag,
)
from .given import given_settings, introduce, is_saved, load_saved


def plan(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Model, or measurements saved by `analyze --out`.")],
    budget: BudgetsFlag = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", rich_help_panel=FIRST, help="Save the plan as JSON.")
    ] = None,
    device: DeviceFlag = None,
    context_size: ContextSizeFlag = None,
    kv: KvFlag = None,
    min_tps: MinTpsFlag = None,
    revision: RevisionFlag = None,
    lora: LoraFlag = None,
    allow_pickle: PickleFlag = False,
    effort: EffortFlag = "normal",
    metric: MetricFlag = None,
    levels: LevelsFlag = "2,3,4",
    rounding: RoundingFlag = None,
    types: TypesFlag = "k",
    granularity: GranularityFlag = None,
    projections: ProjectionsFlag = "qkv",
    baseline: BaselineFlag = "projection",
    probe_text: ProbeFlag = None,
    probe_tokens: ProbeTokensFlag = 512,
    seed: SeedFlag = 0,
    threads: ThreadsFlag = None,
    calibration: CalibrationFlag = "builtin",
    calibration_tokens: CalibrationTokensFlag = None,
    token_embedding_type: EmbeddingFlag = None,
    output_type: OutputTypeFlag = None,
    strict_types: StrictFlag = False,
    recipe: RecipeFlag = None,
    cache_dir: CacheDirFlag = None,
    no_cache: NoCacheFlag = False,
    cache_limit: CacheLimitFlag = "10GB",
    force: ForceFlag = False,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Allocate the bits as `export` would; with saved measurements this needs no model."""
    set_quiet(quiet)
    introduce(recipe)
    budgets: list[str | None] = [*budget] if budget else [None]
    settings = [given_settings(context, recipe, each) for each in budgets]
    out = None if out is None else user_path(out)
    if out is not None:
        if len(budgets) > 1:
            raise api.InputError("--out holds one plan; give one --budget, or leave --out out and take --json.")
        check_output(out, force=force)
    if is_saved(model):
        api.check_different(settings)
        saved = load_saved(user_path(model))
        plans = [api.plan_saved(saved, each) for each in settings]
    else:
        plans = api.plan_models(model, settings)
    if out is not None:
        api.save_json(plans[0], out, replace=force)
    report.show_plans(plans, as_json=json_output)
