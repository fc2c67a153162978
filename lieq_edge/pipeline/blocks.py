"""Measure the blocks of a model, once for each combination of texts, seeds and metric."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evidence.blocks.correlate import spearman
from ..evidence.blocks.metrics import GEOMETRY, SALIENCY, BlockMetric
from ..evidence.blocks.records import BlockDiagnostics, Diagnostics, describe
from ..evidence.blocks.request import BlockRequest
from ..runtimes import Runtime
from ..store import Cache, Entry
from ..system.progress import log
from ..texts.info import TextInfo
from ..texts.windows import (
    SALIENCY_CONTEXT,
    SALIENCY_TOKENS,
    Windows,
    builtin_text,
    load_text,
    longest_window,
    text_windows,
)

BOTH = frozenset({GEOMETRY, SALIENCY})


@dataclass(frozen=True)
class BlockChoice:
    """Measurements of the blocks, and the texts that they are made on.

    Attributes:
        measurements: some of ``geometry`` (dr, dE) and ``saliency`` (dPPL).
        metric: metric of the blocks, which may measure their weights itself; None without one.
        projections: ``qkv`` or ``all`` (geometry).
        baseline: untrained counterpart: ``projection`` or ``network`` (geometry).
        seeds: seeds of the untrained counterpart (geometry).
        probe_text: file with the probe of the geometry; None takes the built-in text.
        probe_tokens: length of the probe, read as one window.
        saliency_text: file with the text for the perplexity; None takes the built-in text.
        saliency_tokens: most tokens of it, in windows of ``SALIENCY_CONTEXT``.
        bfloat16: False keeps dPPL in float32. bfloat16 products take a third of the time, and their error is small
            (docs/scale.md).
    """

    measurements: frozenset[str] = BOTH
    metric: BlockMetric | None = None
    projections: str = "qkv"
    baseline: str = "projection"
    seeds: tuple[int, ...] = (0, 1, 2)
    probe_text: Path | None = None
    probe_tokens: int = 512
    saliency_text: Path | None = None
    saliency_tokens: int = SALIENCY_TOKENS
    bfloat16: bool | None = None


def measure_diagnostics(runtime: Runtime, choice: BlockChoice, cache: Cache) -> Diagnostics:
    """Measure every block.

    Args:
        runtime: runtime with the model.
        choice: measurements and texts.
        cache: cache for results of this model.

    Raises:
        InputError: a text cannot be read or is too short, or the model cannot be run.
    """
    described = describe(runtime.source)
    diagnostics = _with_weight_metric(described, runtime, choice, cache)
    if not choice.measurements:
        return diagnostics
    request, probe_info, saliency_info = _request(runtime, choice)

    def measure() -> Entry:
        measured = runtime.measure_blocks(request)
        blocks = [dataclasses.asdict(block) for block in measured.blocks]
        return Entry(record={"blocks": blocks, "ppl": measured.ppl, "inputs": measured.inputs})

    record = cache.entry("diagnostics", _parts(request), measure).record
    blocks = [
        dataclasses.replace(BlockDiagnostics(**block), measured=weighed.measured)
        for block, weighed in zip(record["blocks"], diagnostics.blocks, strict=True)
    ]
    if record["inputs"] == "white":
        _note_white_inputs(runtime)
        probe_info = None
    return dataclasses.replace(
        diagnostics,
        blocks=tuple(blocks),
        probe=probe_info,
        saliency_text=saliency_info,
        base_ppl=record["ppl"],
        projections=choice.projections,
        baseline=choice.baseline,
        seeds=choice.seeds if request.probe is not None else (),
        correlations=_correlations(blocks) if choice.measurements >= BOTH else {},
        inputs=record["inputs"],
    )


def is_stored(runtime: Runtime, choice: BlockChoice, cache: Cache) -> bool:
    """True if ``measure_diagnostics`` finds its measurements in the cache."""
    return not choice.measurements or cache.has("diagnostics", _parts(_request(runtime, choice)[0]))


def _request(runtime: Runtime, choice: BlockChoice) -> tuple[BlockRequest, TextInfo | None, TextInfo | None]:
    """The request, and the records of the probe and of the text for the perplexity."""
    probe, probe_info = _probe(runtime, choice) if GEOMETRY in choice.measurements else (None, None)
    saliency, saliency_info = _saliency(runtime, choice) if SALIENCY in choice.measurements else (None, None)
    request = BlockRequest(probe, saliency, choice.projections, choice.baseline, choice.seeds, choice.bfloat16)
    return request, probe_info, saliency_info


def _parts(request: BlockRequest) -> dict[str, Any]:
    parts: dict[str, Any] = {
        "probe": request.probe,
        "saliency": request.saliency,
        "projections": request.projections,
        "baseline": request.baseline,
        "seeds": request.seeds,
    }
    if request.saliency is not None:
        # Whether this processor has bfloat16 products is part of every key.
        parts["bfloat16"] = request.bfloat16 is not False
    return parts


def _with_weight_metric(diagnostics: Diagnostics, runtime: Runtime, choice: BlockChoice, cache: Cache) -> Diagnostics:
    """The diagnostics with the chosen metric's own measurement of the weights, if it makes one."""
    metric = choice.metric
    if metric is None or not metric.measures_weights:
        return diagnostics

    def measure() -> Entry:
        return Entry(record=metric.measure(runtime.source))

    values = cache.entry("weight-metric", {"metric": metric.name}, measure).record
    pairs = zip(diagnostics.blocks, values, strict=True)
    blocks = tuple(dataclasses.replace(block, measured={metric.name: value}) for block, value in pairs)
    return dataclasses.replace(diagnostics, blocks=blocks)


def _probe(runtime: Runtime, choice: BlockChoice) -> tuple[Windows, TextInfo]:
    text, name = _text(choice.probe_text, "probe")
    tokens = choice.probe_tokens
    return text_windows(runtime.source, text, name, tokens=tokens, context=tokens)


def _saliency(runtime: Runtime, choice: BlockChoice) -> tuple[Windows, TextInfo]:
    text, name = _text(choice.saliency_text, "saliency")
    context = longest_window(runtime.source, min(SALIENCY_CONTEXT, choice.saliency_tokens))
    return text_windows(runtime.source, text, name, tokens=choice.saliency_tokens, context=context)


def _text(path: Path | None, purpose: str) -> tuple[str, str]:
    return builtin_text(purpose) if path is None else (load_text(path), path.name)


def _note_white_inputs(runtime: Runtime) -> None:
    source = runtime.source
    note = (
        f"What the projections of {source.label} ({source.architecture}) receive cannot be seen in llama.cpp, so "
        "their geometry is that of the weights alone (white inputs)."
    )
    source.warnings += (note,)
    log(f"Note: {note}")


def _correlations(blocks: list[BlockDiagnostics]) -> dict[str, float]:
    """Spearman's rho of each proxy with |dPPL|, where it is defined."""
    saliency = [abs(block.delta_ppl or 0.0) for block in blocks]
    correlations = {}
    for field in ("compactness_gain", "energy_gain"):
        rho = spearman(saliency, [getattr(block, field) for block in blocks])
        if rho is not None:
            correlations[field] = rho
    return correlations
