"""Spectra with known answers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lieq_edge.evidence.blocks.geometry import gains
from lieq_edge.evidence.blocks.spectral import compactness, energy_spectrum, top_k_energy


def orthonormal(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator, dtype=torch.float64))[0]


def planted(values: list[float], rows: int, columns: int) -> torch.Tensor:
    """A matrix with these singular values."""
    k = len(values)
    return orthonormal(rows, k, 1) * torch.tensor(values, dtype=torch.float64) @ orthonormal(columns, k, 2).T


def test_rank_one_is_a_single_direction() -> None:
    p = energy_spectrum(torch.outer(torch.arange(1.0, 31.0), torch.arange(1.0, 9.0)))
    torch.testing.assert_close(p, torch.tensor([1.0] + [0.0] * 7, dtype=torch.float64), atol=1e-12, rtol=0)
    assert float(compactness(p)) == pytest.approx(1.0, abs=1e-9)
    assert float(top_k_energy(p)) == pytest.approx(1.0)


@pytest.mark.parametrize(("rows", "columns"), [(40, 12), (12, 40)])
def test_orthonormal_uses_all_directions_alike(rows: int, columns: int) -> None:
    z = orthonormal(40, 12) if rows > columns else orthonormal(40, 12).T
    p = energy_spectrum(z)
    assert p.shape == (12,)
    assert float(compactness(p)) == pytest.approx(12.0)
    assert float(top_k_energy(p, 0.25)) == pytest.approx(3 / 12)
    assert float(top_k_energy(p, 0.01)) == pytest.approx(1 / 12)


def test_planted_spectrum() -> None:
    p = energy_spectrum(planted([4.0, 2.0, 2.0, 1.0], 50, 20))
    torch.testing.assert_close(p[:4], torch.tensor([16, 4, 4, 1], dtype=torch.float64) / 25)
    assert float(p[4:].abs().sum()) < 1e-12
    # exp(entropy) written out: the product of p^-p.
    expected = (16 / 25) ** -(16 / 25) * (4 / 25) ** -(8 / 25) * (1 / 25) ** -(1 / 25)
    assert float(compactness(p)) == pytest.approx(expected)
    assert float(top_k_energy(p, 0.1)) == pytest.approx(20 / 25)


@settings(max_examples=30)
@given(st.floats(1e-6, 1e6), st.integers(0, 1000))
def test_scale_does_not_matter(scale: float, seed: int) -> None:
    z = torch.randn(16, 6, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(energy_spectrum(z * scale), energy_spectrum(z), atol=1e-6, rtol=1e-5)


def test_heads_are_taken_side_by_side_and_agree_with_singular_values() -> None:
    z = torch.randn(3, 30, 8, generator=torch.Generator().manual_seed(3))
    energies = torch.linalg.svdvals(z.double()) ** 2
    torch.testing.assert_close(energy_spectrum(z), energies / energies.sum(-1, keepdim=True))


def test_zero_has_no_energy() -> None:
    p = energy_spectrum(torch.zeros(5, 4))
    assert float(p.sum()) == 0.0
    assert float(compactness(p)) == 1.0


def test_a_head_without_energy_gains_nothing() -> None:
    z = torch.randn(4, 30, 8, generator=torch.Generator().manual_seed(3))
    z[1] = 0
    untrained = energy_spectrum(torch.randn(2, 4, 30, 8, generator=torch.Generator().manual_seed(4)))
    found = gains(energy_spectrum(z), untrained)
    assert found.compactness_gain[1] == 0
    assert found.energy_gain[1] == 0
    assert (found.compactness_gain != 0).sum() == 3
    assert (found.energy_gain != 0).sum() == 3
