"""Energy spectrum of a representation, its compactness and its top-k energy (LieQ, Eqs 3-7)."""

from __future__ import annotations

import torch
from torch import Tensor


def energy_spectrum(z: Tensor) -> Tensor:
    """Share of each singular direction in the energy, ``p_k = s_k^2 / sum_j s_j^2`` (Eqs 3-4).

    The squares of the singular values are the eigenvalues of the smaller Gram matrix, computed in float64: that is
    exact enough, and much cheaper than singular values of T x d.

    Args:
        z: representation, ``(..., T, d)``.

    Returns:
        float64 ``(..., min(T, d))``, in falling order, summing to 1; all zero for a zero matrix.
    """
    z = z.double()
    gram = z.mT @ z if z.shape[-2] >= z.shape[-1] else z @ z.mT
    energies = torch.linalg.eigvalsh(gram).flip(-1).clamp_min(0.0)
    total = energies.sum(-1, keepdim=True)
    return torch.where(total > 0, energies / total, torch.zeros_like(energies))


def compactness(p: Tensor) -> Tensor:
    """``exp(- sum_k p_k ln p_k)``, the effective number of directions (Eq 5).

    Args:
        p: energy spectra, ``(..., K)``.

    Returns:
        ``(...)``, from 1 (a single direction) to K (all alike).
    """
    return torch.special.entr(p).sum(-1).exp()


def top_k_energy(p: Tensor, fraction: float = 0.1) -> Tensor:
    """``E_k = sum_{i<=k} p_i`` with k = ``fraction`` of the directions, rounded down, at least 1 (Eq 7).

    Args:
        p: energy spectra in falling order, ``(..., K)``.
        fraction: k over K, which the paper does not state.

    Returns:
        ``(...)``, between 0 and 1.
    """
    return p[..., : max(1, int(fraction * p.shape[-1]))].sum(-1)
