"""Measure a model: what allocation needs to know of it, in as few passes over its blocks as possible."""

from __future__ import annotations

import dataclasses
import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InputError
from ...gguf.container import metadata_bytes
from ...sources.base import Source
from ...store import NO_CACHE, Cache, Entry
from ...system.progress import log, stage
from ...texts.windows import (
    SALIENCY_CONTEXT,
    SALIENCY_TOKENS,
    Windows,
    builtin_text,
    load_text,
    longest_window,
    text_windows,
)
from .correlate import spearman
from .records import BlockDiagnostics, Diagnostics, TensorInfo

if TYPE_CHECKING:
    from torch import Tensor

    from .geometry import Geometry

METRICS = frozenset({"geometry", "saliency"})


def describe(source: Source) -> Diagnostics:
    """What is known of a model without running it (and without torch): tensors and sizes, no measurements."""
    return Diagnostics(
        model=source.label,
        architecture=source.architecture,
        model_hash=source.content_hash,
        metadata_bytes=metadata_bytes(source.metadata()),
        tensors=tuple(TensorInfo(t.name, t.shape, t.stored if t.kept else None) for t in source.tensors()),
        blocks=tuple(BlockDiagnostics(index) for index in range(source.n_blocks)),
        probe=None,
        saliency_text=None,
        base_ppl=None,
        projections="qkv",
        baseline="projection",
        seeds=(),
        versions={
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("lieq-edge", "numpy", "torch", "transformers")},
        },
    )


def analyze(
    source: Source,
    *,
    metrics: set[str] | frozenset[str] = METRICS,
    projections: str = "qkv",
    baseline: str = "projection",
    seeds: tuple[int, ...] = (0, 1, 2),
    probe_text: Path | None = None,
    probe_tokens: int = 512,
    saliency_text: Path | None = None,
    saliency_tokens: int = SALIENCY_TOKENS,
    threads: int | None = None,
    bfloat16: bool | None = None,
    cache: Cache = NO_CACHE,
) -> Diagnostics:
    """Measure every block.

    Args:
        source: the model.
        metrics: any of ``geometry`` (dr, dE) and ``saliency`` (dPPL).
        projections: ``qkv`` or ``all`` (geometry).
        baseline: ``projection`` or ``network`` (geometry).
        seeds: of the untrained counterpart (geometry).
        probe_text: file with the probe of the geometry; None takes the built-in text.
        probe_tokens: length of the probe, read as one window.
        saliency_text: file that perplexity is taken on; None takes the built-in text.
        saliency_tokens: of it, at most, in windows of ``SALIENCY_CONTEXT``.
        threads: CPU threads for torch.
        bfloat16: for dPPL, see ``precision.takes_bfloat16``: a third of the time, and off by 1 % of itself at most
            (measured on the demo model, all 30 blocks in the same order).
        cache: for results of this model.

    Raises:
        InputError: a text cannot be read or is too short, or the model cannot be run.
    """
    check_measurable(source, metrics, baseline)
    probe = saliency = None
    if "geometry" in metrics:
        text, name = _text(probe_text, "probe")
        probe, probe_info = text_windows(source, text, name, tokens=probe_tokens, context=probe_tokens)
    if "saliency" in metrics:
        text, name = _text(saliency_text, "saliency")
        context = longest_window(source, min(SALIENCY_CONTEXT, saliency_tokens))
        saliency, saliency_info = text_windows(source, text, name, tokens=saliency_tokens, context=context)
    found = describe(source)

    def measure() -> Entry:
        ppl: float | None = None
        drops: list[float] = []
        geometry: list[dict[str, Geometry]] = []
        inputs = "transformers" if probe is not None else None
        if source.in_transformers:
            geometry, ppl, drops = _measure(source, probe, saliency, projections, baseline, seeds, threads, bfloat16)
        elif probe is not None:
            geometry, inputs = _measure_through_llama(source, probe, projections, seeds, threads)
        blocks = [_with_geometry(block, geometry[block.index]) if geometry else block for block in found.blocks]
        if drops:
            blocks = [dataclasses.replace(block, delta_ppl=drops[block.index]) for block in blocks]
        return Entry(record={"blocks": [dataclasses.asdict(b) for b in blocks], "ppl": ppl, "inputs": inputs})

    parts: dict[str, object] = {
        "probe": probe,
        "saliency": saliency,
        "projections": projections,
        "baseline": baseline,
        "seeds": seeds,
    }
    if saliency is not None:
        # Whether this processor has bfloat16 products is part of every key.
        parts["bfloat16"] = bfloat16 is not False
    measured = cache.entry("diagnostics", parts, measure).record
    blocks = [BlockDiagnostics(**block) for block in measured["blocks"]]
    by_geometry, by_saliency = probe is not None, saliency is not None
    if measured["inputs"] == "white":
        _tell_white(source)
        probe = None
    return dataclasses.replace(
        found,
        blocks=tuple(blocks),
        probe=probe_info if probe is not None else None,
        saliency_text=saliency_info if saliency is not None else None,
        base_ppl=measured["ppl"],
        projections=projections,
        baseline=baseline,
        seeds=seeds if by_geometry else (),
        correlations=_correlations(blocks) if by_geometry and by_saliency else {},
        inputs=measured["inputs"],
    )


def check_measurable(source: Source, metrics: set[str] | frozenset[str], baseline: str) -> None:
    """Refuse what llama.cpp alone cannot measure.

    Raises:
        InputError: transformers does not run the model, and ``metrics`` or ``baseline`` ask for it.
    """
    if source.in_transformers:
        return
    if "saliency" in metrics:
        raise InputError(
            f"{source.label} ({source.architecture}) is run through llama.cpp, which cannot leave out a block, so "
            "dPPL is not to be had; pass --metric geometry, random, first or last."
        )
    if "geometry" in metrics and baseline != "projection":
        raise InputError(
            f"{source.label} ({source.architecture}) is run through llama.cpp, which has no untrained counterpart of "
            "it; pass --baseline projection."
        )


def _measure(
    source: Source,
    probe: Windows | None,
    saliency: Windows | None,
    projections: str,
    baseline: str,
    seeds: tuple[int, ...],
    threads: int | None,
    bfloat16: bool | None,
) -> tuple[list[dict[str, Geometry]], float | None, list[float]]:
    """Geometry by block and role, perplexity, and dPPL by block; the geometry rides on the first saliency sweep."""
    import torch

    from ...blockwise.model import BlockModel
    from .geometry import GeometryPass
    from .saliency import SaliencyPass, perplexity_drops, windows_at_once

    with torch.no_grad():
        model = BlockModel(source, threads=threads)
        geometry = None
        if probe is not None:
            geometry = GeometryPass(
                model, torch.from_numpy(probe), projections=projections, baseline=baseline, seeds=seeds
            )
        pieces: list[Tensor | None] = [None]
        if saliency is not None:
            pieces = list(torch.from_numpy(saliency).split(windows_at_once(model, saliency.shape[1])))
        losses = torch.zeros(model.n_blocks + 1, dtype=torch.float64)
        title = " and ".join(name for name, on in (("geometry", probe), ("saliency", saliency)) if on is not None)
        with stage(f"Measuring {title}", len(pieces) * model.n_blocks) as advance:
            for number, piece in enumerate(pieces):
                sweep = SaliencyPass(model, piece, bfloat16=bfloat16) if piece is not None else None
                for index in range(model.n_blocks):
                    with model.block(index) as module:
                        if geometry and number == 0:
                            geometry.step(module, index)
                        if sweep:
                            sweep.step(module, index)
                    advance()
                if sweep:
                    losses += sweep.losses()
    results = geometry.results if geometry else []
    if saliency is None:
        return results, None, []
    return results, *perplexity_drops(losses, saliency.shape[0] * (saliency.shape[1] - 1))


def _measure_through_llama(
    source: Source, probe: Windows, projections: str, seeds: tuple[int, ...], threads: int | None
) -> tuple[list[dict[str, Geometry]], str]:
    """Geometry by block and role, and whose inputs it is of: ``white`` when it is that of the weights alone."""
    from ...llama.session import NotSeen
    from ...runtimes.llama_cpp import measure_geometry
    from .white_inputs import measure_weights

    try:
        return measure_geometry(source, probe, projections=projections, seeds=seeds, threads=threads), "llama.cpp"
    except NotSeen:
        return measure_weights(source, projections=projections, seeds=seeds), "white"


def _tell_white(source: Source) -> None:
    note = (
        f"What the projections of {source.label} ({source.architecture}) receive cannot be seen in llama.cpp, so "
        "their geometry is that of the weights alone (white inputs)."
    )
    source.warnings += (note,)
    log(f"Note: {note}")


def _text(path: Path | None, purpose: str) -> tuple[str, str]:
    return builtin_text(purpose) if path is None else (load_text(path), path.name)


def _with_geometry(block: BlockDiagnostics, geometry: dict[str, Geometry]) -> BlockDiagnostics:
    from .geometry import block_means

    compactness_gain, energy_gain = block_means(geometry)
    return dataclasses.replace(
        block,
        compactness_gain=compactness_gain,
        energy_gain=energy_gain,
        projections={role: float(found.compactness_gain.mean()) for role, found in geometry.items()},
    )


def _correlations(blocks: list[BlockDiagnostics]) -> dict[str, float]:
    """Spearman's rho of each proxy with |dPPL|, where there is one."""
    saliency = [abs(block.delta_ppl or 0.0) for block in blocks]
    found = {}
    for field in ("compactness_gain", "energy_gain"):
        rho = spearman(saliency, [getattr(block, field) for block in blocks])
        if rho is not None:
            found[field] = rho
    return found
