"""Models that transformers does not know, run by llama.cpp."""

from __future__ import annotations

import numpy as np

from ..evidence.blocks.metrics import SALIENCY
from ..evidence.blocks.request import BlockMeasurements, BlockRequest
from ..evidence.importance.records import Importances, matrix_means
from ..llama.session import Floats
from ..store import Run
from ..texts.windows import Windows
from .base import LOSS, NETWORK, Runtime
from .observe import observe


class LlamaRuntime(Runtime):
    """llama.cpp: geometry, importances and text; it has no gradients and cannot leave out a block."""

    name = "llama.cpp"

    def refusal(self, ability: str) -> str | None:
        start = f"{self.source.label} ({self.source.architecture}) is run through llama.cpp, which"
        return {
            SALIENCY: f"{start} cannot leave out a block, so dPPL cannot be measured; pass --metric geometry, random, "
            "first or last.",
            NETWORK: f"{start} has no untrained counterpart of it; pass --baseline projection.",
            LOSS: f"{start} gives no gradients for --metric loss or a --rounding with feedback; pass --metric geometry "
            "and --rounding imatrix instead.",
        }.get(ability)

    def measure_blocks(self, request: BlockRequest) -> BlockMeasurements:
        from .llama_passes import measure_geometry

        assert request.probe is not None
        blocks, inputs = measure_geometry(self.source, request, threads=self.threads)
        return BlockMeasurements(blocks, None, inputs)

    def measure_importances(self, windows: Windows, *, run: Run, bfloat16: bool | None = None) -> Importances:
        shapes = {t.name: t.shape for t in self.source.tensors() if not t.kept}
        sums = {name: np.zeros((_matrices(shape), shape[-1])) for name, shape in shapes.items()}
        counts = {name: np.zeros(_matrices(shape), np.int64) for name, shape in shapes.items()}

        def collect(name: str, x: Floats, matrix: int) -> None:
            # Squares of a window keep float32's accuracy; the sum over windows is float64.
            sums[name][matrix] += np.einsum("ij,ij->j", x, x)
            counts[name][matrix] += len(x)

        observe(self.source, windows, frozenset(shapes), collect, "Calibrating", self.threads)
        return {
            name: matrix_means(name, sums[name], counts[name], several=len(shape) > 2)
            for name, shape in shapes.items()
            if counts[name].any()
        }

    def write_text(self, openings: list[list[int]], length: int, seed: int, stop: frozenset[int]) -> Windows:
        from .llama_passes import generate

        return generate(self.source, openings, length, seed=seed, stop=stop, threads=self.threads).numpy()


def _matrices(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape[:-2])) if len(shape) > 2 else 1
