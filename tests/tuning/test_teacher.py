"""The divergence from stored predictions, and its gradient."""

from __future__ import annotations

import torch

from lieq_edge.tuning.teacher import divergence


def stored(logits: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    logs, ids = torch.log_softmax(logits, -1).topk(count)
    return ids, logs


def test_with_all_tokens_it_is_the_divergence() -> None:
    generator = torch.Generator().manual_seed(0)
    teacher, student = torch.randn(2, 5, 32, generator=generator)
    ids, logs = stored(teacher, 31)
    losses, _ = divergence(student, ids, logs, slope=False)
    wanted = torch.nn.functional.kl_div(
        torch.log_softmax(student, -1), torch.log_softmax(teacher, -1), reduction="none", log_target=True
    ).sum(-1)
    assert torch.allclose(losses, wanted, atol=1e-5)


def test_the_gradient_is_that_of_the_divergence() -> None:
    generator = torch.Generator().manual_seed(1)
    teacher, student = torch.randn(2, 4, 40, generator=generator)
    ids, logs = stored(teacher, 6)
    student.requires_grad_()
    likely = torch.log_softmax(student, -1)
    chosen, rest = likely.gather(1, ids), 1 - logs.exp().sum(-1)
    written = (logs.exp() * (logs - chosen)).sum(-1) + rest * (rest / (1 - chosen.exp().sum(-1))).log()
    written.sum().backward()
    losses, slope = divergence(student.detach().clone(), ids, logs, slope=True)
    assert slope is not None
    assert torch.allclose(losses, written.detach(), atol=1e-5)
    assert torch.allclose(slope, student.grad, atol=1e-5)


def test_the_original_does_not_diverge_from_itself() -> None:
    teacher = torch.randn(3, 50, generator=torch.Generator().manual_seed(2))
    losses, slope = divergence(teacher.clone(), *stored(teacher, 8), slope=True)
    assert slope is not None
    assert float(losses.abs().max()) < 1e-5
    assert float(slope.abs().max()) < 1e-5
