"""The untrained counterpart of a model: weights as its configuration initialises them, seeded."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn


def initial_deviation(config: object) -> float:
    """Standard deviation of the model's initialisation (transformers' ``initializer_range``)."""
    return float(getattr(config, "initializer_range", None) or 0.02)


def draw(shape: torch.Size, deviation: float, *stream: int) -> Tensor:
    """A matrix drawn from N(0, deviation^2).

    Args:
        shape: shape of the matrix.
        deviation: standard deviation.
        stream: non-negative numbers, e.g. seed, block, projection, which name a stream of random numbers.
    """
    high, low = np.random.SeedSequence(stream).generate_state(2, np.uint32)
    generator = torch.Generator()
    generator.manual_seed(int(high) << 32 | int(low))
    return torch.empty(shape).normal_(0.0, deviation, generator=generator)


def untrained_block(module: nn.Module, deviation: float, *stream: int) -> nn.Module:
    """A copy of a block as before training: matrices N(0, deviation^2), biases 0, norm weights 1 (transformers)."""
    fresh = copy.deepcopy(module)
    for number, (name, parameter) in enumerate(fresh.named_parameters()):
        # The weights of norms of several heads are matrices.
        if parameter.ndim >= 2 and not name.endswith("norm.weight"):
            parameter.copy_(draw(parameter.shape, deviation, *stream, number))
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    return fresh
