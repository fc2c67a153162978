"""Models that transformers knows, run by PyTorch with one block in memory at a time.

PyTorch takes seconds to import, so modules that need it are imported by the first measurement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..evidence.blocks.request import BlockMeasurements, BlockRequest
from ..evidence.importance.records import Importances
from ..store import Cache, Run
from ..texts.windows import Windows
from .base import Runtime

if TYPE_CHECKING:
    from ..evidence.loss.measure import LossEvidence, LossRequest


class TorchRuntime(Runtime):
    """PyTorch and transformers: every measurement."""

    name = "transformers"

    def refusal(self, ability: str) -> str | None:
        return None

    def measure_blocks(self, request: BlockRequest) -> BlockMeasurements:
        from ..evidence.blocks.sweep import sweep_blocks

        return sweep_blocks(self.source, request, threads=self.threads)

    def measure_importances(self, windows: Windows, *, run: Run, bfloat16: bool | None = None) -> Importances:
        from ..evidence.importance.forward_pass import run_importance

        return run_importance(self.source, windows, threads=self.threads, bfloat16=bfloat16, run=run)

    def write_text(self, openings: list[list[int]], length: int, seed: int, stop: frozenset[int]) -> Windows:
        from ..blockwise.sampling import sample_text

        return sample_text(self.source, openings, length, seed=seed, stop=stop, threads=self.threads)

    def measure_loss(self, request: LossRequest, cache: Cache, run: Run | None) -> LossEvidence:
        from ..evidence.loss.measure import measure_loss

        return measure_loss(self.source, request, threads=self.threads, cache=cache, run=run)
