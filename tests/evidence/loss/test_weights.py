"""Loss weights against plain automatic differentiation of the whole model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from memory_source import MemorySource, tiny_lm
from tiny import make_model

from lieq_edge.blockwise import precision
from lieq_edge.blockwise.model import BlockModel
from lieq_edge.blockwise.residual import ResidualStream
from lieq_edge.evidence.loss.weights import LossWeights, measure_loss_weights, sample_labels
from lieq_edge.gguf.names import InputGroup
from lieq_edge.sources import open_source
from lieq_edge.store import Run


@pytest.fixture(scope="module", params=[True, False, None], ids=["tied", "untied", "scaled"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BlockModel:
    if request.param is None:  # embeddings and logits are multiplied by something
        scales = {
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.2,
            "logits_scaling": 2.5,
        }
        return BlockModel(MemorySource(tiny_lm("granite", vocab_size=512, **scales)))
    folder: Path = tmp_path_factory.mktemp("model")
    return BlockModel(open_source(str(make_model(folder, "llama", tied=request.param, blocks=3))))


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(0, 300, (3, 24), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def weights(model: BlockModel, tokens: torch.Tensor) -> LossWeights:
    return measure_loss_weights(model, tokens, seed=5, bfloat16=False)[0]


def _plain(model: BlockModel, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradients of the summed loss at the outputs of all linears and the embedding, with the same labels."""
    kept: dict[str, torch.Tensor] = {}
    with model.whole() as whole:
        modules = {model.head_name: whole.get_output_embeddings()}
        for index in range(model.n_blocks):
            modules |= model.linears(whole.model.layers[index], index)

        def keep(name: str, out: torch.Tensor) -> None:
            kept[name] = out
            out.retain_grad()

        hooks = [
            module.register_forward_hook(lambda _, __, out, name=name: keep(name, out) and None)
            for name, module in modules.items()
        ]
        embedded = whole.get_input_embeddings()(tokens).requires_grad_()
        logits = whole(inputs_embeds=embedded, use_cache=False).logits
        for hook in hooks:
            hook.remove()
        generator = torch.Generator().manual_seed(5)
        labels = sample_labels(logits.detach().softmax(-1).flatten(0, 1), generator).flatten()
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels, reduction="sum").backward()
    gradients = {name: out.grad for name, out in kept.items() if out.grad is not None}
    assert embedded.grad is not None
    return gradients | {"embedding": embedded.grad}


def test_they_are_mean_squares_of_the_gradients(model: BlockModel, tokens: torch.Tensor, weights: LossWeights) -> None:
    plain = _plain(model, tokens)
    names = set(plain) - {"embedding"}
    assert names == {name for readers in weights.tokens for name in readers} == set(weights.channels)
    assert len(names) == 3 * 7 + 1
    for readers, found in weights.tokens.items():
        # As if they were one linear with all outputs.
        squares = torch.cat([plain[name] for name in readers], -1).square()
        torch.testing.assert_close(found, squares.mean(-1), rtol=1e-3, atol=1e-12)
        energy = squares.flatten(0, 1).sum(0)
        channels = torch.cat([weights.channels[name] for name in readers])
        torch.testing.assert_close(channels, energy / energy.mean(), rtol=1e-3, atol=1e-6)


def test_linears_that_read_the_same_for_the_same_purpose_share_their_weights(weights: LossWeights) -> None:
    names = [[name.split(".")[2] for name in readers] for readers in weights.readers(1)]
    assert names == [["attn_q", "attn_k"], ["attn_v"], ["attn_output"], ["ffn_gate", "ffn_up"], ["ffn_down"]]
    assert {name.split(".")[1] for readers in weights.readers(1) for name in readers} == {"1"}


def test_linears_err_more_where_their_errors_at_many_tokens_meet(model: BlockModel, tokens: torch.Tensor) -> None:
    """Against the gradients of the weights, sequence by sequence."""
    told: dict[str, torch.Tensor] = {}

    class Listens:
        def add(self, batch: slice, received: Mapping[InputGroup, Any]) -> None:
            pass

        def done(self, channels: dict[str, torch.Tensor]) -> None:
            told.update(channels)

    many = tokens.repeat(8, 1)
    weights, _ = measure_loss_weights(model, many, seed=5, bfloat16=False, listen=lambda *_: Listens())
    generator = torch.Generator().manual_seed(5)
    expected = dict.fromkeys(told, (0.0, 0.0))
    with model.whole() as whole:
        linears = {
            name: linear
            for index in range(model.n_blocks)
            for name, linear in model.linears(whole.model.layers[index], index).items()
        }
        inputs, outputs = {}, {}

        def keep(name: str, x: torch.Tensor, out: torch.Tensor) -> None:
            out.requires_grad_().retain_grad()
            inputs[name], outputs[name] = x.detach(), out

        hooks = [
            linear.register_forward_hook(lambda _, args, out, name=name: keep(name, args[0], out) and None)
            for name, linear in linears.items()
        ]
        for ids in many:
            logits = whole(input_ids=ids[None], use_cache=False).logits
            labels = sample_labels(logits.detach().softmax(-1).flatten(0, 1), generator).flatten()
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels, reduction="sum").backward()
            for name, out in outputs.items():
                # Errors that are independent and of mean square 1: what they add to the loss on average.
                assert out.grad is not None
                at_weights = out.grad[0].T @ inputs[name][0]
                by_token = out.grad[0].square().sum(-1) @ inputs[name][0].square().sum(-1)
                together, apart = expected[name]
                expected[name] = together + float(at_weights.square().sum()), apart + float(by_token)
        for hook in hooks:
            hook.remove()
    found = {name: float((told[name] / weights.channels[name]).median()) for name in told}
    assert len(found) == 3 * 7
    for name, (together, apart) in expected.items():
        # Few outputs and sequences stand for all; the labels are the same.
        assert found[name] == pytest.approx(together / apart, rel=0.35), name
    ratios = sorted(together / apart for together, apart in expected.values())
    assert ratios[-1] > 1.3 * ratios[0]


def test_labels_are_drawn_as_often_as_they_are_likely() -> None:
    probabilities = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0])
    labels = sample_labels(probabilities.expand(20000, 6), torch.Generator().manual_seed(0))
    found = labels.flatten().bincount(minlength=6) / 20000
    torch.testing.assert_close(found, probabilities, rtol=0, atol=0.02)
    assert (found[probabilities == 0] == 0).all()


def test_the_embedding_counts_each_token_where_it_is_used(
    model: BlockModel, tokens: torch.Tensor, weights: LossWeights
) -> None:
    gradients = _plain(model, tokens)["embedding"]
    expected = torch.zeros(len(weights.embedding))
    for ids, slopes in zip(tokens, gradients, strict=True):
        # An error of a row is the same wherever a sequence uses it.
        for token in ids.unique():
            expected[token] += slopes[ids == token].sum(0).square().mean()
    assert any(len(ids.unique()) < len(ids) for ids in tokens)
    torch.testing.assert_close(weights.embedding, expected, rtol=1e-3, atol=1e-12)
    assert (weights.embedding[torch.tensor(sorted(set(range(300)) - set(tokens.flatten().tolist())))] == 0).all()


def test_batches_do_not_change_them(
    model: BlockModel, tokens: torch.Tensor, weights: LossWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lieq_edge.evidence.loss.weights._BATCH_FLOATS", 1)
    other = measure_loss_weights(model, tokens, seed=5, bfloat16=False)[0]
    for readers, expected in weights.tokens.items():
        torch.testing.assert_close(other.tokens[readers], expected, rtol=1e-3, atol=1e-12)


def test_bfloat16_products_change_them_little(
    model: BlockModel, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(probabilities: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        # The same labels for both: over nearly even choices, a sampled one moves with the least change of the sums.
        return torch.randint(0, probabilities.shape[-1], (len(probabilities), 1), generator=generator)

    monkeypatch.setattr("lieq_edge.evidence.loss.weights.sample_labels", draw)
    exact, _ = measure_loss_weights(model, tokens, seed=5, bfloat16=False)
    quick, _ = measure_loss_weights(model, tokens, seed=5, bfloat16=True)
    for readers, expected in exact.tokens.items():
        assert float(((quick.tokens[readers] - expected).abs() / expected.clamp(min=1e-12)).nanmedian()) < 0.15, readers


class _Stopped(BaseException):
    pass


def _found(model: BlockModel, tokens: torch.Tensor, run: Run | None = None) -> tuple[LossWeights, torch.Tensor, Any]:
    found: dict[int, Any] = {}

    class Names:
        def __init__(self) -> None:
            self.names: list[str] = []

        def add(self, batch: slice, received: Mapping[InputGroup, tuple[torch.Tensor, torch.Tensor]]) -> None:
            self.names += [name for readers in received for name in readers]

        def done(self, channels: dict[str, torch.Tensor]) -> Any:
            return sorted(set(self.names))

    weights, hidden = measure_loss_weights(
        model, tokens, seed=5, bfloat16=False, listen=lambda module, index: Names(), results=found, run=run
    )
    return weights, hidden, found


@pytest.mark.parametrize("damage", [False, True])
def test_a_stopped_measurement_goes_on_to_the_same_numbers(
    tmp_path: Path, model: BlockModel, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch, damage: bool
) -> None:
    expected, last, names = _found(model, tokens)
    own, attempts = Run.save, 0

    def stop_after(count: int) -> None:
        left = [count]

        def save(run: Run, *arguments: Any) -> bool:
            if left[0] == 0:
                raise _Stopped
            left[0] -= 1
            return own(run, *arguments)

        monkeypatch.setattr(Run, "save", save)

    while True:
        # With damage some of what was kept is lost, so more has to be done at a time.
        stop_after(5 * (attempts + 1) if damage else 2)
        attempts += 1
        try:
            with Run(tmp_path / "run") as run:
                weights, hidden, found = _found(model, tokens, run)
        except _Stopped:
            if damage:
                kept = sorted((tmp_path / "run").glob("*.safetensors"))
                kept[attempts % len(kept)].write_bytes(b"")
            continue
        break
    assert attempts > (1 if damage else model.n_blocks)
    assert hidden.equal(last)
    assert found == names
    assert weights.tokens.keys() == expected.tokens.keys()
    for readers, wanted in expected.tokens.items():
        assert weights.tokens[readers].equal(wanted)
        for name in readers:
            assert weights.channels[name].equal(expected.channels[name])
    assert weights.embedding.equal(expected.embedding)
    assert weights.embedding_columns.equal(expected.embedding_columns)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_matrix_whose_output_nobody_reads_is_not_run(
    model: BlockModel, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch, bfloat16: bool
) -> None:
    """And nothing else changes by that, not a bit."""
    if bfloat16:
        monkeypatch.setattr(precision, "has_bfloat16", lambda: True)
    found = []
    for known, inside in ((False, False), (True, False), (True, True)):
        stream = ResidualStream(model, tokens, Run(None), inside=inside)
        if inside:  # as where there is room
            monkeypatch.setattr(Run, "takes", lambda self, size: True)
            monkeypatch.setattr(Run, "save", lambda self, name, arrays, record=None: False)
        if not known:
            monkeypatch.setattr(stream, "last_writer", lambda index: None)
        found.append(measure_loss_weights(model, tokens, seed=5, bfloat16=bfloat16, original=stream)[0])
        assert (stream.last_writer(1) == "blk.1.ffn_down.weight") == known
    for others in found[1:]:
        for names, weights in found[0].tokens.items():
            assert torch.equal(weights, others.tokens[names])
        assert torch.equal(found[0].embedding, others.embedding)
