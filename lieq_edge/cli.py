"""The command line: parse, call the Python API, print. Heavy imports stay inside the commands."""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import __version__, interrupt
from .errors import GateError, InputError
from .progress import set_quiet

if TYPE_CHECKING:
    from .measure.diagnostics import Diagnostics

app = typer.Typer(
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
SeedFlag = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything that is drawn.")]
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
    calibration: Annotated[str, typer.Option(help="self, docs, mixed, none, or a text file.")] = "self",
    calibration_tokens: Annotated[
        int | None,
        typer.Option(min=64, help="Tokens to calibrate on; default 8192, or 16384 where the loss is followed."),
    ] = None,
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
    from .export import check_gate, export_model, plan_model
    from .settings import load_recipe, merge

    set_quiet(quiet)
    _check_ratio(max_ppl_ratio)
    from_recipe, given = load_recipe(recipe) if recipe else {}, _given(context)
    settings = merge(from_recipe, given)
    saved = None if diagnostics is None else _load_diagnostics(diagnostics, {**from_recipe, **given})
    if dry_run:
        report.show_plan(plan_model(model, settings, saved), as_json=json_output)
        return
    show = None if json_output or quiet else report.announce_plan
    done = export_model(model, out, settings, diagnostics=saved, force=force, show_plan=show)
    report.show_export(done, as_json=json_output)
    check_gate(done.validation, settings.max_ppl_ratio)


@app.command()
def analyze(
    context: typer.Context,
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
    if metric not in ("geometry", "saliency", "composite"):
        raise InputError(f"--metric of analyze takes geometry, saliency or composite; got {metric!r}.")
    if out is not None and plot is not None and out.resolve() == plot.resolve():
        raise InputError(f"--out and --plot are both {out}; choose two files.")
    settings = merge({"budget": "2", "metric": metric}, _given(context))
    diagnostics = analyze_model(open_source(model), settings)
    if out is not None:
        save_json(diagnostics, out)
    if plot is not None:
        from .measure.plot import plot_layers

        plot_layers(diagnostics, plot)
    report.show_diagnostics(diagnostics, as_json=json_output)


@app.command()
def plan(
    context: typer.Context,
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
    from .files import check_output
    from .jsonio import save_json
    from .settings import merge

    set_quiet(quiet)
    parse_budget(budget)
    if out is not None:
        check_output(out, force=force)
    given = _given(context)
    settings = merge({}, given)
    if model.endswith(".json"):
        from .allocate.plan import make_plan
        from .export import plan_options

        if metric == "loss":
            raise InputError("The metric loss needs the model at hand; give it instead of saved measurements.")
        made = make_plan(_load_diagnostics(Path(model), given), budget, plan_options(settings))
    else:
        from .export import plan_model

        made = plan_model(model, settings)
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
    _check_ratio(max_ppl_ratio)
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


def _given(context: typer.Context) -> dict[str, Any]:
    """The settings among the flags that the user gave; where they gave none, a recipe or the default counts.

    The commands name their flags for typer; the values of settings are taken from here.
    """
    from dataclasses import fields

    from .settings import ExportSettings

    names = {field.name for field in fields(ExportSettings)}
    given: dict[str, Any] = {}
    for name, value in context.params.items():
        source = context.get_parameter_source(name)
        if source is None or source.name == "DEFAULT":
            continue
        if name == "levels":
            given[name] = parse_levels(value)
        elif name in ("no_validate", "no_reference"):
            given[{"no_validate": "validation", "no_reference": "reference"}[name]] = not value
        elif name == "context_tokens":
            given["context"] = value
        elif name in names:
            given[name] = value
    return given


def _load_diagnostics(path: Path, asked: dict[str, Any]) -> Diagnostics:
    """Saved measurements; settings that say how to measure must agree with how they were made."""
    from .jsonio import load_json
    from .measure.diagnostics import Diagnostics

    saved = load_json(Diagnostics, path)
    made: dict[str, Any] = {"projections": saved.projections, "baseline": saved.baseline}
    if saved.probe is not None:
        made |= {"probe_text": saved.probe.name, "probe_tokens": saved.probe.tokens}
    for name, value in made.items():
        wanted = asked.get(name)
        if wanted is not None and value != (Path(wanted).name if name == "probe_text" else wanted):
            flag = name.replace("_", "-")
            raise InputError(f"{path} was measured with --{flag} {value}, not {wanted}; run analyze again.")
    return saved


def _check_ratio(ratio: float | None) -> None:
    # The comparison asks for success, so that NaN is refused too.
    if ratio is not None and not ratio > 0:
        raise InputError(f"--max-ppl-ratio takes a number above 0, e.g. 1.1; got {ratio:g}.")


def main() -> None:
    """Entry point: turn errors into one sentence and an exit code.

    0 done, 1 a gate failed, 2 bad input, 130 interrupted; 141 the reader of a pipe went away (as for other programs),
    70 a mistake of our own, with its traceback.
    """
    try:
        # Without typer's own way of ending, which draws boxes and takes 1 for a closed pipe.
        code = app(None if len(sys.argv) > 1 else ["--help"], standalone_mode=False)
        sys.stdout.flush()
    except SystemExit:
        # All that is left of typer's own way: so it ends when the reader of a pipe went away.
        code = 141
    except Exception as error:
        if interrupt.came():
            # An import that is interrupted fails in its own way.
            code = 130
        elif "--debug" in sys.argv:
            raise
        else:
            code = _tell(error)
    if code == 130:
        print("Interrupted.", file=sys.stderr)
    if code:
        sys.exit(code)


def _tell(error: Exception) -> int:
    """Print what went wrong, on stdout too where a program reads it; returns the exit code."""
    if isinstance(error, BrokenPipeError):
        _give_up_stdout()
        return 141
    if isinstance(error, GateError):
        print(f"Failed: {error}", file=sys.stderr)
        return 1
    code, message = 2, str(error)
    if isinstance(error, MemoryError):
        message = "The memory is full; take a smaller model, --context or --calibration-tokens."
    elif isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        message = f"The system says: {error.strerror or error}{where}; mend that and try again."
    elif hasattr(error, "format_message"):  # typer's errors of usage
        message = f"{error.format_message().rstrip('.')}; see lieq-edge --help."
    elif not isinstance(error, InputError):
        traceback.print_exc()
        code, message = 70, f"This is a mistake in lieq-edge ({type(error).__name__}); please report it."
    try:
        if "--json" in sys.argv:
            print(json.dumps({"error": message}))
        sys.stdout.flush()
    except OSError:
        _give_up_stdout()
    print(f"Error: {message}", file=sys.stderr)
    return code


def _give_up_stdout() -> None:
    """Python flushes stdout once more at its end, and would fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
