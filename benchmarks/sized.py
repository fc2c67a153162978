"""Files of several sizes, made by one export, and their scores on a text: shared by benchmarks of the whole command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants

from benchmarks.internals import Cache, Source, open_cache, reference_of, validate
from benchmarks.process_tree import measure as measure_command
from benchmarks.turns import ROOT, Failed, environment


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


def score(path: Path, source: Source, text: tuple[str, str], cache: Cache, args: argparse.Namespace) -> Scores:
    """Scores of a file on a text (content and name), with the distance from the original."""
    content, name = text
    found = validate(
        path,
        content,
        text_name=name,
        context=args.context,
        chunks=args.chunks,
        threads=args.threads,
        reference=reference_of(source),
        reference_name=source.label,
        cache=cache,
    )
    assert found.kld is not None
    assert found.kld_se is not None
    assert found.top1 is not None
    return Scores(found.file_bytes, found.ppl, found.kld, found.kld_se, found.top1)
