"""Geometry and text of a model that llama.cpp runs.

They are defined as in ``evidence.blocks.geometry`` and ``blockwise.sampling``; only the inputs of the projections come
from llama.cpp's graph, which multiplies quantised weights by 8-bit activations.
"""

from __future__ import annotations

import numpy as np
import torch

from ..blockwise.sequences import Writer, sample
from ..blockwise.threads import use_threads
from ..evidence.blocks.geometry import Geometry, block_diagnostics, gains, head_spectra
from ..evidence.blocks.heads import Part, chosen_projections
from ..evidence.blocks.records import BlockDiagnostics
from ..evidence.blocks.request import BlockRequest
from ..evidence.blocks.untrained import draw
from ..evidence.blocks.white_inputs import measure_weights
from ..llama.session import Floats, LlamaSession, NotSeen
from ..sources.base import Source
from ..system.progress import stage
from .observe import model_path, observe

_MOST_SEQUENCES = 64


def measure_geometry(
    source: Source, request: BlockRequest, *, threads: int | None = None
) -> tuple[list[BlockDiagnostics], str]:
    """dr and dE of every block with the baseline ``projection``, and the kind of inputs (``Diagnostics.inputs``).

    Where llama.cpp's graph does not show the inputs of the projections, the geometry is that of the weights alone
    (``white`` inputs).

    Raises:
        InputError: llama.cpp cannot run the model, or a block has no such projections.
    """
    assert request.probe is not None
    try:
        geometry = observed_geometry(source, request, threads)
        inputs = "llama.cpp"
    except NotSeen:
        geometry = measure_weights(source, projections=request.projections, seeds=request.seeds)
        inputs = "white"
    return [block_diagnostics(index, roles, None) for index, roles in enumerate(geometry)], inputs


def observed_geometry(source: Source, request: BlockRequest, threads: int | None) -> list[dict[str, Geometry]]:
    """Geometry by block and role, from the inputs of the projections in llama.cpp's graph.

    Raises:
        NotSeen: the graph does not show them.
    """
    assert request.probe is not None
    by_name: dict[str, list[Part]] = {}
    for parts in chosen_projections(source, request.projections).values():
        for part in parts:
            by_name.setdefault(part.tensor, []).append(part)
    results: list[dict[str, Geometry]] = [{} for _ in range(source.n_blocks)]

    def collect(name: str, x: Floats, _: int) -> None:
        inputs = torch.from_numpy(np.ascontiguousarray(x))
        matrix = torch.from_numpy(source.read(name))
        for part in by_name[name]:
            weight = matrix[part.rows]
            spectra = head_spectra(inputs @ weight.T, part.head)
            untrained = [
                head_spectra(inputs @ draw(weight.shape, 0.02, seed, part.block, part.place).T, part.head)
                for seed in request.seeds
            ]
            results[part.block][part.role] = gains(spectra, torch.stack(untrained))

    use_threads(threads)
    with torch.no_grad():
        observe(source, request.probe, frozenset(by_name), collect, "Measuring geometry", threads)
    for index, roles in enumerate(results):
        if not roles:
            raise NotSeen(f"llama.cpp does not use the projections of block {index}; pass --metric first or last.")
        results[index] = dict(sorted(roles.items()))
    return results


def generate(
    source: Source,
    openings: list[list[int]],
    length: int,
    *,
    seed: int,
    stop: frozenset[int],
    threads: int | None = None,
) -> torch.Tensor:
    """Sample sequences side by side as ``blockwise.sampling.generate`` does: int64 ``(len(openings), length)``."""
    generator = torch.Generator().manual_seed(seed)
    size = min(len(openings), _MOST_SEQUENCES)
    starts = range(0, len(openings), size)
    parts = []
    with (
        LlamaSession(model_path(source), context=length, sequences=size, threads=threads) as session,
        stage("Writing calibration text", length * len(starts)) as advance,
    ):
        for first in starts:
            session.forget()
            writer = Writer(openings[first : first + size], length, stop)
            for position in range(length):
                column = writer.put(position)
                if position + 1 < length:
                    logits = session.step(column[:, 0].numpy(), position)
                    writer.sampled = sample(torch.from_numpy(logits), generator)
                advance()
            parts.append(writer.ids)
    return torch.cat(parts)
