"""The interface of runtimes."""

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
"""Abilities that only some runtimes have: gradients of the loss, and a wholly untrained model."""


class Runtime(ABC):
    """A model that can be run.

    Attributes:
        name: name of the program that runs the model.
        source: model with the weights.
        threads: number of CPU threads, None for all cores.
    """

    name: ClassVar[str]

    def __init__(self, source: Source, *, threads: int | None = None) -> None:
        self.source = source
        self.threads = threads

    @abstractmethod
    def refusal(self, ability: str) -> str | None:
        """The reason, in a sentence, why this runtime lacks an ability; None if it has it.

        Args:
            ability: a measurement (``geometry``, ``saliency``), ``NETWORK`` or ``LOSS``.
        """

    def require(self, ability: str) -> None:
        """Make sure of an ability.

        Raises:
            InputError: this runtime lacks it; the sentence gives the reason.
        """
        sentence = self.refusal(ability)
        if sentence is not None:
            raise InputError(sentence)

    @abstractmethod
    def measure_blocks(self, request: BlockRequest) -> BlockMeasurements:
        """Geometry and dPPL of every block, as far as the request asks for them.

        Raises:
            InputError: the model cannot be run.
        """

    @abstractmethod
    def measure_importances(self, windows: Windows, *, run: Run, bfloat16: bool | None = None) -> Importances:
        """Importances of all matrices on a calibration text.

        Args:
            windows: token ids, ``(n, T)``.
            run: run that stores finished blocks.
            bfloat16: False keeps float32; None takes bfloat16 where the processor has it.

        Raises:
            InputError: the model gives NaN or Inf on the text.
        """

    @abstractmethod
    def write_text(self, openings: list[list[int]], length: int, seed: int, stop: frozenset[int]) -> Windows:
        """Text sampled from the model, int64 ``(len(openings), length)``.

        Args:
            openings: first tokens of each sequence, which are used again after an end of text.
            length: number of tokens of each sequence.
            seed: seed of the sampling.
            stop: ids that end a text.
        """

    def measure_loss(self, request: LossRequest, cache: Cache, run: Run | None) -> LossEvidence:
        """Loss weights and predicted losses.

        Raises:
            InputError: this runtime has no gradients.
        """
        raise InputError(self.refusal(LOSS) or f"{self.name} gives no gradients.")
