"""Loss weights as an entry of the cache."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...gptq.hessian import Hessian
from ...store import Entry
from .weights import LossWeights


@dataclass(frozen=True)
class Measured:
    """Results of the passes over a model, which hold for any types that are chosen later.

    Attributes:
        weights: loss weights.
        outer: H and row energies ``(rows,)`` of the matrices outside the blocks, by GGUF name.
    """

    weights: LossWeights
    outer: dict[str, tuple[Hessian, npt.NDArray[np.float32]]]

    def entry(self) -> Entry:
        """The results as an entry."""
        weights = self.weights
        arrays = {"embedding": weights.embedding.numpy(), "embedding columns": weights.embedding_columns.numpy()}
        arrays |= {f"tokens {names[0]}": values.numpy() for names, values in weights.tokens.items()}
        arrays |= {f"channels {name}": values.numpy() for name, values in weights.channels.items()}
        for name, (moments, rows) in self.outer.items():
            arrays |= {f"learned {name}": moments.learned, f"held_out {name}": moments.held_out, f"rows {name}": rows}
        return Entry(arrays, list(weights.tokens))

    @classmethod
    def of_entry(cls, entry: Entry) -> Measured:
        """The results from an entry that ``entry`` has made."""

        def part(kind: str) -> dict[str, npt.NDArray[np.float32]]:
            keys = (key.partition(" ") for key in entry.arrays)
            return {name: entry.arrays[f"{kind} {name}"] for first, _, name in keys if first == kind and name}

        def tensors(kind: str) -> dict[str, Tensor]:
            return {name: torch.from_numpy(values).clone() for name, values in part(kind).items()}

        tokens = tensors("tokens")
        weights = LossWeights(
            tokens={names: tokens[names[0]] for names in map(tuple, entry.record)},
            channels=tensors("channels"),
            embedding=torch.from_numpy(entry.arrays["embedding"]).clone(),
            embedding_columns=torch.from_numpy(entry.arrays["embedding columns"]).clone(),
        )
        learned, held_out, rows = part("learned"), part("held_out"), part("rows")
        return cls(weights, {name: (Hessian(learned[name], held_out[name]), rows[name]) for name in learned})
