"""What is to be measured of the blocks, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass

from ...texts.windows import Windows
from .records import BlockDiagnostics


@dataclass(frozen=True)
class BlockRequest:
    """What is to be measured of the blocks.

    Attributes:
        probe: ids ``(1, T)`` for the geometry, or None.
        saliency: ids ``(n, T)`` for dPPL, or None.
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
    """What was measured.

    Attributes:
        blocks: one record a block.
        ppl: perplexity of the whole model on the saliency text, where that was asked for.
        inputs: whose inputs the geometry is of; see ``Diagnostics.inputs``.
    """

    blocks: list[BlockDiagnostics]
    ppl: float | None
    inputs: str | None
