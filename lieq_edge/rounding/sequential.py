"""Sequential: each block is measured and rounded behind the rounded ones before it."""

from __future__ import annotations

from ..evidence.loss.request import Follow
from .feedback import Feedback


class Sequential(Feedback):
    """The best rounding; the model is run again for each budget."""

    name = "feedback"
    follow = Follow.STREAM
