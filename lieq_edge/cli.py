"""The command line: parse, call the Python API, print. Heavy imports stay inside the commands."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from . import __version__
from .errors import GateError, InputError
from .progress import set_quiet

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Make a small mixed-precision GGUF of a language model: bits go to the blocks that matter.",
)

Model = Annotated[str, typer.Argument(help="Hugging Face directory, hub id, .gguf file, or `demo`.")]
BudgetFlag = Annotated[
    str | None, typer.Option(help="2.1 = nominal bits, 3.0bpw = bits a weight, 90MB = bytes of the file.")
]
MetricFlag = Annotated[
    str, typer.Option(help="What scores the blocks: geometry, composite, saliency, loss, random, first, last.")
]
LevelsFlag = Annotated[str, typer.Option(help="Bits a block may get: 2,3,4, or 2,4 as in the paper.")]
ProjectionsFlag = Annotated[str, typer.Option(help="Projections whose geometry counts: qkv or all.")]
BaselineFlag = Annotated[str, typer.Option(help="Untrained counterpart: projection or network.")]
ProbeFlag = Annotated[Path | None, typer.Option(help="Text for the geometry; default: built in.")]
ProbeTokensFlag = Annotated[int, typer.Option(min=16, help="Tokens of the probe text.")]
SeedFlag = Annotated[int, typer.Option(min=0, help="Seed of everything that is drawn.")]
ThreadsFlag = Annotated[int | None, typer.Option(min=1, help="Threads; default: all cores.")]
EmbeddingFlag = Annotated[
    str | None,
    typer.Option(help="Type of the token embedding; default Q6_K if it is also the head, else Q4_K."),
]
OutputTypeFlag = Annotated[str | None, typer.Option(help="Type of a separate output head; default Q6_K.")]
StrictFlag = Annotated[bool, typer.Option("--strict-types", help="Refuse types that do not fit a tensor's rows.")]
TextFlag = Annotated[Path | None, typer.Option(help="Text to score on; default: built in.")]
ContextFlag = Annotated[int, typer.Option(min=8, help="Tokens of a window.")]
RecipeFlag = Annotated[Path | None, typer.Option(help="YAML file with settings; flags win over it.")]
ForceFlag = Annotated[bool, typer.Option("--force", help="Replace existing output files.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", help="No progress and no notes on stderr.")]
DebugFlag = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


@app.command()
def export(
    context: typer.Context,
    model: Model,
    out: Annotated[Path, typer.Option(help="GGUF file to write.")],
    budget: BudgetFlag = None,
    metric: MetricFlag = "geometry",
    levels: LevelsFlag = "2,3,4",
    rounding: Annotated[
        str, typer.Option(help="nearest, imatrix, or feedback (error feedback that follows the model's loss).")
    ] = "imatrix",
    types: Annotated[str, typer.Option(help="Candidates of the metric loss: k, all, or names with commas.")] = "k",
    granularity: Annotated[
        str | None, typer.Option(help="Metric loss: one type a block or a tensor; default tensor.")
    ] = None,
    projections: ProjectionsFlag = "qkv",
    baseline: BaselineFlag = "projection",
    probe_text: ProbeFlag = None,
    probe_tokens: ProbeTokensFlag = 512,
    diagnostics: Annotated[Path | None, typer.Option(help="Saved measurements of this model.")] = None,
    seed: SeedFlag = 0,
    threads: ThreadsFlag = None,
    calibration: Annotated[str, typer.Option(help="docs, self, mixed, none, or a text file.")] = "docs",
    calibration_tokens: Annotated[int, typer.Option(min=64, help="Tokens to calibrate on.")] = 16384,
    token_embedding_type: EmbeddingFlag = None,
    output_type: OutputTypeFlag = None,
    strict_types: StrictFlag = False,
    recipe: RecipeFlag = None,
    text: TextFlag = None,
    context_tokens: Annotated[int, typer.Option("--context", min=8, help="Tokens of a window.")] = 512,
    chunks: Annotated[int, typer.Option(min=1, help="Windows to validate on.")] = 16,
    max_ppl_ratio: Annotated[
        float | None,
        typer.Option(help="Exit 1 when PPL exceeds the unquantised model's by more than this factor."),
    ] = None,
    no_validate: Annotated[bool, typer.Option("--no-validate", help="Do not score the written file.")] = False,
    no_reference: Annotated[
        bool,
        typer.Option("--no-reference", help="Score the written file alone, without the unquantised model."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure and plan, write nothing.")] = False,
    force: ForceFlag = False,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Measure, allocate, quantise, write and validate: one GGUF under a budget."""
    from . import report
    from .export import analyze_model, check_gate, export_model, plan_options
    from .settings import load_recipe, merge

    set_quiet(quiet)
    given = {
        "budget": budget,
        "metric": metric,
        "levels": parse_levels(levels),
        "rounding": rounding,
        "types": types,
        "granularity": granularity,
        "projections": projections,
        "baseline": baseline,
        "probe_text": probe_text,
        "probe_tokens": probe_tokens,
        "seed": seed,
        "threads": threads,
        "calibration": calibration,
        "calibration_tokens": calibration_tokens,
        "token_embedding_type": token_embedding_type,
        "output_type": output_type,
        "strict_types": strict_types,
        "validation": not no_validate,
        "reference": not no_reference,
        "text": text,
        "context": context_tokens,
        "chunks": chunks,
        "max_ppl_ratio": max_ppl_ratio,
    }
    flags = {"validation": "no_validate", "reference": "no_reference", "context": "context_tokens"}
    explicit = {name: value for name, value in given.items() if _is_given(context, flags.get(name, name))}
    settings = merge(load_recipe(recipe) if recipe else {}, explicit)
    saved = _load_diagnostics(diagnostics)
    if dry_run:
        from .allocate.plan import make_plan
        from .source import open_source

        measured = saved or analyze_model(open_source(model), settings)
        report.show_plan(make_plan(measured, settings.budget, plan_options(settings)), as_json=json_output)
        return
    show = None if json_output or quiet else report.announce_plan
    done = export_model(model, out, settings, diagnostics=saved, force=force, show_plan=show)
    report.show_export(done, as_json=json_output)
    check_gate(done.validation, settings.max_ppl_ratio)


@app.command()
def analyze(
    model: Model,
    out: Annotated[Path | None, typer.Option(help="Save the measurements as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the layer profile as a PNG.")] = None,
    metric: Annotated[
        str, typer.Option(help="geometry (fast), saliency, or composite (both, with their correlation).")
    ] = "composite",
    projections: ProjectionsFlag = "qkv",
    baseline: BaselineFlag = "projection",
    probe_text: ProbeFlag = None,
    probe_tokens: ProbeTokensFlag = 512,
    seed: SeedFlag = 0,
    threads: ThreadsFlag = None,
    force: ForceFlag = False,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Measure how much each block matters."""
    from . import report
    from .export import analyze_model
    from .files import check_output
    from .jsonio import save_json
    from .settings import merge
    from .source import open_source

    set_quiet(quiet)
    for path in (out, plot):
        if path is not None:
            check_output(path, force=force)
    values = {
        "budget": "2",
        "metric": metric,
        "projections": projections,
        "baseline": baseline,
        "probe_text": probe_text,
        "probe_tokens": probe_tokens,
        "seed": seed,
        "threads": threads,
    }
    diagnostics = analyze_model(open_source(model), merge({}, values))
    if out is not None:
        save_json(diagnostics, out)
    if plot is not None:
        from .measure.plot import plot_layers

        plot_layers(diagnostics, plot)
    report.show_diagnostics(diagnostics, as_json=json_output)


@app.command()
def plan(
    model: Annotated[str, typer.Argument(help="A model, or measurements saved by `analyze --out`.")],
    budget: Annotated[str, typer.Option(help="2.1 = nominal bits, 3.0bpw, or 90MB of file.")],
    out: Annotated[Path | None, typer.Option(help="Save the plan as JSON.")] = None,
    metric: MetricFlag = "geometry",
    levels: LevelsFlag = "2,3,4",
    projections: ProjectionsFlag = "qkv",
    baseline: BaselineFlag = "projection",
    probe_text: ProbeFlag = None,
    probe_tokens: ProbeTokensFlag = 512,
    seed: SeedFlag = 0,
    threads: ThreadsFlag = None,
    token_embedding_type: EmbeddingFlag = None,
    output_type: OutputTypeFlag = None,
    strict_types: StrictFlag = False,
    force: ForceFlag = False,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Share out the bits; from saved measurements this takes no model and no time."""
    from . import report
    from .allocate.budget import parse_budget
    from .allocate.plan import make_plan
    from .export import analyze_model, plan_options
    from .files import check_output
    from .jsonio import save_json
    from .settings import merge

    set_quiet(quiet)
    parse_budget(budget)
    if out is not None:
        check_output(out, force=force)
    settings = merge(
        {},
        {
            "budget": budget,
            "metric": metric,
            "levels": parse_levels(levels),
            "projections": projections,
            "baseline": baseline,
            "probe_text": probe_text,
            "probe_tokens": probe_tokens,
            "seed": seed,
            "threads": threads,
            "token_embedding_type": token_embedding_type,
            "output_type": output_type,
            "strict_types": strict_types,
        },
    )
    if model.endswith(".json"):
        diagnostics = _load_diagnostics(Path(model))
    else:
        from .source import open_source

        diagnostics = analyze_model(open_source(model), settings)
    assert diagnostics is not None
    made = make_plan(diagnostics, budget, plan_options(settings))
    if out is not None:
        save_json(made, out)
    report.show_plan(made, as_json=json_output)


@app.command()
def validate(
    file: Annotated[Path, typer.Argument(help="GGUF file to score.")],
    reference: Annotated[str | None, typer.Option(help="GGUF file or model to compare with.")] = None,
    text: TextFlag = None,
    context: ContextFlag = 512,
    chunks: Annotated[int | None, typer.Option(min=1, help="Windows to score; default: all of the text.")] = None,
    threads: ThreadsFlag = None,
    max_ppl_ratio: Annotated[
        float | None, typer.Option(help="Exit 1 when PPL exceeds the reference's by more than this factor.")
    ] = None,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Perplexity by llama.cpp's protocol and, with a reference, KL divergence and top-1 agreement."""
    from . import report
    from .export import check_gate, validate_against

    set_quiet(quiet)
    if max_ppl_ratio is not None and reference is None:
        raise InputError("--max-ppl-ratio compares with a reference; pass --reference too.")
    result = validate_against(file, reference, text=text, context=context, chunks=chunks, threads=threads)
    report.show_validation(result, as_json=json_output)
    check_gate(result, max_ppl_ratio)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="GGUF file to look at.")],
    json_output: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Types, sizes and bits of a GGUF file, and how lieq-edge made it."""
    from . import report
    from .validate.inspect import inspect_file

    report.show_inspection(inspect_file(file), as_json=json_output)


def _version(value: bool) -> None:
    if value:
        print(f"lieq-edge {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Version.")] = False,
) -> None:
    """Bits go to the blocks that matter."""


def parse_levels(text: str) -> tuple[int, ...]:
    """Read ``2,3,4``.

    Raises:
        InputError: not numbers with commas between them.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--levels takes numbers with commas, e.g. 2,3,4; got {text!r}.") from None


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _load_diagnostics(path: Path | None) -> Any:
    if path is None:
        return None
    from .jsonio import load_json
    from .measure.diagnostics import Diagnostics

    return load_json(Diagnostics, path)


def main() -> None:
    """Entry point: turn errors into one sentence and an exit code (1 gate, 2 bad input, 130 interrupted)."""
    debug = "--debug" in sys.argv
    try:
        app()
    except (InputError, GateError) as error:
        if debug:
            raise
        code = 1 if isinstance(error, GateError) else 2
        kind = "Failed" if code == 1 else "Error"
        if "--json" in sys.argv and code == 2:
            print(json.dumps({"error": str(error)}))
        print(f"{kind}: {error}", file=sys.stderr)
        sys.exit(code)
    except (MemoryError, OSError) as error:
        if debug:
            raise
        print(f"Error: {error or 'out of memory'}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
