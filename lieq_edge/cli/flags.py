"""Flags that more than one command takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Argument(help="Hugging Face directory, hub id, .gguf file, or `demo`.")]
RevisionFlag = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")]
LoraFlag = Annotated[Path | None, typer.Option(help="Directory of a PEFT adapter (LoRA) to merge into the weights.")]
PickleFlag = Annotated[
    bool,
    typer.Option("--allow-pickle", help="Read pickled weights (.bin), as tensors only, if there are no others."),
]
BudgetFlag = Annotated[
    str | None, typer.Option(help="2.1 = nominal bits, 3.0bpw = bits a weight, 90MB = size of the file.")
]
MetricFlag = Annotated[
    str, typer.Option(help="Score of the blocks: geometry, composite, saliency, loss, random, first, last.")
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
RoundingFlag = Annotated[
    str | None,
    typer.Option(
        help="feedback (error feedback that follows the model's loss; default), feedback-once (nearly as good; other "
        "budgets are quick), imatrix (quick), or nearest."
    ),
]
ImatrixFlag = Annotated[
    Path | None, typer.Option(help="Importance measured by llama-imatrix, instead of a calibration text.")
]
TypesFlag = Annotated[str, typer.Option(help="With --metric loss: types to choose from: k, all, or names with commas.")]
GranularityFlag = Annotated[
    str | None, typer.Option(help="With --metric loss: a type for each block or tensor; default tensor.")
]
CalibrationFlag = Annotated[str, typer.Option(help="Calibration text: self, docs, mixed, none, or a file.")]
CalibrationTokensFlag = Annotated[
    int | None,
    typer.Option(min=64, help="Tokens of it; default 8192, or where the loss is followed 3 a column, at least 16384."),
]
StrictFlag = Annotated[bool, typer.Option("--strict-types", help="Refuse types that do not fit a tensor's rows.")]
TextFlag = Annotated[Path | None, typer.Option(help="Text to score on; default: built in.")]
ParseSpecialFlag = Annotated[
    bool,
    typer.Option("--parse-special", help="Read special tokens in the text as tokens, as in rendered conversations."),
]
ContextFlag = Annotated[int, typer.Option(min=8, help="Tokens of a window.")]
RecipeFlag = Annotated[Path | None, typer.Option(help="YAML file with settings; flags win over it.")]
CacheDirFlag = Annotated[
    Path | None,
    typer.Option(help="Folder of the cache; default: LIEQ_CACHE_DIR, or the platform's folder for caches."),
]
NoCacheFlag = Annotated[bool, typer.Option("--no-cache", help="Measure everything again and store nothing.")]
CacheLimitFlag = Annotated[str, typer.Option(help="Size that the cache may take, e.g. 10GB.")]
ForceFlag = Annotated[bool, typer.Option("--force", help="Replace existing output files.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", help="No progress and no notes on stderr.")]
DebugFlag = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
