"""Independent: each block is rounded by what its matrices receive in the original."""

from __future__ import annotations

from ..evidence.loss.request import Follow
from .feedback import Feedback


class Independent(Feedback):
    """No model is run for another budget; nearly as good as ``Sequential``."""

    name = "feedback-once"
    follow = Follow.HESSIANS
