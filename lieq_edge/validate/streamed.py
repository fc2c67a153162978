"""The unquantised model as a reference, run by PyTorch in float32 and block by block: it is never whole in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..progress import stage
from .engine import Logits, Tokens

if TYPE_CHECKING:
    from ..source.base import Source


class StreamedReference:
    """Logits of a source's model for the scored positions of given windows."""

    def __init__(self, source: Source, *, threads: int | None = None) -> None:
        """Load what is outside the blocks of ``source``, a model that transformers runs."""
        from ..measure.model import BlockModel

        self.label = source.label
        self._model = BlockModel(source, threads=threads)
        self.n_vocab = int(self._model.causal_lm.get_output_embeddings().weight.shape[0])

    def run(self, windows: Tokens, scored: slice) -> None:
        """Take token windows ``(n, context)`` through the blocks, and keep what the ``scored`` positions become."""
        import torch

        model = self._model
        ids = torch.from_numpy(windows.astype(np.int64))
        with torch.no_grad(), stage("Running the original", model.n_blocks) as advance:
            hidden = model.embed(ids).clone()
            for index in range(model.n_blocks):
                with model.block(index) as module:
                    model.advance(module, index, hidden)
                advance()
        self._hidden = hidden[:, scored].contiguous()
        model.stop_keeping()

    def logits(self, windows: slice) -> Logits:
        """Logits ``(windows * scored, n_vocab)`` of some of the windows that were run."""
        import torch

        with torch.no_grad():
            found: Logits = self._model.logits(self._hidden[windows].flatten(0, 1)).numpy()
        return found
