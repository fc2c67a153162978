"""The positions of a window that are scored, and the key of a reference's part of the scores. Needs no PyTorch."""

from __future__ import annotations

from typing import Any

from ..llama.engine import Tokens


def scored_positions(context: int) -> slice:
    """Positions of a window whose predictions of the next token are scored (llama-perplexity's second half)."""
    return slice(context // 2, context - 1)


def reference_parts(windows: Tokens, scored: slice) -> dict[str, Any]:
    """Everything that the scored states of a reference depend on beside the model.

    Args:
        windows: token ids ``(n, context)`` as the model reads them.
        scored: scored positions of each window.
    """
    return {"windows": windows, "scored": [scored.start, scored.stop]}
