"""Predicted losses and streamed rounding on a tiny model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from measuring import encode as encode_plan
from measuring import loss_evidence
from tiny import make_model

from lieq_edge.allocation.plan import PlanOptions, make_plan
from lieq_edge.allocation.types import candidate_types
from lieq_edge.errors import InputError
from lieq_edge.evidence.blocks.records import describe
from lieq_edge.evidence.loss.losses import Losses, TypeLoss
from lieq_edge.evidence.loss.predictions import ROWS, predict_outer, predict_tensors, sample_rows
from lieq_edge.evidence.loss.request import LossRequest
from lieq_edge.gptq.factor import factorise
from lieq_edge.gptq.feedback import DAMPING, round_by_factor
from lieq_edge.gptq.hessian import Hessian, held_out_sequences
from lieq_edge.llama.encoders import dequantize, encode
from lieq_edge.runtimes import open_runtime
from lieq_edge.sources import open_source
from lieq_edge.sources.base import Source
from lieq_edge.store import NO_CACHE, Run


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder: Path = tmp_path_factory.mktemp("model")
    return open_source(str(make_model(folder, "llama", hidden=256, intermediate=256, blocks=1, vocab=384)))


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(0, 300, (32, 64), generator=torch.Generator().manual_seed(0))


def test_held_out_sequences_are_one_in_four_and_never_all() -> None:
    assert held_out_sequences(8) == {3, 7}
    assert held_out_sequences(3) == {2}
    with pytest.raises(InputError, match="--calibration-tokens"):
        held_out_sequences(1)


@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0])
def test_sampled_rows_count_for_the_whole_tensor(spread: float) -> None:
    rng = np.random.default_rng(0)
    # As of an embedding: few rows are used, some of them much.
    channels = np.exp(spread * rng.standard_normal(20_000)).astype(np.float32) * (rng.random(20_000) < 0.1)
    rows, counts = sample_rows(channels)
    assert len(rows) == len(set(rows.tolist())) == ROWS
    assert counts.sum() == pytest.approx(channels.sum(), rel=1e-4)
    assert (channels[rows] > 0).all()
    # Those that count most stand for themselves.
    certain = channels[rows] > channels.sum() / ROWS
    np.testing.assert_array_equal(counts[certain], channels[rows][certain])
    assert set(np.flatnonzero(channels > channels.sum() / ROWS)) <= set(rows.tolist())


def test_the_error_of_sampled_rows_is_that_of_all() -> None:
    rng = np.random.default_rng(1)
    channels = np.exp(2 * rng.standard_normal(20_000)).astype(np.float32) * (rng.random(20_000) < 0.1)
    errors = rng.exponential(size=20_000)
    rows, counts = sample_rows(channels, 1024)
    assert errors[rows] @ counts == pytest.approx(errors @ channels, rel=0.1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_of_a_large_vocabulary_only_sampled_rows_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    monkeypatch.setattr("lieq_edge.evidence.loss.predictions.OUTER_ROWS", 16)
    source = open_source(str(make_model(tmp_path, "llama", dtype=dtype)))
    name = "token_embd.weight"
    count, columns = next(spec.shape for spec in source.tensors() if spec.name == name)
    hessian = Hessian.zeros(columns)
    generator = torch.Generator().manual_seed(0)
    for held_out in (False, True):
        hessian.add(torch.randn(64, columns, generator=generator), torch.ones(64), held_out=held_out)
    channels = np.random.default_rng(0).random(count, np.float32)

    def predicted() -> Losses:
        return predict_outer(source, {name: (hessian, channels)}, (8, 16), {name: ["Q8_0", "Q4_0"]})

    with monkeypatch.context() as patched:
        patched.setattr(type(source), "read_rows", lambda *_: None)
        expected = predicted()
    monkeypatch.setattr(type(source), "read", lambda *_: pytest.fail("the whole matrix is read"))
    assert predicted() == expected


def test_channels_that_do_not_count_have_no_error() -> None:
    rows, counts = sample_rows(np.zeros(1000, np.float32))
    assert len(rows) == len(counts) == 0


def test_the_prediction_is_the_quadratic_form_of_the_error() -> None:
    rng = np.random.default_rng(1)
    matrix = rng.standard_normal((ROWS, 256), dtype=np.float32)
    x = rng.standard_normal((400, 256)).astype(np.float32)
    moments = Hessian(x[:300].T @ x[:300], x[300:])
    importance = moments.learned.diagonal().copy()
    channels = np.ones(ROWS, np.float32)
    factor = factorise(moments.learned, DAMPING)
    found = predict_tensors({"a": matrix}, moments, {"a": channels}, 100, {"a": ["Q3_K", "Q4_K"]}, factor)["a"]
    error = matrix - dequantize(encode(matrix, "Q3_K", importance), "Q3_K", matrix.shape)
    assert found["Q3_K"].direct_loss == pytest.approx(0.5 * np.square(x[300:] @ error.T).sum() / 100, rel=1e-3)
    assert found["Q4_K"].loss < found["Q3_K"].loss <= found["Q3_K"].direct_loss


def test_tensors_that_read_the_same_are_predicted_as_each_by_itself() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((400, 256)).astype(np.float32)
    matrices = {name: rng.standard_normal((rows, 256), dtype=np.float32) for name, rows in (("a", 40), ("b", 90))}
    channels = {name: rng.exponential(size=len(matrix)).astype(np.float32) for name, matrix in matrices.items()}
    types = {"a": ["Q2_K", "Q4_K", "Q6_K"], "b": ["Q3_K", "IQ2_XS", "Q6_K"], "c": ["Q4_K"]}

    def predict(*names: str) -> Losses:
        moments = Hessian(x[:300].T @ x[:300], x[300:])
        factor = factorise(moments.learned, DAMPING)
        return predict_tensors({name: matrices[name] for name in names}, moments, channels, 100, types, factor)

    together = predict("a", "b")
    for name in matrices:
        for kind, alone in predict(name)[name].items():
            assert together[name][kind].loss == pytest.approx(alone.loss, rel=1e-3)
            assert together[name][kind].direct_loss == pytest.approx(alone.direct_loss, rel=1e-5)


def test_the_gain_of_an_i_quant_is_its_own_and_changes_no_other() -> None:
    rng = np.random.default_rng(4)
    matrix = rng.standard_normal((ROWS, 256), dtype=np.float32)
    x = (rng.standard_normal((400, 64)) @ rng.standard_normal((64, 256)) / 8).astype(np.float32)
    x += 0.3 * rng.standard_normal(x.shape, dtype=np.float32)
    moments = Hessian(x[:300].T @ x[:300], x[300:])
    channels = {"a": np.ones(ROWS, np.float32)}
    factor = factorise(moments.learned, DAMPING)

    def predict(*kinds: str) -> dict[str, TypeLoss]:
        return predict_tensors({"a": matrix}, moments, channels, 100, {"a": kinds}, factor)["a"]

    found = predict("IQ2_XXS", "IQ2_S", "Q2_K", "IQ3_S", "Q3_K", "IQ4_XS", "Q4_K")
    for kind in ("IQ2_XXS", "IQ2_S", "IQ3_S", "IQ4_XS"):
        error = matrix - round_by_factor(matrix, factor, kind, threads=1).values
        assert found[kind].feeds_back
        assert found[kind].loss == pytest.approx(0.5 * np.square(x[300:] @ error.T).sum() / 100, rel=1e-3)
    assert predict("Q2_K", "Q3_K", "Q4_K") == {kind: found[kind] for kind in ("Q2_K", "Q3_K", "Q4_K")}


@pytest.mark.parametrize("grid", ["Q4_0", "Q4_1", None])
def test_the_gain_is_not_that_of_a_grid_that_the_weights_are_on(grid: str | None) -> None:
    """As those of a quantised GGUF file: all other types would seem to cost nothing."""
    rng = np.random.default_rng(3)
    x = (rng.standard_normal((400, 320)) @ rng.standard_normal((320, 320)) / 18).astype(np.float32)
    moments = Hessian(x[:300].T @ x[:300], x[300:])
    matrix = rng.standard_normal((ROWS, 320), dtype=np.float32)
    if grid is not None:
        matrix = dequantize(encode(matrix, grid), grid, matrix.shape)
    for types in (
        ["Q2_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"],
        ["Q2_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL"],
    ):
        factor = factorise(moments.learned, DAMPING)
        channels = {"a": np.ones(ROWS, np.float32)}
        found = predict_tensors({"a": matrix}, moments, channels, 100, {"a": types}, factor)["a"]
        assert 0.2 * found["Q2_0"].direct_loss < found["Q2_0"].loss <= found["Q2_0"].direct_loss
        if grid is not None:
            assert found[grid].direct_loss < 0.1 * found["Q2_0"].loss


def test_candidates_fit_the_rows_and_unknown_names_are_refused(source: Source) -> None:
    tensors = describe(source).tensors
    found = candidate_types(tensors, "k")
    assert "Q2_K" in found["blk.0.ffn_down.weight"]
    assert "blk.0.attn_norm.weight" not in found
    assert candidate_types(tensors, "q4_k, Q8_0")["blk.0.attn_q.weight"] == ("Q4_K", "Q8_0")
    portable = candidate_types(tensors, "portable")
    assert portable["blk.0.ffn_down.weight"] == found["blk.0.ffn_down.weight"]
    narrow = [replace(tensor, shape=(*tensor.shape[:-1], 288)) for tensor in tensors]
    assert candidate_types(narrow, "portable")["blk.0.attn_q.weight"] == ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
    with pytest.raises(InputError, match="Q9"):
        candidate_types(tensors, "Q9")


def test_a_request_says_how_many_rows_are_rounded(source: Source, tokens: torch.Tensor) -> None:
    name, kind = "blk.0.ffn_down.weight", "Q2_K"
    whole = LossRequest(tokens.numpy(), 0, {name: [kind]}, {}, rows=256)
    requests = [whole, replace(whole, rows=128), replace(whole, rows=4)]
    losses = [open_runtime(source).measure_loss(request, NO_CACHE, Run(None)).losses for request in requests]
    all_rows, half, few = (found[name][kind].direct_loss for found in losses)
    assert half == pytest.approx(all_rows, rel=0.1)
    assert len({all_rows, half, few}) == 3
    assert len({str(request.prediction_parts) for request in requests}) == 3


def test_streamed_rounding_has_less_weighted_error_and_is_repeatable(source: Source, tokens: torch.Tensor) -> None:
    plan = make_plan(describe(source), "2", PlanOptions(metric="first", levels=(2, 4)))
    inputs = loss_evidence(source, tokens.numpy(), plan)

    def all_bytes() -> dict[str, bytes]:
        return {tensor.name: packed.tobytes() for tensor, packed in encode_plan(source, plan, inputs)}

    first = all_bytes()
    assert [tensor.name for tensor in plan.tensors] == list(first)
    assert first == all_bytes()
    fed_back = [found.feeds_back for by_type in inputs.losses.values() for found in by_type.values()]
    assert sum(fed_back) > len(fed_back) / 2
    for by_type in inputs.losses.values():
        for found in by_type.values():
            assert found.loss <= found.direct_loss


def test_where_feedback_was_judged_worse_importance_rounding_is_kept(source: Source, tokens: torch.Tensor) -> None:
    plan = make_plan(describe(source), "2", PlanOptions(metric="first", levels=(2, 4)))
    inputs = loss_evidence(source, tokens.numpy(), plan)
    losses = {
        name: {kind: replace(found, feeds_back=False) for kind, found in by_type.items()}
        for name, by_type in inputs.losses.items()
    }
    guarded = replace(inputs, losses=losses)
    name = "token_embd.weight"
    packed = {tensor.name: packed for tensor, packed in encode_plan(source, plan, guarded)}[name]
    kind = {tensor.name: tensor.type for tensor in plan.tensors}[name]
    importance = np.maximum(inputs.outer[name].diagonal(), 0).astype(np.float32)
    assert np.array_equal(packed, encode(source.read(name), kind, importance))
