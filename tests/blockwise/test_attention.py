"""Causal attention by pieces of queries, against PyTorch's own."""

from __future__ import annotations

import pytest
import torch

from lieq_edge.blockwise import attention


class _Layer(torch.nn.Module):
    """The part of an attention layer that is read."""

    is_causal = True
    num_key_value_groups = 2


def _inputs(length: int) -> list[torch.Tensor]:
    """Queries, keys and values as from transformers, with heads adjacent in memory."""
    generator = torch.Generator().manual_seed(length)
    inputs = [torch.randn(2, length, heads, 8, generator=generator).transpose(1, 2) for heads in (4, 2, 2)]
    return [x.requires_grad_() for x in inputs]


def _expected(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None) -> torch.Tensor:
    repeated = (x.repeat_interleave(2, 1) for x in (key, value))
    out = torch.nn.functional.scaled_dot_product_attention(query, *repeated, is_causal=True, scale=scale)
    return out.transpose(1, 2)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of 16 queries, so that short windows have several."""
    monkeypatch.setattr(attention, "_SCORES", 1)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("length", [2, 16, 37, 64])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_output_and_gradients_are_those_of_plain_attention(length: int, scale: float | None) -> None:
    inputs = _inputs(length)
    out, weights = attention.attend(_Layer(), *inputs, None, scaling=scale)
    wanted = _expected(*inputs, scale)
    assert weights is None
    torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-6)
    slope = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    for got, want in zip(
        torch.autograd.grad(out, inputs, slope), torch.autograd.grad(wanted, inputs, slope), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_windows_of_one_piece_and_of_several_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = _inputs(100)
    whole, _ = attention.attend(_Layer(), *inputs, None)
    monkeypatch.setattr(attention, "_SCORES", 1)
    pieces, _ = attention.attend(_Layer(), *inputs, None)
    torch.testing.assert_close(pieces, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("small_pieces")
def test_under_autocast_errors_are_those_of_bfloat16() -> None:
    inputs = _inputs(64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, _ = attention.attend(_Layer(), *inputs, None)
    wanted = _expected(*inputs, None)
    slope = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    got = torch.autograd.grad(out, inputs, slope.bfloat16())
    assert [x.dtype for x in (out, *got)] == [torch.bfloat16, *[torch.float32] * 3]
    for found, exact in zip((out, *got), (wanted, *torch.autograd.grad(wanted, inputs, slope)), strict=True):
        assert float((found.float() - exact).detach().norm() / exact.detach().norm()) < 0.01


def test_a_query_sees_no_later_key() -> None:
    query, key, value = _inputs(40)
    first, _ = attention.attend(_Layer(), query, key, value, None)
    with torch.no_grad():
        key[:, :, 30:] += 1.0
        value[:, :, 30:] -= 1.0
    second, _ = attention.attend(_Layer(), query, key, value, None)
    assert torch.equal(first[:, :30], second[:, :30])
    assert not torch.equal(first[:, 30:], second[:, 30:])


def _never(*_: object) -> None:
    raise AssertionError("special attention must be left to transformers")


@pytest.mark.parametrize("special", ["mask", "not causal", "longer", "other keys"])
def test_special_attention_is_left_to_transformers(special: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention._Causal, "apply", _never)
    query, key, value = _inputs(24)
    mask, options = None, {}
    if special == "mask":
        mask = torch.ones(24, 24, dtype=torch.bool).tril().triu(-4)[None, None]
    elif special == "not causal":
        options["is_causal"] = False
    elif special == "longer":
        monkeypatch.setattr(attention, "_LONGEST", 23)
    else:
        key, value = (torch.cat([x, x], 2) for x in (key, value))
        mask = torch.ones(1, 1, 24, 48, dtype=torch.bool)
    out, _ = attention.attend(_Layer(), query, key, value, mask, **options)
    repeated = [x.repeat_interleave(2, 1) for x in (key, value)]
    causal = special == "longer"
    wanted = torch.nn.functional.scaled_dot_product_attention(query, *repeated, attn_mask=mask, is_causal=causal)
    torch.testing.assert_close(out, wanted.transpose(1, 2))
