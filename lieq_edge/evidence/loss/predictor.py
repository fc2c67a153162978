"""Predict the losses of a block's matrices while gradients pass through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...blockwise.mixture import Mixture, Routed
from ...blockwise.precision import fast_products
from ...blockwise.workers import Workers
from ...gguf.names import InputGroup
from ...gptq.collect import Collecting, Received
from ...gptq.experts import ExpertInputs
from ...gptq.factor import factorise
from ...gptq.feedback import DAMPING
from ...gptq.hessian import count_held_out, held_out_sequences
from .expert_predictions import predict_experts
from .hessians import Correlations
from .losses import Losses, losses_to_json
from .predictions import KEPT, predict_tensors
from .request import ROWS

StoreHessians = Callable[[Mapping[InputGroup, Correlations], Routed | None], None]
"""Stores H of all tokens, by input group, and the tokens that enter experts."""


class Predictor:
    """Listens to the backward pass over a block, then predicts the losses of its matrices."""

    def __init__(
        self,
        linears: Mapping[str, nn.Linear],
        shape: tuple[int, ...],
        candidates: Mapping[str, Sequence[str]],
        workers: Workers,
        *,
        mixture: Mixture | None = None,
        store: StoreHessians | None = None,
        share: float = KEPT,
        weighted: bool = True,
        rows: int = ROWS,
    ) -> None:
        """Start listening.

        Args:
            linears: of the block, by GGUF tensor name.
            shape: of the calibration tokens, ``(n, T)``.
            candidates: types to try by tensor name; all must fit the tensor's rows.
            workers: where tensors are worked on, with one thread of torch each.
            mixture: experts of the block.
            store: stores what rounding goes by: H of all tokens, and the tokens that enter experts.
            share: share of the tokens that H is made from.
            weighted: rounding without feedback is weighted by importance.
            rows: rows of a matrix that are rounded; experts have their own number.
        """
        self._linears = linears
        self._held_out_tokens = count_held_out(shape)
        self._candidates = candidates
        self._workers = workers
        self._store = store
        self._weighted = weighted
        self._rows = rows
        self._mixture = mixture
        self._routed: list[Routed] = []
        self._routed_weights: dict[InputGroup, list[Tensor]] = {}
        self._held_out = held_out_sequences(shape[0])
        self._collecting = Collecting(self._held_out, kept=share)

    def add(self, batch: slice, received: dict[InputGroup, tuple[Tensor, Tensor]]) -> None:
        """Collect H."""
        self._collecting.add(batch, {names: Received(*some) for names, some in received.items()})

    def add_routed(self, routed: Routed, weights: dict[InputGroup, Tensor]) -> None:
        """Keep the tokens that enter experts; H of each expert is made of them in its turn."""
        self._routed.append(routed)
        for names, values in weights.items():
            self._routed_weights.setdefault(names, []).append(values)

    def done(self, channels: dict[str, Tensor]) -> dict[str, Any]:
        """Predict, input after input; their H go. The predictions are as ``losses_to_json`` gives them."""
        moments, _ = self._collecting.done()
        order = list(moments)
        kept: dict[InputGroup, Correlations] = {}

        def predict(names: InputGroup) -> Losses:
            own = moments.pop(names)
            factor = factorise(own.learned, DAMPING, in_place=True)
            losses = predict_tensors(
                {name: self._linears[name].weight.numpy() for name in names},
                own,
                {name: channels[name].numpy() for name in names},
                self._held_out_tokens,
                self._candidates,
                factor,
                rows=self._rows,
                weighted=self._weighted,
            )
            if self._store is not None:
                factor.undamp()
                del factor  # as large as H
                with fast_products():
                    kept[names] = Correlations.of(own.merge())
            return losses

        # The longest work first, so that no worker is left with it at the end.
        longest_first = sorted(moments, key=lambda names: -self._linears[names[0]].in_features)
        losses: Losses = {}
        for found in self._workers.map(predict, longest_first):
            losses |= found
        routed = Routed.join(self._routed).rounded() if self._mixture is not None else None
        if self._mixture is not None and routed is not None:
            losses |= self._predict_experts(self._mixture, routed, channels)
        if self._store is not None:
            self._store({names: kept[names] for names in order}, routed)
        return losses_to_json(losses)

    def _predict_experts(self, mixture: Mixture, routed: Routed, channels: dict[str, Tensor]) -> Losses:
        entering, inside = (torch.cat(self._routed_weights[names]) for names in mixture.groups)
        matrices = mixture.matrices()
        return predict_experts(
            mixture.groups,
            matrices,
            ExpertInputs(routed, (entering, inside), self._held_out),
            {name: channels[name].numpy() for name in matrices},
            self._held_out_tokens,
            self._candidates,
            self._workers,
            weighted=self._weighted,
        )
