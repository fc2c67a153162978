"""Importance, geometry and calibration text through llama.cpp, for models that transformers does not run.

They are defined as in ``importance``, ``compactness`` and ``generate``; only the inputs of the projections come from
llama.cpp's graph, which multiplies quantised weights by 8-bit activations.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..llama.session import Floats, LlamaSession, NotSeen, observed
from ..sources.base import Source
from ..system.progress import stage

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from ..evidence.blocks.geometry import Geometry
    from ..texts.windows import Windows

_MOST_SEQUENCES = 64


def measure_importance(
    source: Source, tokens: Windows, *, threads: int | None = None
) -> dict[str, npt.NDArray[np.float32]]:
    """Importance as ``importance.measure_importance`` gives it, also of experts: ``(experts, columns)``.

    An expert that no token reached gets the mean of the others.

    Raises:
        InputError: llama.cpp cannot run the model, or it computes NaN or Inf on the text.
    """
    from ..evidence.importance.measure import matrix_means

    shapes = {t.name: t.shape for t in source.tensors() if not t.kept}
    sums = {name: np.zeros((_matrices(shape), shape[-1])) for name, shape in shapes.items()}
    counts = {name: np.zeros(_matrices(shape), np.int64) for name, shape in shapes.items()}

    def collect(name: str, x: Floats, matrix: int) -> None:
        # Squares of a window keep float32's accuracy; the sum over windows is float64.
        sums[name][matrix] += np.einsum("ij,ij->j", x, x)
        counts[name][matrix] += len(x)

    _run(source, tokens, frozenset(shapes), collect, "Calibrating", threads)
    return {
        name: matrix_means(name, sums[name], counts[name], several=len(shape) > 2)
        for name, shape in shapes.items()
        if counts[name].any()
    }


def measure_geometry(
    source: Source, probe: Windows, *, projections: str, seeds: tuple[int, ...], threads: int | None = None
) -> list[dict[str, Geometry]]:
    """dr and dE of every block as ``compactness.GeometryPass`` measures them with the baseline ``projection``.

    Args:
        source: the model.
        probe: ids ``(1, T)``.
        projections: ``qkv``, or ``all`` matrices of a block (but not experts).
        seeds: of the untrained weights.
        threads: CPU threads of llama.cpp.

    Raises:
        NotSeen: the graph does not tell what they receive.
        InputError: llama.cpp cannot run the model, or a block has no such projections.
    """
    import torch

    from ..blockwise.threads import use_threads
    from ..evidence.blocks.geometry import gains, head_spectra
    from ..evidence.blocks.heads import Part, chosen_projections
    from ..evidence.blocks.untrained import draw

    by_name: dict[str, list[Part]] = {}
    for parts in chosen_projections(source, projections).values():
        for part in parts:
            by_name.setdefault(part.tensor, []).append(part)
    results: list[dict[str, Geometry]] = [{} for _ in range(source.n_blocks)]

    def collect(name: str, x: Floats, _: int) -> None:
        inputs = torch.from_numpy(np.ascontiguousarray(x))
        weight = torch.from_numpy(source.read(name))
        for part in by_name[name]:
            own = weight[part.rows]
            spectra = head_spectra(inputs @ own.T, part.head)
            untrained = [
                head_spectra(inputs @ draw(own.shape, 0.02, seed, part.block, part.place).T, part.head)
                for seed in seeds
            ]
            results[part.block][part.role] = gains(spectra, torch.stack(untrained))

    use_threads(threads)
    with torch.no_grad():
        _run(source, probe, frozenset(by_name), collect, "Measuring geometry", threads)
    for index, found in enumerate(results):
        if not found:
            raise NotSeen(f"llama.cpp does not use the projections of block {index}; pass --metric first or last.")
        results[index] = dict(sorted(found.items()))
    return results


def generate(
    source: Source,
    openings: list[list[int]],
    length: int,
    *,
    seed: int,
    stop: frozenset[int],
    threads: int | None = None,
) -> Tensor:
    """Sample sequences side by side as ``generate.generate`` does: int64 ``(len(openings), length)``."""
    import torch

    from ..blockwise.sequences import Writer, sample

    generator = torch.Generator().manual_seed(seed)
    size = min(len(openings), _MOST_SEQUENCES)
    starts = range(0, len(openings), size)
    parts = []
    with (
        LlamaSession(_path(source), context=length, sequences=size, threads=threads) as session,
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


def _run(source: Source, tokens: Windows, names: frozenset[str], consume: Any, title: str, threads: int | None) -> None:
    with (
        observed(_path(source), names, consume, context=tokens.shape[1], threads=threads or os.cpu_count()) as session,
        stage(title, len(tokens)) as advance,
    ):
        for window in tokens:
            session.run(window)
            advance()


def _path(source: Source) -> Path:
    assert source.gguf_path is not None
    return source.gguf_path


def _matrices(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape[:-2])) if len(shape) > 2 else 1
