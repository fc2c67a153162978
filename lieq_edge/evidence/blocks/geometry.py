"""Representational compactness dr and top-k energy gain dE of each block (LieQ, Eqs 3-8)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...blockwise.model import BlockModel
from ...gguf.names import TensorName
from .heads import ATTENTION, FUSED
from .records import BlockDiagnostics
from .spectral import compactness, energy_spectrum, top_k_energy
from .untrained import draw, initial_deviation, untrained_block


@dataclass(frozen=True)
class _Projection:
    """Some output channels of a linear; ``weight`` is all of its matrix or a part, ``(channels, columns)``."""

    linear: nn.Linear
    weight: Tensor


@dataclass(frozen=True)
class Geometry:
    """Concentration of the output of one projection by training; one value a head, means over the seeds.

    Attributes:
        compactness_gain: dr = (Compact(Z~) - Compact(Z)) / Compact(Z~), float64 ``(heads,)``.
        energy_gain: dE = E_k(Z) - E_k(Z~), float64 ``(heads,)``.
    """

    compactness_gain: Tensor
    energy_gain: Tensor


class GeometryPass:
    """dr and dE of every block, measured block by block while the probe text runs through the model.

    Step it with each block in turn; ``results[l][role]`` is then the ``Geometry`` of a projection, its role being
    the GGUF name without block and suffix, e.g. ``attn_q``.
    """

    def __init__(
        self,
        model: BlockModel,
        tokens: Tensor,
        *,
        projections: str = "qkv",
        baseline: str = "projection",
        seeds: tuple[int, ...] = (0, 1, 2),
    ) -> None:
        """Embed the probe.

        Args:
            model: model to measure.
            tokens: token ids of the probe, ``(n, T)``; the rows of Z are its n * T tokens.
            projections: ``qkv``, or ``all`` for every linear of a block (beside q/k/v as a single head each).
            baseline: ``projection`` (Z~ from the trained input and random weights, as the paper writes it) or
                ``network`` (Z~ from a wholly untrained model with hidden states of its own, as Diff-eRank does).
            seeds: seeds of the untrained weights; gains are averaged over them.

        Raises:
            ValueError: projections or baseline are unknown, or there are no seeds.
        """
        if projections not in ("qkv", "all") or baseline not in ("projection", "network") or not seeds:
            raise ValueError(f"unknown projections {projections!r} or baseline {baseline!r}, or no seeds")
        self._model = model
        self._projections = projections
        self._seeds = seeds
        self._deviation = initial_deviation(model.config)
        self._hidden = model.embed(tokens)
        self._untrained: list[Tensor] | None = None
        if baseline == "network":
            self._untrained = [self._untrained_embedding(tokens, seed) for seed in seeds]
        self.results: list[dict[str, Geometry]] = []

    def _untrained_embedding(self, tokens: Tensor, seed: int) -> Tensor:
        # Numbered one past the last block, so that the embeddings have random numbers of their own.
        tables = [
            draw(table.weight.shape, self._deviation, seed, self._model.n_blocks, place)
            for place, table in enumerate(self._model.embeddings())
        ]
        with self._model.with_embeddings(tables):
            return self._model.embed(tokens)

    def step(self, module: nn.Module, index: int) -> None:
        """Measure block ``index`` and move on to the next one's input."""
        projections = self._chosen(module, index)
        with _inputs(projections) as inputs:
            self._model.advance(module, index, self._hidden)
        spectra = {role: self._spectrum(role, inputs[role] @ projections[role].weight.T) for role in projections}
        counterparts: dict[str, list[Tensor]] = {role: [] for role in projections}
        for number, seed in enumerate(self._seeds):
            if self._untrained is None:
                fresh = {
                    role: draw(projection.weight.shape, self._deviation, seed, index, place)
                    for place, (role, projection) in enumerate(projections.items())
                }
            else:
                block = untrained_block(module, self._deviation, seed, index)
                with _inputs(self._chosen(block, index)) as inputs:
                    self._model.advance(block, index, self._untrained[number])
                fresh = {role: projection.weight for role, projection in self._chosen(block, index).items()}
            for role, weight in fresh.items():
                counterparts[role].append(self._spectrum(role, inputs[role] @ weight.T))
        self.results.append({role: gains(spectra[role], torch.stack(counterparts[role])) for role in projections})

    def _chosen(self, module: nn.Module, index: int) -> dict[str, _Projection]:
        projections: dict[str, _Projection] = {}
        for name, linear in self._model.linears(module, index).items():
            role = TensorName.parse(name).role
            if role == FUSED:
                projections |= self._split(linear)
            else:
                projections[role] = _Projection(linear, linear.weight)
        # Sorted by name, so that random numbers do not depend on the order of tensors in a file.
        chosen = [role for role in sorted(projections) if self._projections == "all" or role in ATTENTION]
        return {role: projections[role] for role in chosen}

    def _split(self, linear: nn.Linear) -> dict[str, _Projection]:
        """q, k and v out of a matrix that holds their rows one after the other."""
        queries = self._model.config.num_attention_heads * self._head_dim()
        others = (linear.weight.shape[0] - queries) // 2
        parts = linear.weight.split([queries, others, others])
        return {role: _Projection(linear, part) for role, part in zip(ATTENTION, parts, strict=True)}

    def _spectrum(self, role: str, z: Tensor) -> Tensor:
        """Energy spectra ``(heads, K)`` of the output ``(n, T, channels)`` of a projection."""
        z = z.flatten(0, 1)
        return head_spectra(z, self._head_dim() if role in ATTENTION else z.shape[1])

    def _head_dim(self) -> int:
        config = self._model.config
        return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def head_spectra(z: Tensor, head: int) -> Tensor:
    """Energy spectra ``(heads, K)`` of a projection's output ``(tokens, heads * head)``."""
    return energy_spectrum(z.view(z.shape[0], -1, head).transpose(0, 1))


def gains(trained: Tensor, untrained: Tensor) -> Geometry:
    """dr and dE of spectra ``(heads, K)`` against ``(seeds, heads, K)`` of the untrained counterpart.

    Both are 0 for a head without energy (pruned, or added with zeros): training has concentrated nothing in it.
    """
    diffuse = compactness(untrained)
    has_energy = trained.sum(-1) > 0
    return Geometry(
        ((diffuse - compactness(trained)) / diffuse).mean(0) * has_energy,
        (top_k_energy(trained) - top_k_energy(untrained)).mean(0) * has_energy,
    )


def block_means(geometry: dict[str, Geometry]) -> tuple[float, float]:
    """dr_l and dE_l: the plain mean over all heads of all projections (Eq 8; a key/value head counts once)."""
    return (
        float(torch.cat([g.compactness_gain for g in geometry.values()]).mean()),
        float(torch.cat([g.energy_gain for g in geometry.values()]).mean()),
    )


def block_diagnostics(index: int, geometry: dict[str, Geometry] | None, drop: float | None) -> BlockDiagnostics:
    """The record of a block from its geometry by role and its dPPL, as far as they were measured."""
    if geometry is None:
        return BlockDiagnostics(index, delta_ppl=drop)
    compactness_gain, energy_gain = block_means(geometry)
    by_role = {role: float(gain.compactness_gain.mean()) for role, gain in geometry.items()}
    return BlockDiagnostics(index, drop, compactness_gain, energy_gain, by_role)


@contextmanager
def _inputs(projections: dict[str, _Projection]) -> Iterator[dict[str, Tensor]]:
    """Collect the inputs of each projection; after the context they are there by role, ``(n, T, columns)``."""
    parts: dict[nn.Linear, list[Tensor]] = {projection.linear: [] for projection in projections.values()}
    whole: dict[str, Tensor] = {}
    hooks = [
        linear.register_forward_pre_hook(lambda _, args, linear=linear: parts[linear].append(args[0]))
        for linear in parts
    ]
    try:
        yield whole
    finally:
        for hook in hooks:
            hook.remove()
    inputs = {linear: torch.cat(pieces) for linear, pieces in parts.items()}
    whole.update({role: inputs[projection.linear] for role, projection in projections.items()})
