"""Sampled text follows the model's own distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from family_cases import CASES, ONE_EACH
from memory_source import MemorySource, random_tokens, tiny_lm
from tiny import cached_model
from transformers import AutoModelForCausalLM

from lieq_edge.blockwise.model import BlockModel
from lieq_edge.blockwise.sampling import generate
from lieq_edge.blockwise.sequences import sample
from lieq_edge.runtimes import TorchRuntime
from lieq_edge.sources import open_source
from lieq_edge.texts.self_written import self_windows


def test_openings_stay_and_the_rest_is_likely() -> None:
    plain = tiny_lm()
    # With a peaked distribution, sampling nearly always takes the most likely token.
    plain.model.norm.weight.mul_(200)
    openings = [[1], [1, 40, 41], [9, 8, 7, 6, 5]]
    ids = generate(BlockModel(MemorySource(plain)), openings, 24)
    assert ids.shape == (3, 24)
    best = plain(ids).logits.argmax(-1)
    for row, opening in enumerate(openings):
        start = len(opening)
        assert ids[row, :start].tolist() == opening
        agreement = (ids[row, start:] == best[row, start - 1 : -1]).float().mean()
        assert float(agreement) > 0.9


@pytest.mark.parametrize("case", ONE_EACH)
def test_the_likeliest_tokens_are_those_of_transformers(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows and soft caps hold for one token at a time too."""
    family, options = CASES[case]
    directory = cached_model(family, **options)
    plain = AutoModelForCausalLM.from_pretrained(directory, dtype="float32")
    openings = random_tokens(2, 60, plain.config.vocab_size)
    monkeypatch.setattr("lieq_edge.blockwise.sampling.sample", lambda logits, _: logits.argmax(-1))
    ids = generate(BlockModel(open_source(str(directory))), openings.tolist(), 80)
    mask = torch.ones_like(openings)
    expected = plain.generate(openings, attention_mask=mask, do_sample=False, max_new_tokens=20, eos_token_id=None)
    assert torch.equal(ids, expected)


def test_groups_share_the_memory_and_change_no_opening(monkeypatch: pytest.MonkeyPatch) -> None:
    model = BlockModel(MemorySource(tiny_lm()))
    openings = [[i, i + 1] for i in range(5, 12)]
    monkeypatch.setattr("lieq_edge.blockwise.sampling._CACHE_BYTES", 3 * 2 * 4 * 3 * 2 * 12 * 20)
    ids = generate(model, openings, 20)
    assert ids[:, :2].tolist() == openings
    assert ids.shape == (7, 20)
    assert int(ids.min()) >= 0
    assert len({tuple(row) for row in ids[:, 2:].tolist()}) == 7


def test_sampling_follows_the_probabilities() -> None:
    probabilities = torch.tensor([0.5, 0.0, 0.3, 0.2, 0.0])
    rows = probabilities.log().expand(20_000, 5)
    drawn = sample(rows, torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn, minlength=5) / 20_000
    torch.testing.assert_close(shares, probabilities, atol=0.015, rtol=0)
    assert int(shares[[1, 4]].sum()) == 0


def test_a_text_that_ends_starts_anew() -> None:
    plain = tiny_lm()
    ids = generate(BlockModel(MemorySource(plain)), [[1, 50, 60]], 60, stop=frozenset(range(70, 103)))
    row = ids[0].tolist()
    ends = [i for i, token in enumerate(row[:-4]) if token >= 70]
    assert ends
    assert all(row[i + 1 : i + 4] == [1, 50, 60] for i in ends)


def test_seed_decides() -> None:
    source = MemorySource(tiny_lm())
    write = TorchRuntime(source).write_text
    first, info = self_windows(source, tokens=64, context=16, seed=0, write=write)
    assert first.shape == (4, 16)
    assert first[::2, 0].tolist() == [1, 1]
    second, same = self_windows(source, tokens=64, context=16, seed=0, write=write)
    assert np.array_equal(first, second)
    assert info == same
    assert not np.array_equal(first, self_windows(source, tokens=64, context=16, seed=1, write=write)[0])
