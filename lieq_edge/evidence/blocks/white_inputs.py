"""Geometry of the weights alone, for models of which nobody can see what their projections receive.

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
        source: the model.
        projections: ``qkv``, or ``all`` matrices of a block (but not experts).
        seeds: of the untrained weights.

    Raises:
        InputError: a block has no such projections, or its weights are no numbers.
    """
    results: list[dict[str, Geometry]] = []
    chosen = chosen_projections(source, projections)
    with torch.no_grad(), stage("Measuring geometry of the weights", len(chosen)) as advance:
        for parts in chosen.values():
            found: dict[str, Geometry] = {}
            for part in parts:
                own = torch.from_numpy(source.read(part.tensor))[part.rows]
                untrained = [
                    head_spectra(draw(own.shape, 0.02, seed, part.block, part.place).T, part.head) for seed in seeds
                ]
                found[part.role] = gains(head_spectra(own.T, part.head), torch.stack(untrained))
            results.append(dict(sorted(found.items())))
            advance()
    return results
