"""Sharing out levels: the paper's rule on known cases, and order and budget over random ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lieq_edge.allocation.levels import levels_under, many_levels, two_levels
from lieq_edge.errors import InputError


@pytest.mark.parametrize(
    ("blocks", "budget", "promoted"),
    [(36, 2.05, 1), (28, 2.07, 1), (30, 2.1, 2), (28, 3.0, 14), (30, 2.0, 0), (30, 4.0, 30), (28, 2.001, 1)],
)
def test_two_levels_promote_the_papers_count(blocks: int, budget: float, promoted: int) -> None:
    scores = [float((11 * i) % blocks) for i in range(blocks)]
    bits = two_levels(scores, [100] * blocks, budget, 2, 4)
    assert bits.count(4) == promoted
    if 0 < promoted < blocks:
        assert min(s for s, b in zip(scores, bits, strict=True) if b == 4) > max(
            s for s, b in zip(scores, bits, strict=True) if b == 2
        )


def test_two_levels_with_unequal_blocks_take_the_smallest_sufficient_set() -> None:
    # f = 0.5 of 100 weights: the top two blocks hold 30, the top three 60.
    bits = two_levels([5, 4, 3, 2], [10, 20, 30, 40], 3.0, 2, 4)
    assert bits == [4, 4, 4, 2]


def test_two_levels_reach_an_exact_share_without_one_block_more() -> None:
    assert two_levels([3, 2, 1], [30, 20, 50], 3.0, 2, 4) == [4, 4, 2]


def test_a_budget_outside_the_levels_tells_the_range() -> None:
    with pytest.raises(InputError, match="2 to 4"):
        many_levels([1, 2], [1, 1], 4.5, (2, 3, 4))
    with pytest.raises(InputError, match="2 to 4"):
        two_levels([1, 2], [1, 1], 1.9, 2, 4)


def test_many_levels_give_the_top_block_more_when_the_others_hardly_count() -> None:
    # Budget 3: all at 3 bits, or one at 4 and one at 2. With weights 16:1 the second has the smaller error.
    assert many_levels([1.0, 0.0], [10, 10], 3.0, (2, 3, 4)) == [4, 2]
    assert many_levels([1.0, 1.0], [10, 10], 3.0, (2, 3, 4)) == [3, 3]


_scores = st.lists(st.floats(-3, 3, allow_nan=False), min_size=1, max_size=12)


@given(_scores, st.floats(2, 4), st.randoms(use_true_random=False))
def test_many_levels_keep_order_and_budget(scores, budget, random) -> None:
    sizes = [random.randint(1, 50) for _ in scores]
    bits = many_levels(scores, sizes, budget, (2, 3, 4))
    total = sum(sizes)
    used = sum(b * n for b, n in zip(bits, sizes, strict=True))
    assert used <= budget * total * (1 + 1e-9)
    for i, score in enumerate(scores):
        for j, other in enumerate(scores):
            if score > other:
                assert bits[i] >= bits[j]


@given(_scores, st.floats(2, 4))
def test_many_levels_come_within_one_bit_of_one_block_when_blocks_are_equal(scores, budget) -> None:
    bits = many_levels(scores, [7] * len(scores), budget, (2, 3, 4))
    assert budget * len(scores) - sum(bits) < 1 + 1e-6


@given(_scores, st.floats(0, 1), st.randoms(use_true_random=False))
def test_levels_under_a_byte_limit_never_exceed_it_and_leave_no_possible_promotion(scores, share, random) -> None:
    sizes = [random.randint(1, 50) * 256 for _ in scores]
    rates = {2: 84, 3: 110, 4: 144}

    def bytes_of(block: int, level: int) -> int:
        return sizes[block] // 256 * rates[level]

    least = sum(bytes_of(i, 2) for i in range(len(sizes)))
    most = sum(bytes_of(i, 4) for i in range(len(sizes)))
    limit = least + share * (most - least)
    bits = levels_under(scores, (2, 3, 4), limit, bytes_of, sizes)
    assert bits is not None
    used = sum(bytes_of(i, b) for i, b in enumerate(bits))
    assert used <= limit
    # The best-scored block of each level can be promoted without breaking the order; none fits any more.
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    for level in (2, 3):
        held = [i for i in order if bits[i] == level]
        if held:
            assert used - bytes_of(held[0], level) + bytes_of(held[0], level + 1) > limit


def test_levels_under_an_impossible_limit_give_none() -> None:
    assert levels_under([1.0], (2, 3, 4), 10, lambda block, level: 100, [256]) is None
