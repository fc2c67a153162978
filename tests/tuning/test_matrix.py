"""Trained scales: decoded as ggml decodes them, with the gradients of what a file would hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lieq_edge.gguf.blocks import LAYOUTS
from lieq_edge.llama.encoders import dequantize, encode
from lieq_edge.tuning.matrix import TunedLinear

ROWS, COLUMNS = 6, 512


def linear(type_name: str, order: np.ndarray | None = None) -> tuple[TunedLinear, np.ndarray]:
    weights = np.random.default_rng(0).standard_normal((ROWS, COLUMNS), dtype=np.float32)
    packed = encode(weights, type_name, np.ones(COLUMNS, np.float32))
    return TunedLinear(packed, type_name, np.arange(ROWS) if order is None else order, None), packed


@pytest.mark.parametrize("type_name", LAYOUTS)
def test_untouched_it_is_what_ggml_decodes(type_name: str) -> None:
    tuned, packed = linear(type_name)
    assert np.array_equal(tuned.matrix(torch.float32).numpy(), dequantize(packed, type_name, (ROWS, COLUMNS)))
    assert np.array_equal(tuned.packed(), packed)


def test_rows_in_another_order_go_back_to_their_places() -> None:
    order = np.array([3, 0, 5, 1, 4, 2])
    tuned, packed = linear("Q4_K", order)
    assert np.array_equal(tuned.matrix(torch.float32).numpy(), dequantize(packed, "Q4_K", (ROWS, COLUMNS))[order])
    assert np.array_equal(tuned.packed(), packed)


@pytest.mark.parametrize("type_name", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q4_1", "IQ4_NL", "IQ2_S"])
def test_changed_scales_are_written_as_they_are_used(type_name: str) -> None:
    tuned, packed = linear(type_name)
    generator = torch.Generator().manual_seed(0)
    for parameter in tuned.fields.parameters.values():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    tuned.changed()
    written = tuned.packed()
    assert not np.array_equal(written, packed)
    assert np.array_equal(tuned.matrix(torch.float32).numpy(), dequantize(written, type_name, (ROWS, COLUMNS)))


@pytest.mark.parametrize("type_name", ["Q2_K", "Q3_K", "Q5_K", "Q4_1", "Q8_0"])
def test_slopes_are_those_of_a_change_of_the_scales(type_name: str) -> None:
    tuned, _ = linear(type_name)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(7, COLUMNS, generator=generator, requires_grad=True)
    wanted = torch.randn(7, ROWS, generator=generator)
    (tuned(x) * wanted).sum().backward()
    matrix = tuned.matrix(torch.float32)
    assert torch.allclose(x.grad, wanted @ matrix, atol=1e-4)
    of_weights = wanted.T @ x.detach()
    scales, mins = tuned.fields.effective()
    levels = (matrix.view(*scales.shape, -1) + (0 if mins is None else mins[:, :, None])) / scales[:, :, None]
    of_scales = (of_weights.view(*scales.shape, -1) * levels).sum(-1)
    expected = tuned.fields.slopes(of_scales, None if mins is None else -of_weights.view(*mins.shape, -1).sum(-1))
    assert expected.keys() == tuned.slopes.keys() == tuned.fields.parameters.keys()
    for name, slope in expected.items():
        assert torch.allclose(tuned.slopes[name], slope, rtol=1e-3, atol=1e-3 * float(slope.abs().max()))


def test_a_slope_tells_how_the_output_changes() -> None:
    tuned, _ = linear("Q3_K")
    x = torch.ones(1, COLUMNS)
    tuned(x.requires_grad_()).sum().backward()
    before = float(tuned(x).sum().detach())
    # A step that float16 holds exactly: twice the scale.
    tuned.fields.parameters["d"][2, 1] += 1.0
    tuned.changed()
    assert float(tuned(x).sum().detach()) - before == pytest.approx(float(tuned.slopes["d"][2, 1]), rel=1e-3)


def test_integers_stay_in_their_range() -> None:
    tuned, _ = linear("Q2_K")
    for name, parameter in tuned.fields.parameters.items():
        if name.endswith("codes"):
            parameter.add_(100.0)
    fields = tuned.fields.fields()
    assert fields["scale_codes"].max() == 15
    assert fields["min_codes"].max() == 15
