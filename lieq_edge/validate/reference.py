"""The unquantised model as a reference, run by PyTorch in float32 and block by block: it is never whole in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from ..blockwise.model import BlockModel
from ..blockwise.precision import fast_float32
from ..llama.engine import Logits, Tokens
from ..store import NO_CACHE, Cache, Entry
from ..system.memory import forget_garbage
from ..system.progress import stage
from .protocol import reference_parts

if TYPE_CHECKING:
    from ..sources.base import Source


class StreamedReference:
    """Logits of a source's model for the scored positions of given windows."""

    def __init__(self, source: Source, *, threads: int | None = None) -> None:
        """Load what is outside the blocks of ``source``, a model that transformers runs."""
        self.label = source.label
        self._model = BlockModel(source, threads=threads)
        self.n_vocab = int(self._model.causal_lm.get_output_embeddings().weight.shape[0])

    def run(self, windows: Tokens, scored: slice, cache: Cache = NO_CACHE) -> None:
        """Take windows through the blocks and store the last residual stream at the scored positions.

        That is small and goes to the cache; logits, which are large, are computed from it again.

        Args:
            windows: token ids ``(n, context)``.
            scored: scored positions of each window.
            cache: cache of this model's results.
        """
        parts = reference_parts(windows, scored)
        stored = cache.entry("reference", parts, lambda: Entry({"hidden": self._through_blocks(windows, scored)}))
        self._hidden = torch.from_numpy(stored.arrays["hidden"]).clone()
        self._model.stop_keeping()
        self._model.release_outer(for_good=True)
        # The file that is compared comes into memory next.
        forget_garbage()

    def _through_blocks(self, windows: Tokens, scored: slice) -> npt.NDArray[np.float32]:
        model = self._model
        ids = torch.from_numpy(windows.astype(np.int64))
        with torch.no_grad(), fast_float32(), stage("Running the original", model.n_blocks) as advance:
            hidden = model.embed(ids).clone()
            for index in range(model.n_blocks):
                with model.block(index) as module:
                    model.advance(module, index, hidden)
                advance()
        return hidden[:, scored].contiguous().numpy()

    def logits(self, windows: slice) -> Iterator[tuple[slice, Logits]]:
        """Logits ``(windows * scored, n_vocab)`` of some of the windows that were run, some rows at a time.

        Yields:
            A slice of the rows, and their logits.
        """
        with torch.no_grad(), fast_float32():
            for rows, logits in self._model.logit_chunks(self._hidden[windows].flatten(0, 1)):
                yield rows, logits.numpy()
