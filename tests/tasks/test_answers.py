"""Answers are those that transformers gives, whatever is shared or stored."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import tiny
import torch

from lieq_edge.llama.continuations import Continuations
from lieq_edge.llama.prefixes import Scored
from lieq_edge.sources import open_source
from lieq_edge.store import open_cache
from lieq_edge.tasks import answers as module
from lieq_edge.tasks.answers import Answers, Prompt
from lieq_edge.tasks.encoding import Encoder

MakeGguf = Callable[..., Path]

PAIRS = [
    (context, end)
    for context in ("The quick brown fox ", "The quick brown", "In the beginning there was", "def measure", "")
    for end in (" jumps over", " jumps", " a model", "1234 miles")
]


@pytest.fixture
def gguf(tiny_gguf: MakeGguf) -> Path:
    return tiny_gguf("llama")


def encoder_of(path: Path) -> Encoder:
    return Encoder(open_source(str(path)))  # type: ignore[arg-type]


def answers_of(path: Path, folder: Path | None = None) -> Answers:
    source = open_source(str(path))
    cache = open_cache(folder, threads=1).about(model=source.content_hash)
    return Answers(lambda: path, source.vocabulary, cache, label="tiny", threads=1)  # type: ignore[attr-defined]


@functools.cache
def original() -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny.cached_model("llama"), dtype=torch.float32).eval()


def by_transformers(row: Scored) -> tuple[float, bool]:
    """Log-probability of the end of a row, and whether it is the most probable one, text by text."""
    with torch.no_grad():
        logits = original()(torch.tensor([row.tokens[:-1]])).logits[0]
    end = torch.tensor(row.tokens[row.first :])
    scored = logits[row.first - 1 :].log_softmax(-1)
    return float(scored[torch.arange(len(end)), end].sum()), bool((scored.argmax(-1) == end).all())


def test_likelihoods_are_those_of_transformers(gguf: Path) -> None:
    rows = encoder_of(gguf).pairs(PAIRS)
    # One more row whose end is the most probable one.
    with torch.no_grad():
        best = int(original()(torch.tensor([rows[0].tokens])).logits[0, -1].argmax())
    rows.append(Scored((*rows[0].tokens, best), len(rows[0].tokens)))
    given = answers_of(gguf).likelihoods(rows, "test")
    expected = [by_transformers(row) for row in rows]
    # llama.cpp has keys and values in 16 bits.
    assert [one.logprob for one in given] == pytest.approx([logprob for logprob, _ in expected], abs=2e-2)
    assert [one.greedy for one in given] == [greedy for _, greedy in expected]
    assert given[-1].greedy


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_shared_beginnings_change_nothing(family: str, tiny_gguf: MakeGguf, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf = tiny_gguf(family)
    # Longer than the window of Gemma's blocks, and in several batches, between which beginnings are kept.
    context = tuple(range(10, 70))
    rows = [Scored((*context[:length], 7, end, 9), length) for length in (60, 40, 60, 3) for end in (11, 12, 13)]
    monkeypatch.setattr("lieq_edge.llama.continuations._SEQUENCES", 2)
    scores = []
    for share in (True, False):
        with Continuations(gguf, context=64, threads=1, share=share) as model:
            scores.append(model.score(rows))
    # Sums of other lengths are rounded otherwise: keys and values have 16 bits.
    assert [one.logprob for one in scores[0]] == pytest.approx([one.logprob for one in scores[1]], abs=2e-2)
    assert [one.greedy for one in scores[0]] == [one.greedy for one in scores[1]]


def test_a_long_text_goes_through_in_pieces(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Scored((*range(5, 205), end), 150) for end in (3, 4)]
    expected = answers_of(gguf).likelihoods(rows, "test")
    monkeypatch.setattr("lieq_edge.llama.continuations.UBATCH", 64)
    with Continuations(gguf, context=256, threads=1) as model:
        pieces = model.score(rows)
    assert [one.logprob for one in pieces] == pytest.approx([one.logprob for one in expected], rel=1e-4)


def test_finished_parcels_are_not_computed_again(gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PARCEL_TOKENS", 20)
    rows = encoder_of(gguf).pairs(PAIRS)
    parcels: list[int] = []
    score = Continuations.score

    def killed(self: Continuations, part: Sequence[Scored]) -> object:
        if len(parcels) == 2:
            raise KeyboardInterrupt
        parcels.append(len(part))
        return score(self, part)

    monkeypatch.setattr(Continuations, "score", killed)
    with pytest.raises(KeyboardInterrupt):
        answers_of(gguf, tmp_path).likelihoods(rows, "test")
    done = sum(parcels)
    parcels.clear()

    def counted(self: Continuations, part: Sequence[Scored]) -> object:
        parcels.append(len(part))
        return score(self, part)

    monkeypatch.setattr(Continuations, "score", counted)
    resumed = answers_of(gguf, tmp_path).likelihoods(rows, "test")
    assert 0 < done < len(rows)
    assert sum(parcels) == len(rows) - done
    parcels.clear()
    assert answers_of(gguf, tmp_path).likelihoods(rows, "test") == resumed
    assert parcels == []
    # More items of the same task: what was answered stays.
    answers_of(gguf, tmp_path).likelihoods([*rows, *rows[:2]], "test")
    assert 0 < sum(parcels) < len(rows)


def test_the_most_probable_text_is_written_up_to_a_stop(gguf: Path, tmp_path: Path) -> None:
    source = open_source(str(gguf))
    texts = encoder_of(gguf).encode(["The quick brown fox", "The quick", "def measure(", "Numbers run: 0 1", "It"])
    prompts = [Prompt(tuple(tokens), 12, ()) for tokens in texts]
    written = answers_of(gguf, tmp_path).texts(prompts, "test")
    for tokens, text in zip(texts, written, strict=True):
        ids = list(tokens)
        with torch.no_grad():
            for _ in range(12):
                ids.append(int(original()(torch.tensor([ids])).logits[0, -1].argmax()))
        assert text == source.detokenize(ids[len(tokens) :])
    stop = written[0].strip()[2:4]
    (cut,) = answers_of(gguf, tmp_path).texts([Prompt(prompts[0].tokens, 12, (stop,))], "test")
    assert cut == written[0].split(stop)[0]
    assert cut != written[0]
