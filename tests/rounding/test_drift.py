"""What writes to the residual stream makes up for its drift."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from measuring import loss_evidence
from tiny import make_model

from lieq_edge.allocation.plan import PlanOptions, make_plan
from lieq_edge.blockwise import precision
from lieq_edge.blockwise.precision import fast_products
from lieq_edge.blockwise.residual import ResidualStream
from lieq_edge.blockwise.workers import Workers
from lieq_edge.evidence.blocks.records import describe
from lieq_edge.evidence.loss.measure import OriginalStream
from lieq_edge.gptq.factor import factorise
from lieq_edge.gptq.hessian import CrossMoment, Hessian
from lieq_edge.rounding.drift import correction
from lieq_edge.rounding.following import Following
from lieq_edge.sources import open_source
from lieq_edge.store import Run


def correction_of(x: np.ndarray, wanted: np.ndarray, damping: float) -> np.ndarray:
    moments, cross = Hessian.zeros(x.shape[1]), CrossMoment.zeros(wanted.shape[1], x.shape[1])
    weights = torch.ones(len(x))
    for some, held_out in ((slice(0, None, 2), False), (slice(1, None, 2), True)):
        inputs, outputs = torch.from_numpy(x[some]), torch.from_numpy(wanted[some])
        moments.add(inputs, weights[some], held_out=held_out)
        cross.add(inputs, outputs, weights[some], held_out=held_out)
    factor = factorise(moments.whole().learned, damping)
    return correction(factor, moments, cross, np.ones(len(cross.learned), np.float32))


def test_a_drift_that_is_linear_in_the_inputs_is_found() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4000, 16), dtype=np.float32)
    change = rng.standard_normal((8, 16), dtype=np.float32)
    found = correction_of(x, x @ change.T, damping=0.0)
    # The floor of the damping takes 3 % off, the held-out share gives it back where it may.
    assert np.abs(found - change).max() < 0.15


def test_a_drift_that_the_inputs_do_not_know_is_left() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((200, 64), dtype=np.float32)
    noise = rng.standard_normal((200, 8), dtype=np.float32)
    found = correction_of(x, noise, damping=0.5)
    # Least squares alone would explain the noise by 64 columns.
    plain = np.linalg.lstsq(x[::2], noise[::2], rcond=None)[0].T
    assert np.linalg.norm(found) < 0.2 * np.linalg.norm(plain)


def test_what_an_output_should_change_by_is_known_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda: False)  # in which the outputs of those held out would be
    rng = np.random.default_rng(2)
    x, wanted = rng.standard_normal((60, 8), dtype=np.float32), rng.standard_normal((60, 4), dtype=np.float32)
    matrix, weights = rng.standard_normal((4, 8), dtype=np.float32), rng.random(60, dtype=np.float32)
    moments = Hessian.zeros(8)
    outputs, changes = CrossMoment.zeros(4, 8), CrossMoment.zeros(4, 8)
    for some, held_out in ((slice(0, 40), False), (slice(40, 60), True)):
        parts = [torch.from_numpy(array[some]) for array in (x, wanted, wanted - x @ matrix.T, weights)]
        moments.add(parts[0], parts[3], held_out=held_out)
        outputs.add(parts[0], parts[1], parts[3], held_out=held_out)
        changes.add(parts[0], parts[2], parts[3], held_out=held_out)
    outputs.subtract(matrix, moments.whole())
    np.testing.assert_allclose(outputs.learned, changes.learned, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(outputs.held_out, changes.held_out, rtol=1e-4, atol=1e-4)


def test_rounded_blocks_drift_less_when_it_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(tmp_path / "model", "llama", hidden=256, intermediate=256, blocks=3, vocab=384)
    source = open_source(str(model))
    tokens = torch.randint(0, 300, (16, 64), generator=torch.Generator().manual_seed(0))
    plan = make_plan(describe(source), "2", PlanOptions(metric="first", levels=(2,)))

    def drift() -> float:
        inputs = loss_evidence(source, tokens.numpy(), plan)
        with torch.no_grad(), Workers(1) as workers, Run(None) as run:
            assert isinstance(inputs.original, OriginalStream)
            stream = ResidualStream(inputs.original.model, tokens, run, inside=True)
            with fast_products():
                last = stream.forward()
            by_name = {tensor.name: tensor for tensor in plan.tensors}
            following = Following(by_name, inputs, OriginalStream(inputs.original.model, stream), workers)
            for index in range(3):
                following.block(index)
            assert following.state is not None
            rounded = torch.from_numpy(following.state["hidden"])
        return float((rounded - last).square().mean())

    with_targets = drift()
    monkeypatch.setattr(ResidualStream, "written", lambda self, index: None)
    assert with_targets < 0.95 * drift()


def test_a_factor_solves_by_the_damped_matrix_and_gives_the_given_one_back() -> None:
    rng = np.random.default_rng(3)
    x, right = rng.standard_normal((90, 32)), rng.standard_normal((5, 32), dtype=np.float32)
    hessian = np.asarray(1e3 * x.T @ x, np.float32)
    given = hessian.copy()
    factor = factorise(hessian, 0.5, 0.1, in_place=True)
    damped = given + np.diag(0.5 * given.diagonal() + 0.1 * given.diagonal().mean())
    np.testing.assert_allclose(factor.solve(right), right @ np.linalg.inv(damped), rtol=1e-3, atol=1e-9)
    factor.undamp()
    np.testing.assert_array_equal(hessian, given)
