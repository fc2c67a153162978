"""Steps read every token that is needed, shared ones once, and never more than fits."""

from __future__ import annotations

import random

import pytest

from lieq_edge.llama.prefixes import Move, Scored, Step, plan_steps, shared_tokens


class Memory:
    """llama.cpp's memory as the steps change it: the tokens of each sequence, by position."""

    def __init__(self) -> None:
        self.sequences: dict[int, list[int]] = {}

    def move(self, move: Move) -> None:
        if move.kind == "clear":
            self.sequences = {}
        elif move.kind == "keep":
            self.sequences = {move.sequence: self.sequences[move.sequence]}
        elif move.kind == "copy":
            assert move.target not in self.sequences
            self.sequences[move.target] = self.sequences[move.sequence][: move.length]
        else:
            self.sequences[move.sequence] = self.sequences[move.sequence][: move.length]

    def read(self, step: Step) -> list[tuple[int, ...]]:
        """Take the tokens in; returns everything that each one has seen, itself included."""
        for move in step.moves:
            self.move(move)
        seen = []
        for token, position, owners in zip(step.tokens, step.positions, step.owners, strict=True):
            for owner in owners:
                sequence = self.sequences.setdefault(owner, [])
                assert len(sequence) == position
                sequence.append(token)
            views = {tuple(self.sequences[owner]) for owner in owners}
            assert len(views) == 1  # they have the token in common because they have everything before it in common
            seen.append(views.pop())
        return seen


def texts(count: int, seed: int) -> list[Scored]:
    """Contexts of few different tokens, each with some continuations."""
    generator = random.Random(seed)
    rows: list[Scored] = []
    for _ in range(count):
        context = [generator.randrange(3) for _ in range(generator.randrange(1, 12))]
        for _ in range(generator.randrange(1, 5)):
            end = [generator.randrange(3) for _ in range(generator.randrange(1, 4))]
            rows.append(Scored((*context, *end), len(context)))
    return rows


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize(("most", "sequences"), [(4, 2), (16, 8), (512, 64)])
def test_each_scored_token_is_predicted_from_all_before_it(most: int, sequences: int, share: bool) -> None:
    rows = texts(30, seed=most)
    memory = Memory()
    predicted = []
    for step in plan_steps(rows, most=most, sequences=sequences, share=share):
        assert len(step.tokens) <= most
        assert max(max(owners) for owners in step.owners) < sequences
        seen = memory.read(step)
        for index, targets in step.targets.items():
            predicted += [(target.row, seen[index], target.token) for target in targets]
    expected = [
        (number, row.tokens[:place], row.tokens[place])
        for number, row in enumerate(rows)
        for place in range(row.first, len(row.tokens))
    ]
    assert sorted(predicted) == sorted(expected)


def test_a_common_context_is_read_once() -> None:
    context = tuple(range(100))
    rows = [Scored((*context, choice, 7), 100) for choice in (1, 2, 3, 4)]
    steps = list(plan_steps(rows, most=512, sequences=64))
    assert len(steps) == 1
    assert len(steps[0].tokens) == 100 + 4
    assert steps[0].owners[0] == [0, 1, 2, 3]
    assert sum(len(step.tokens) for step in plan_steps(rows, most=512, sequences=64, share=False)) == 4 * 101


def test_choices_of_one_token_cost_no_more_than_the_context() -> None:
    rows = [Scored((5, 6, 7, choice), 3) for choice in (1, 2, 3, 4)]
    (step,) = plan_steps(rows, most=512, sequences=64)
    assert step.tokens == [5, 6, 7]
    assert [target.token for target in step.targets[2]] == [1, 2, 3, 4]


def test_what_is_kept_reaches_from_batch_to_batch() -> None:
    context = tuple(range(20))
    rows = [Scored((*context, choice, 7, 8), 20) for choice in range(6)]
    steps = list(plan_steps(rows, most=8, sequences=4))
    assert sum(len(step.tokens) for step in steps) < 6 * 22 // 2


def test_nothing_is_read_for_an_empty_continuation() -> None:
    assert list(plan_steps([Scored((1, 2, 3), 3)], most=8, sequences=4)) == []


def test_shared_tokens_counts_what_consecutive_texts_do_not_share() -> None:
    assert shared_tokens([Scored((1, 2, 3, 4), 2), Scored((1, 2, 5, 6), 2), Scored((9, 9), 1)]) == 3 + 1 + 1
