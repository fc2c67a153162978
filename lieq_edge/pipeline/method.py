"""The method of an export: the metric, the rounding and the length of the calibration text that the user leaves open.

A budget without a unit is the paper's, and takes the paper's method. A size takes predicted losses wherever the model
can be run in PyTorch, and ``effort`` says how much time it may take.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..allocation import by_loss
from ..allocation.budget import Budget
from ..evidence.blocks.metrics import GEOMETRY
from ..runtimes import Runtime
from ..runtimes.base import LOSS
from ..settings import Effort, Settings
from .effort import WORK

# With feedback some windows of the text are held out.
_LEAST_FEEDBACK_TOKENS = 1024


@dataclass(frozen=True)
class Method:
    """The way from a budget to a file.

    Attributes:
        metric: name of the metric.
        rounding: name of the rounding.
        effort: effort that the user allows.
        sentence: the method for the user, and how to get the other one.
    """

    metric: str
    rounding: str
    effort: Effort
    sentence: str

    @property
    def rows(self) -> int:
        """Rows of a block's matrix that are rounded to predict its losses."""
        return WORK[self.effort].rows


def choose_method(settings: Settings, budget: Budget, runtime: Runtime, *, saved: bool = False) -> Method:
    """The explicit metric and rounding, or those that budget, effort and model suggest.

    Args:
        settings: settings of the user.
        budget: budget of the user.
        runtime: runtime of the model.
        saved: measurements of the blocks are given.
    """
    metric, reason = _metric(settings, budget, runtime, saved)
    rounding = settings.rounding or _rounding(settings, runtime, metric)
    return Method(metric, rounding, settings.effort, _sentence(settings, metric, rounding, reason))


def _metric(settings: Settings, budget: Budget, runtime: Runtime, saved: bool) -> tuple[str, str]:
    """The metric, and the reason for it; no reason where the user names it."""
    if settings.metric is not None:
        return settings.metric, ""
    if settings.gives("levels"):
        return GEOMETRY, "because of --levels"
    if settings.type_choices:
        return by_loss.NAME, "because of --types or --granularity"
    if saved:
        return GEOMETRY, "because measurements of the blocks are given"
    if budget.kind == "nominal":
        return GEOMETRY, "as in the paper, because the budget has no unit; a size such as 90MB takes predicted losses"
    if settings.calibration == "none" or settings.imatrix is not None:
        return GEOMETRY, "because there is no calibration text to predict losses on"
    if not _is_long_enough(settings):
        return GEOMETRY, "because the calibration text is too short to predict losses on"
    if runtime.refusal(LOSS) is not None:
        return GEOMETRY, f"because {runtime.name} runs this model and gives no gradients"
    return by_loss.NAME, f"because the budget is a size; --metric {GEOMETRY} takes the paper's score of blocks"


def _rounding(settings: Settings, runtime: Runtime, metric: str) -> str:
    if settings.imatrix is not None:
        return "imatrix"
    if settings.calibration == "none":
        return "nearest"
    if not _is_long_enough(settings) or runtime.refusal(LOSS) is not None:
        return "imatrix"
    if settings.effort == "quick" and metric != by_loss.NAME:
        # Nothing else needs the gradients, which take most of the time.
        return "imatrix"
    return WORK[settings.effort].rounding


def _is_long_enough(settings: Settings) -> bool:
    """The calibration text has sequences to learn from and sequences to judge by."""
    return settings.calibration_tokens is None or settings.calibration_tokens >= _LEAST_FEEDBACK_TOKENS


def _sentence(settings: Settings, metric: str, rounding: str, reason: str) -> str:
    way = "the predicted loss of each matrix" if metric == by_loss.NAME else f"the score of each block ({metric})"
    sentence = f"Method: bits by {way}, --rounding {rounding}, --effort {settings.effort}"
    return f"{sentence}, {reason}." if reason else f"{sentence}."
