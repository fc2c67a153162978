"""Geometry and dPPL in PyTorch, in as few passes over the blocks as possible."""

from __future__ import annotations

import torch
from torch import Tensor

from ...blockwise.model import BlockModel
from ...sources.base import Source
from ...system.progress import stage
from ...texts.windows import Windows
from . import saliency
from .geometry import Geometry, GeometryPass, block_diagnostics
from .request import BlockMeasurements, BlockRequest


def sweep_blocks(source: Source, request: BlockRequest, *, threads: int | None = None) -> BlockMeasurements:
    """Measure every block; the geometry rides on the first sweep for dPPL.

    Args:
        source: model with the weights.
        request: measurements to make.
        threads: number of CPU threads, None for all cores.

    Raises:
        InputError: the model cannot be run.
    """
    with torch.no_grad():
        geometry, ppl, drops = _sweep(BlockModel(source, threads=threads), request)
    blocks = []
    for index in range(source.n_blocks):
        drop = drops[index] if drops else None
        blocks.append(block_diagnostics(index, geometry[index] if geometry else None, drop))
    return BlockMeasurements(blocks, ppl, "transformers" if request.probe is not None else None)


def _sweep(model: BlockModel, request: BlockRequest) -> tuple[list[dict[str, Geometry]], float | None, list[float]]:
    """Geometry by block and role, perplexity, and dPPL by block."""
    geometry = None
    if request.probe is not None:
        geometry = GeometryPass(
            model,
            torch.from_numpy(request.probe),
            projections=request.projections,
            baseline=request.baseline,
            seeds=request.seeds,
        )
    pieces = _pieces(model, request.saliency)
    losses = torch.zeros(model.n_blocks + 1, dtype=torch.float64)
    titles = (("geometry", request.probe), ("saliency", request.saliency))
    title = " and ".join(name for name, text in titles if text is not None)
    with stage(f"Measuring {title}", len(pieces) * model.n_blocks) as advance:
        for number, piece in enumerate(pieces):
            sweep = None
            if piece is not None:
                sweep = saliency.SaliencyPass(model, piece, bfloat16=request.bfloat16)
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
    if request.saliency is None:
        return results, None, []
    count, length = request.saliency.shape
    return results, *saliency.perplexity_drops(losses, count * (length - 1))


def _pieces(model: BlockModel, windows: Windows | None) -> list[Tensor | None]:
    """Windows for dPPL that go through the model together; a single None if only the geometry is measured."""
    if windows is None:
        return [None]
    return list(torch.from_numpy(windows).split(saliency.windows_at_once(model, windows.shape[1])))
