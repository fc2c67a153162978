"""Requests for measurements of blocks, and their results."""

from __future__ import annotations

from dataclasses import dataclass

from ...texts.windows import Windows
from .records import BlockDiagnostics


@dataclass(frozen=True)
class BlockRequest:
    """Measurements of blocks to make.

    Attributes:
        probe: token ids for the geometry, ``(1, T)``; None leaves it out.
        saliency: token ids for dPPL, ``(n, T)``; None leaves it out.
        projections: ``qkv``, or ``all`` matrices of a block.
        baseline: untrained counterpart of the geometry: ``projection`` or ``network``.
        seeds: seeds of the untrained counterpart.
        bfloat16: False keeps dPPL in float32; see ``blockwise.precision.takes_bfloat16``.
    """

    probe: Windows | None
    saliency: Windows | None
    projections: str = "qkv"
    baseline: str = "projection"
    seeds: tuple[int, ...] = (0, 1, 2)
    bfloat16: bool | None = None


@dataclass(frozen=True)
class BlockMeasurements:
    """Measurements of blocks.

    Attributes:
        blocks: one record a block.
        ppl: perplexity of the whole model on the saliency text; None without dPPL.
        inputs: source of the inputs for the geometry; see ``Diagnostics.inputs``.
    """

    blocks: list[BlockDiagnostics]
    ppl: float | None
    inputs: str | None
