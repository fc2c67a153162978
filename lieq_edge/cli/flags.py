"""Flags that more than one command takes, by the panels of the help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

FIRST = "Most used"
MODEL = "Model"
ALLOCATION = "Allocation"
BLOCKS = "Measurements of the blocks"
ROUNDING = "Rounding and calibration"
VALIDATION = "Validation"
TASKS = "Tasks"
DEVICE = "Device"
MACHINE = "Machine, cache and output"

Metric = Literal["loss", "geometry", "composite", "saliency", "random", "first", "last"]
Rounding = Literal["feedback-once", "feedback", "imatrix", "nearest"]
Effort = Literal["quick", "normal", "best"]
Projections = Literal["qkv", "all"]
Baseline = Literal["projection", "network"]
Granularity = Literal["tensor", "block"]
CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "iq4_nl", "q4_1", "q4_0"]

Model = Annotated[str, typer.Argument(help="Hugging Face id, directory, .gguf file, or `demo`.")]

BudgetsFlag = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        "-b",
        rich_help_panel=FIRST,
        help="90MB = file size, Q4_K_M = size of llama.cpp's preset, 3.0bpw = bits per weight, 2.1 = nominal bits as "
        "in the paper. Repeat it to make several files.",
    ),
]
EffortFlag = Annotated[
    Effort,
    typer.Option(rich_help_panel=FIRST, help="How much time to spend; sets rounding and calibration."),
]
RecipeFlag = Annotated[
    Path | None,
    typer.Option(rich_help_panel=FIRST, help="Name from `lieq-edge recipes list`, or a YAML file; flags override it."),
]
QuietFlag = Annotated[
    bool, typer.Option("--quiet", "-q", rich_help_panel=FIRST, help="Print no progress or notes on stderr.")
]

RevisionFlag = Annotated[str | None, typer.Option(rich_help_panel=MODEL, help="Branch, tag or commit of a hub model.")]
LoraFlag = Annotated[
    Path | None,
    typer.Option(rich_help_panel=MODEL, help="Directory of a PEFT adapter (LoRA) to merge into the weights."),
]
PickleFlag = Annotated[
    bool,
    typer.Option(
        "--allow-pickle",
        rich_help_panel=MODEL,
        help="Read pickled weights (.bin), as tensors only, if there are no others.",
    ),
]

MetricFlag = Annotated[
    Metric | None,
    typer.Option(
        rich_help_panel=ALLOCATION,
        help="Evidence used to allocate bits. Default: loss for a size, geometry (the paper's) for nominal bits.",
    ),
]
LevelsFlag = Annotated[
    str, typer.Option(rich_help_panel=ALLOCATION, help="Bits a block can get: 2,3,4, or 2,4 as in the paper.")
]
TypesFlag = Annotated[
    str,
    typer.Option(
        rich_help_panel=ALLOCATION,
        help="With --metric loss: types to choose from: k, all, or comma-separated names. With any metric: portable, "
        "which leaves out types that some programs do not read.",
    ),
]
GranularityFlag = Annotated[
    Granularity | None,
    typer.Option(
        rich_help_panel=ALLOCATION, help="With --metric loss: one type per block or per tensor; default tensor."
    ),
]
EmbeddingFlag = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=ALLOCATION,
        help="Type of the token embedding; default Q6_K if it is also the head, otherwise Q4_K.",
    ),
]
OutputTypeFlag = Annotated[
    str | None, typer.Option(rich_help_panel=ALLOCATION, help="Type of a separate output head; default Q6_K.")
]
StrictFlag = Annotated[
    bool,
    typer.Option("--strict-types", rich_help_panel=ALLOCATION, help="Refuse types that do not fit a tensor's rows."),
]

ProjectionsFlag = Annotated[
    Projections, typer.Option(rich_help_panel=BLOCKS, help="Projections whose geometry counts.")
]
BaselineFlag = Annotated[Baseline, typer.Option(rich_help_panel=BLOCKS, help="Untrained counterpart.")]
ProbeFlag = Annotated[
    Path | None, typer.Option(rich_help_panel=BLOCKS, help="Text for measuring the geometry; default: built in.")
]
ProbeTokensFlag = Annotated[
    int, typer.Option(min=16, rich_help_panel=BLOCKS, help="Number of tokens of the probe text.")
]

RoundingFlag = Annotated[
    Rounding | None,
    typer.Option(
        rich_help_panel=ROUNDING,
        help="feedback-once (error feedback that follows the model's loss, measured once), feedback (slightly better, "
        "measured for each budget), imatrix (rounds as llama.cpp does), or nearest. Default: set by --effort.",
    ),
]
CalibrationFlag = Annotated[
    str,
    typer.Option(rich_help_panel=ROUNDING, help="Calibration text: builtin, self, docs, mixed, none, or a file."),
]
CalibrationTokensFlag = Annotated[
    int | None,
    typer.Option(
        min=64,
        rich_help_panel=ROUNDING,
        help="Length of the calibration text in tokens. Default: 8192, or 3 per column and at least 16384 where the "
        "loss is followed (a quarter with --effort quick, twice as many with best).",
    ),
]
TuneFlag = Annotated[
    float | None,
    typer.Option(
        min=0,
        rich_help_panel=ROUNDING,
        help="Minutes of tuning after rounding: trains scales, norms and biases on the model's predictions. Default: "
        "0, or 30 with --effort best.",
    ),
]
TuneStepsFlag = Annotated[
    int | None,
    typer.Option(
        min=1,
        rich_help_panel=ROUNDING,
        help="Maximum number of tuning steps; without --tune, the same number gives the same bytes.",
    ),
]
TuneTokensFlag = Annotated[
    int | None,
    typer.Option(
        min=4096, rich_help_panel=ROUNDING, help="Number of tokens to tune on, at least 16 windows; default 32768."
    ),
]
ImatrixFlag = Annotated[
    Path | None,
    typer.Option(rich_help_panel=ROUNDING, help="Importance measured by llama-imatrix, instead of a calibration text."),
]

DeviceFlag = Annotated[
    str | None,
    typer.Option(rich_help_panel=DEVICE, help="Target device: a name, e.g. pi5-4gb, or a file from `bench --types`."),
]
ContextSizeFlag = Annotated[
    int | None,
    typer.Option(
        min=1,
        rich_help_panel=DEVICE,
        help="Tokens in a conversation, which needs room beside the weights; default 4096.",
    ),
]
KvFlag = Annotated[
    CacheType | None,
    typer.Option(rich_help_panel=DEVICE, help="Type of a conversation's keys and values; default f16."),
]
MinTpsFlag = Annotated[
    float | None,
    typer.Option(rich_help_panel=DEVICE, help="Minimum predicted tokens per second in an answer."),
]

TextFlag = Annotated[Path | None, typer.Option(rich_help_panel=VALIDATION, help="Text to score on; default: built in.")]
ParseSpecialFlag = Annotated[
    bool,
    typer.Option(
        "--parse-special",
        rich_help_panel=VALIDATION,
        help="Treat special tokens in the text as tokens, as in rendered conversations.",
    ),
]
ContextFlag = Annotated[int, typer.Option(min=8, rich_help_panel=VALIDATION, help="Tokens per window.")]

SeedFlag = Annotated[
    int, typer.Option(min=0, max=2**32 - 1, rich_help_panel=MACHINE, help="Seed for everything random.")
]
ThreadsFlag = Annotated[
    int | None, typer.Option(min=1, rich_help_panel=MACHINE, help="CPU threads; default: all cores.")
]
CacheDirFlag = Annotated[
    Path | None,
    typer.Option(
        rich_help_panel=MACHINE,
        help="Cache folder; default: LIEQ_CACHE_DIR, or the platform's cache folder.",
    ),
]
NoCacheFlag = Annotated[
    bool, typer.Option("--no-cache", rich_help_panel=MACHINE, help="Measure everything again and store nothing.")
]
CacheLimitFlag = Annotated[str, typer.Option(rich_help_panel=MACHINE, help="Maximum size of the cache, e.g. 10GB.")]
ForceFlag = Annotated[bool, typer.Option("--force", rich_help_panel=MACHINE, help="Replace existing output files.")]
JsonFlag = Annotated[bool, typer.Option("--json", rich_help_panel=MACHINE, help="Print one JSON document on stdout.")]
VerboseFlag = Annotated[
    bool, typer.Option("--verbose", "-v", rich_help_panel=MACHINE, help="Explain the numbers in the report.")
]
DebugFlag = Annotated[bool, typer.Option("--debug", rich_help_panel=MACHINE, help="Show tracebacks.")]
