"""Loss weights of experts, through the router.

An expert's output is multiplied by the router's weight r of the visit before it is added to the others. So the gradient
at that output is r times the gradient at the sum, whoever the expert is, and ``w = r^2 v_t`` with one v_t a token. Kept
is v_t: it serves any routing, that of a rounded prefix too. For gates and up-projections v_t is the mean of w / r^2
over the experts that the token visits, each counted r^2; how much one expert's gradients differ from this mean is part
of its channels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from ...blockwise.mixture import Mixture, Routed, seeing_routed
from ...gguf.names import InputGroup
from .coherence import Coherence


class ExpertGradients:
    """Sums of squared gradients at the outputs of a block's experts.

    Attributes:
        groups: projections that share v_t.
        coherence: by GGUF name, all experts together; empty unless measured.
    """

    def __init__(self, mixture: Mixture, length: int, *, coherent: bool) -> None:
        """Start without tokens.

        Args:
            mixture: the experts.
            length: tokens of a sequence.
            coherent: measure coherence.
        """
        self.groups = list(mixture.groups)
        module = mixture.module
        self._owners = {
            mixture.gate: module.gate_proj,
            mixture.up: module.up_proj,
            mixture.down: module.down_proj,
        }
        shapes = {name: owner.weight.shape for name, owner in self._owners.items()}
        self.coherence = {name: Coherence(shape[1]) for name, shape in shapes.items()} if coherent else {}
        self._mixture = mixture
        self._length = length
        self._energies = {name: torch.zeros(shape[:2], dtype=torch.float64) for name, shape in shapes.items()}
        self._outputs = {names: sum(shapes[name][1] for name in names) for names in self.groups}
        self._explained = {names: torch.zeros(module.experts, dtype=torch.float64) for names in self.groups}
        self._squares: dict[InputGroup, list[tuple[Tensor, Tensor]]] = {names: [] for names in self.groups}
        self._seen: list[Routed] = []

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """A context in which runs of the block, forward and backward, are seen."""
        hooks = [
            owner.register_forward_hook(
                lambda _, args, out, names=names, name=name: self._watch(names, name, args, out)
            )
            for names in self.groups
            for name, owner in ((name, self._owners[name]) for name in names)
        ]
        try:
            with seeing_routed(self._mixture) as self._seen:
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def _watch(self, names: InputGroup, name: str, args: tuple[Tensor, int, Tensor], out: Tensor) -> None:
        x, expert, token = args

        def collect(slope: Tensor) -> None:
            if name in self.coherence:
                self.coherence[name].add_visits(x.detach(), slope, token // self._length)
            squares = slope.float().square()
            self._energies[name][expert] += squares.sum(0).double()
            self._squares[names].append((token, squares.sum(-1) / self._outputs[names]))

        out.register_hook(collect)

    def take(self) -> tuple[Routed, dict[InputGroup, Tensor]]:
        """Tokens of the batch that has gone backward, and v_t ``(b, T)`` of each group."""
        routed = self._seen.pop()
        total = routed.weights.square().sum(-1)
        shared = {}
        for names in self.groups:
            sums = torch.zeros(len(total))
            for token, squares in self._squares[names]:
                sums.index_add_(0, token, squares)
            self._squares[names].clear()
            each = torch.where(total > 0, sums / total, torch.zeros(()))
            for expert in routed.chosen.unique().tolist():
                token, squares = routed.visits(expert)
                self._explained[names][expert] += (squares * each[token]).sum()
            shared[names] = each.view(-1, self._length)
        return routed, shared

    def channels(self) -> dict[str, Tensor]:
        """Energy of the gradient at each output over what r^2 v_t says, ``(experts, outputs)``; ones of unvisited."""
        found = {}
        for names in self.groups:
            explained = self._explained[names][:, None]
            for name in names:
                energy = self._energies[name]
                found[name] = torch.where(explained > 0, energy / explained, torch.ones_like(energy))
        return found
