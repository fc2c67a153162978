"""Embeddings and heads in 16 bits compute the same as in float32."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lieq_edge.blockwise.sixteen_bits import keep_sixteen_bits, suits


def _pair(kind: torch.dtype) -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(0)
    small, plain = nn.Linear(640, 5000, bias=False), nn.Linear(640, 5000, bias=False)
    weight = small.weight.detach().to(kind)
    plain.weight = nn.Parameter(weight.float(), requires_grad=False)
    small.weight = nn.Parameter(weight, requires_grad=False)
    keep_sixteen_bits(small)
    return small, plain


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_a_head_gives_the_same_products_and_gradients(kind: torch.dtype) -> None:
    small, plain = _pair(kind)
    x = torch.randn(2, 7, 640)
    slope = torch.randn(2, 7, 5000)
    gradients = []
    for head in (small, plain):
        given = x.clone().requires_grad_()
        out = head(given)
        assert out.dtype == torch.float32
        out.backward(slope)
        gradients.append((out.detach(), given.grad))
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-3)


def test_autocast_gives_bfloat16() -> None:
    small, plain = _pair(torch.bfloat16)
    x = torch.randn(3, 640, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, expected = small(x), plain(x)
    assert out.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected.float(), rtol=0.02, atol=0.02)
    out.float().square().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32


def test_an_embedding_gives_float32() -> None:
    table = nn.Embedding(10, 8)
    table.weight = nn.Parameter(table.weight.detach().bfloat16(), requires_grad=False)
    keep_sixteen_bits(table)
    out = table(torch.tensor([[3, 4]]))
    assert out.dtype == torch.float32
    assert torch.equal(out[0], table.weight[3:5].float())


def test_other_modules_do_not_suit() -> None:
    class Scaled(nn.Embedding):
        pass

    assert suits(nn.Embedding(2, 2))
    assert suits(nn.Linear(2, 2, bias=False))
    assert not suits(Scaled(2, 2))
    assert not suits(nn.Linear(2, 2))
