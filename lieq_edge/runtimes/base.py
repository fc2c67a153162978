"""What is asked of a runtime, whichever program runs the model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from ..errors import InputError
from ..evidence.blocks.request import BlockMeasurements, BlockRequest
from ..evidence.importance.records import Importances
from ..sources.base import Source
from ..store import Cache, Run
from ..texts.windows import Windows

if TYPE_CHECKING:
    from ..evidence.loss.measure import LossEvidence, LossRequest

LOSS, NETWORK = "loss", "network"
"""What only some runtimes give beside the measurements: gradients of the loss, and a wholly untrained model."""


class Runtime(ABC):
    """A model that can be run.

    Attributes:
        name: the program that runs it.
        source: the model.
        threads: number of CPU threads, None for all cores.
    """

    name: ClassVar[str]

    def __init__(self, source: Source, *, threads: int | None = None) -> None:
        self.source = source
        self.threads = threads

    @abstractmethod
    def refusal(self, what: str) -> str | None:
        """A sentence that says why this runtime does not give ``what``; None where it does.

        Args:
            what: a measurement (``geometry``, ``saliency``), ``NETWORK`` or ``LOSS``.
        """

    def require(self, what: str) -> None:
        """Refuse what this runtime does not give.

        Raises:
            InputError: with its refusal.
        """
        sentence = self.refusal(what)
        if sentence is not None:
            raise InputError(sentence)

    @abstractmethod
    def measure_blocks(self, request: BlockRequest) -> BlockMeasurements:
        """Geometry and dPPL of every block.

        Raises:
            InputError: the model cannot be run.
        """

    @abstractmethod
    def measure_importances(self, windows: Windows, *, run: Run, bfloat16: bool | None = None) -> Importances:
        """Importances of all matrices on a calibration text.

        Args:
            windows: ids ``(n, T)``.
            run: where finished blocks are kept.
            bfloat16: False keeps float32.

        Raises:
            InputError: the model gives NaN or Inf on the text.
        """

    @abstractmethod
    def write_text(self, openings: list[list[int]], length: int, seed: int, stop: frozenset[int]) -> Windows:
        """Text sampled from the model, int64 ``(len(openings), length)``.

        Args:
            openings: first tokens of each sequence, which starts anew with them after an end of text.
            length: tokens of each sequence.
            seed: seed of the sampling.
            stop: ids that end a text.
        """

    def measure_loss(self, request: LossRequest, cache: Cache, run: Run | None) -> LossEvidence:
        """Loss weights and predicted losses; only where ``refusal(LOSS)`` is None."""
        raise InputError(self.refusal(LOSS) or f"{self.name} gives no gradients.")
