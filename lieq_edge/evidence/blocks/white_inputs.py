"""Geometry of the weights alone, for models whose projections have inputs that cannot be observed.

With white inputs (uncorrelated, of the same variance in every channel) the outputs of a projection have the spectrum of
its matrix: dr and dE are then those of the weights.
"""

from __future__ import annotations

import torch

from ...sources.base import Source
from ...system.progress import stage
from .geometry import Geometry, gains, head_spectra
from .heads import chosen_projections
from .untrained import draw


def measure_weights(source: Source, *, projections: str, seeds: tuple[int, ...]) -> list[dict[str, Geometry]]:
    """dr and dE of every block, as ``GeometryPass`` measures them, with white inputs.

    Args:
        source: model with the weights.
        projections: ``qkv``, or ``all`` matrices of a block except experts.
        seeds: seeds of the untrained weights.

    Raises:
        InputError: a block has no such projections, or weights are NaN or Inf.
    """
    results: list[dict[str, Geometry]] = []
    chosen = chosen_projections(source, projections)
    with torch.no_grad(), stage("Measuring geometry of the weights", len(chosen)) as advance:
        for parts in chosen.values():
            geometry: dict[str, Geometry] = {}
            for part in parts:
                weight = torch.from_numpy(source.read(part.tensor))[part.rows]
                untrained = [
                    head_spectra(draw(weight.shape, 0.02, seed, part.block, part.place).T, part.head) for seed in seeds
                ]
                geometry[part.role] = gains(head_spectra(weight.T, part.head), torch.stack(untrained))
            results.append(dict(sorted(geometry.items())))
            advance()
    return results
