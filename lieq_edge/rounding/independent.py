"""Independent: each block is rounded by the Hessians of the original."""

from __future__ import annotations

from ..evidence.loss.request import Follow
from .feedback import Feedback


class Independent(Feedback):
    """Nearly as good as ``Sequential``, and no model is run for another budget."""

    name = "feedback-once"
    follow = Follow.HESSIANS
