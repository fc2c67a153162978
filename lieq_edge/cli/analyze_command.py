"""``analyze``: measure only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

import lieq_edge as api

from ..system.files import check_output, user_path
from ..system.progress import set_quiet
from . import report
from .flags import (
    BaselineFlag,
    CacheDirFlag,
    CacheLimitFlag,
    DebugFlag,
    ForceFlag,
    JsonFlag,
    LoraFlag,
    Model,
    NoCacheFlag,
    PickleFlag,
    ProbeFlag,
    ProbeTokensFlag,
    ProjectionsFlag,
    QuietFlag,
    RevisionFlag,
    SeedFlag,
    ThreadsFlag,
)
from .given import given_flags

ANALYZED = ("geometry", "saliency", "composite")


def analyze(
    context: typer.Context,
    model: Model,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Save the measurements as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Plot the layer profile as a PNG.")] = None,
    revision: RevisionFlag = None,
    lora: LoraFlag = None,
    allow_pickle: PickleFlag = False,
    metric: Annotated[
        str, typer.Option(help="geometry (fast), saliency, or composite (both, with their correlation).")
    ] = "composite",
    projections: ProjectionsFlag = "qkv",
    baseline: BaselineFlag = "projection",
    probe_text: ProbeFlag = None,
    probe_tokens: ProbeTokensFlag = 512,
    seed: SeedFlag = 0,
    threads: ThreadsFlag = None,
    cache_dir: CacheDirFlag = None,
    no_cache: NoCacheFlag = False,
    cache_limit: CacheLimitFlag = "10GB",
    force: ForceFlag = False,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Measure how much each block matters."""
    set_quiet(quiet)
    api.check_plot(plot)
    out, plot = (None if path is None else user_path(path) for path in (out, plot))
    for path in (out, plot):
        if path is not None:
            check_output(path, force=force)
    if metric not in ANALYZED:
        raise api.InputError(f"--metric of analyze takes {', '.join(ANALYZED)}; got {metric!r}.")
    if out is not None and plot is not None and os.path.realpath(out) == os.path.realpath(plot):
        raise api.InputError(f"--out and --plot are both {out}; choose two files.")
    settings = api.merge({"budget": "2", "metric": metric}, given_flags(context))
    diagnostics = api.analyze_model(model, settings)
    if out is not None:
        api.save_json(diagnostics, out, replace=force)
    if plot is not None:
        api.plot_layers(diagnostics, plot, replace=force)
    report.show_diagnostics(diagnostics, as_json=json_output)
