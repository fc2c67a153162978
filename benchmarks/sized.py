"""Files of several sizes, made by one export, and their scores on a text: shared by benchmarks of the whole command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants

from benchmarks.internals import (
    Cache,
    Source,
    log,
    make_preset,
    measure_importance,
    open_cache,
    reference_of,
    validate_files,
    written_original,
)
from benchmarks.process_tree import measure as measure_command
from benchmarks.turns import ROOT, Failed, environment
from lieq_edge import Settings, resolve


def export_sizes(model: str, sizes: Sequence[str], work: Path, flags: Sequence[str] = ()) -> tuple[list[Path], float]:
    """Export a model at several sizes by a process of its own (``-b Q2_K -b Q4_K_M``), without scores.

    Args:
        model: the model; one of the hub must be in the hub's cache.
        sizes: budgets.
        work: folder for the files, whose names are the budgets, and for the cache.
        flags: further flags.

    Returns:
        The files, and the seconds of all together.

    Raises:
        Failed: the export ends with an error.
    """
    budgets = [part for size in sizes for part in ("--budget", size)]
    command = [sys.executable, "-m", "lieq_edge", "export", model, *budgets, "--out", str(work / "{budget}.gguf")]
    command += ["--force", *flags, "--no-validate", "--no-parity"]
    variables = {**environment(work), "HF_HUB_CACHE": str(constants.HF_HUB_CACHE)}
    measured = measure_command(command, environment=variables, folder=ROOT)
    if measured.returncode != 0:
        raise Failed(f"{' '.join(command)} ended with {measured.returncode}")
    return [work / f"{size}.gguf" for size in sizes], measured.seconds


def make_presets(source: Source, model: str, sizes: Sequence[str], args: argparse.Namespace) -> Iterator[Path]:
    """The files of llama.cpp's presets, one after the other, with an imatrix of what the plain command calibrates on.

    Args:
        source: the opened model.
        model: its name.
        sizes: names of the presets.
        args: options of the command line, with the folder for the files.
    """
    settings = Settings(budget=sizes[0], threads=args.threads)
    windows, info = resolve(model, settings, out=args.work / "none.gguf").windows
    log(f"Imatrix of {model}: {info.name}, {info.tokens} tokens.")
    importances = measure_importance(source, windows, threads=args.threads)
    with written_original(source, args.work) as original:
        for name in sizes:
            path = args.work / f"preset-{name}.gguf"
            options = {"chunks": len(windows), "threads": args.threads, "original": original}
            make_preset(source, name, path, importances, **options)
            yield path


def reference_cache(source: Source, args: argparse.Namespace) -> Cache:
    """A cache in the work folder, in which the original's part of the scores stays: it runs once for each text."""
    return open_cache(args.work / "reference", threads=args.threads).about(model=source.content_hash)


@dataclass(frozen=True)
class Scores:
    """A file on a text: its size, perplexity, mean KL divergence from the original, and share of same top tokens."""

    file_bytes: int
    ppl: float
    kld: float
    kld_se: float
    top1: float


def score(
    paths: Sequence[Path], source: Source, text: tuple[str, str], cache: Cache, args: argparse.Namespace
) -> list[Scores]:
    """Scores of files on a text (content and name), with the distance from the original, which runs once for all."""
    content, name = text
    scores = []
    for found in validate_files(
        paths,
        content,
        text_name=name,
        context=args.context,
        chunks=args.chunks,
        threads=args.threads,
        reference=reference_of(source),
        reference_name=source.label,
        cache=cache,
    ):
        assert found.kld is not None
        assert found.kld_se is not None
        assert found.top1 is not None
        scores.append(Scores(found.file_bytes, found.ppl, found.kld, found.kld_se, found.top1))
    return scores
