"""Calibration of an export: a text, an imatrix file, or none."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..evidence.importance.records import Importances
from ..gguf.types import is_matrix
from ..settings import Effort
from ..sources.base import Source
from ..texts.info import TextInfo
from ..texts.windows import written_tokens
from .effort import WORK


@dataclass(frozen=True)
class CalibrationText:
    """A text that is written or read when evidence is gathered.

    Attributes:
        text: ``builtin``, ``self``, ``docs``, ``mixed``, or the path of a file.
        tokens: length of the text, at most.
    """

    text: str
    tokens: int

    @property
    def is_written(self) -> bool:
        """True if the model has to write it, or a part of it."""
        return written_tokens(self.text, self.tokens) > 0


@dataclass(frozen=True)
class ImatrixFile:
    """Importances that ``llama-imatrix`` measured, and the record of the file."""

    importances: Importances
    info: TextInfo


@dataclass(frozen=True)
class NoCalibration:
    """No calibration.

    Attributes:
        wanted: the user asked for none, so types that are of little use without calibration are written nevertheless.
    """

    wanted: bool


Calibration = CalibrationText | ImatrixFile | NoCalibration

# H of n columns is of full rank from n tokens on, and worth following from a few times as many.
_LEAST_TOKENS, _TOKENS_A_COLUMN, _WINDOW = 16384, 3, 512
_IMPORTANCE_TOKENS = 8192


def default_tokens(source: Source, *, follows_loss: bool, effort: Effort = "normal") -> int:
    """Default length of the calibration text: where the loss is followed, longer for models with wider rows."""
    if not follows_loss:
        return _IMPORTANCE_TOKENS
    widest = max(spec.shape[-1] for spec in source.tensors() if is_matrix(spec.name, spec.shape))
    return math.ceil(WORK[effort].text * max(_LEAST_TOKENS, _TOKENS_A_COLUMN * widest) / _WINDOW) * _WINDOW
