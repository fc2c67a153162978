"""Mixtures of experts: which tokens the router of a block sends to which expert, and what these receive."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..gguf.names import InputGroup
from .layers import Experts
from .model import BlockModel
from .partial_runs import Reached


@dataclass(frozen=True)
class Mixture:
    """The experts of a block.

    Attributes:
        module: their module.
        gate, up, down: GGUF names of their projections.
    """

    module: Experts
    gate: str
    up: str
    down: str

    @property
    def groups(self) -> tuple[InputGroup, InputGroup]:
        """Projections that read the token, and the one that reads what these make of it."""
        return (self.gate, self.up), (self.down,)

    def matrices(self) -> dict[str, npt.NDArray[np.float32]]:
        """The weights ``(experts, rows, columns)`` by GGUF name, in the module's own memory."""
        owners = {self.gate: self.module.gate_proj, self.up: self.module.up_proj, self.down: self.module.down_proj}
        return {name: owner.weight.detach().numpy() for name, owner in owners.items()}


def mixture_of(model: BlockModel, module: nn.Module, index: int) -> Mixture | None:
    """The experts of block ``index``; None for a dense block."""
    names = {owner: name for name, owner in model.experts(module, index).items()}
    for child in module.modules():
        if isinstance(child, Experts):
            return Mixture(child, names[child.gate_proj], names[child.up_proj], names[child.down_proj])
    return None


@dataclass(frozen=True)
class Routed:
    """Tokens that enter the experts of a block.

    Attributes:
        x: float32 ``(tokens, d)``.
        chosen: experts of each token, ``(tokens, choices)``.
        weights: the router's weights of these, float32 ``(tokens, choices)``.
    """

    x: Tensor
    chosen: Tensor
    weights: Tensor

    @classmethod
    def of(cls, x: Tensor, chosen: Tensor, weights: Tensor) -> Routed:
        """From what a module of experts receives."""
        return cls(x.detach().float(), chosen, weights.detach().float())

    @classmethod
    def join(cls, parts: list[Routed]) -> Routed:
        """The tokens of several batches."""
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in ("x", "chosen", "weights")))

    def visits(self, expert: int) -> tuple[Tensor, Tensor]:
        """Indices of the tokens that visit an expert, and the squares of their weights."""
        token, choice = torch.where(self.chosen == expert)
        return token, self.weights[token, choice].square()

    def rounded(self) -> Routed:
        """The same tokens with the precision of ``arrays``."""
        return Routed.of_arrays(self.arrays())

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """To be stored: inputs in float16, each token over its largest value."""
        scales = self.x.abs().amax(1).clamp_min(1e-30)
        return {
            "x": (self.x / scales[:, None]).half().numpy(),
            "scales": scales.numpy(),
            "chosen": self.chosen.to(torch.int16).numpy(),
            "weights": self.weights.numpy(),
        }

    @classmethod
    def of_arrays(cls, arrays: dict[str, npt.NDArray[Any]]) -> Routed:
        """From ``arrays``."""
        x, scales, chosen, weights = (torch.from_numpy(arrays[n].copy()) for n in ("x", "scales", "chosen", "weights"))
        return cls(x.float().mul_(scales[:, None]), chosen.long(), weights)


@contextlib.contextmanager
def seeing_routed(mixture: Mixture) -> Iterator[list[Routed]]:
    """A context in which runs of a block record what enters its experts."""
    seen: list[Routed] = []
    hook = mixture.module.register_forward_pre_hook(lambda _, args: seen.append(Routed.of(*args)))
    try:
        yield seen
    finally:
        hook.remove()


def routed_through(model: BlockModel, module: nn.Module, index: int, hidden: Tensor, mixture: Mixture) -> Routed:
    """What enters the experts of a block, which are not run, for its input ``(b, T, d)``."""
    reached: list[Routed] = []

    def stop(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        reached.append(Routed.of(*args))
        raise Reached

    hook = mixture.module.register_forward_pre_hook(stop)
    try:
        with contextlib.suppress(Reached):
            model.run_block(module, index, hidden)
    finally:
        hook.remove()
    return reached[0]
