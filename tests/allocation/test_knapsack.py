"""The knapsack over tensor types: known answers, limits over random instances, near the best of all choices."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lieq_edge.allocation.knapsack import Option, solve


def test_two_tensors_with_a_known_answer() -> None:
    # The second tensor gains 9 for the 2 units that the limit leaves, the first only 1.
    items = [
        [Option("low", 2, 5.0), Option("high", 4, 4.0)],
        [Option("low", 2, 10.0), Option("high", 4, 1.0)],
    ]
    assert solve(items, 6) == [0, 1]
    assert solve(items, 8) == [1, 1]
    assert solve(items, 5) == [0, 0]
    assert solve(items, 3) is None


def test_an_option_inside_the_hull_is_used_for_what_is_left() -> None:
    # At any price the hull offers 0 or 10; with 6 to spend the option at 5 is the best that fits.
    items = [[Option("a", 0, 10.0), Option("b", 5, 9.0), Option("c", 10, 0.0)]]
    assert solve(items, 6) == [1]


def test_a_large_item_does_not_leave_the_rest_to_small_ones() -> None:
    # Any price that pays for the embedding's better option pays for all of the small ones before, which is too much.
    embedding = [Option("low", 400, 0.10), Option("high", 500, 0.02)]
    small = [[Option("a", 10, 0.02), Option("b", 13, 0.017), Option("c", 16, 0.0144)] for _ in range(20)]
    chosen = solve([embedding, *small], 745)
    assert chosen is not None
    assert chosen[0] == 1
    losses = [options[i].loss for options, i in zip([embedding, *small], chosen, strict=True)]
    assert sum(losses) == pytest.approx(0.02 + 5 * 0.02 + 15 * 0.017)


def test_an_option_that_costs_more_for_nothing_is_never_taken() -> None:
    items = [[Option("good", 1, 1.0), Option("bad", 2, 1.5)]]
    assert solve(items, 100) == [0]


def test_losses_near_the_smallest_number_there_is_come_to_an_end() -> None:
    tiny = 5e-324
    assert solve([[Option("low", 1, tiny), Option("high", 2, 0.0)]], 1.5) == [0]
    assert solve([[Option("low", 1, tiny), Option("high", 2, 0.0)]], 2.0) == [1]


_options = st.lists(st.tuples(st.integers(1, 50), st.floats(0, 100)), min_size=1, max_size=4)


@given(st.lists(_options, min_size=1, max_size=5), st.floats(0, 1))
@settings(max_examples=200)
def test_the_limit_holds_and_the_choice_is_near_the_best(raw: list[list[tuple[int, float]]], share: float) -> None:
    items = [[Option(str(i), cost, loss) for i, (cost, loss) in enumerate(options)] for options in raw]
    least = sum(min(o.cost for o in options) for options in items)
    most = sum(max(o.cost for o in options) for options in items)
    limit = least + share * (most - least)
    chosen = solve(items, limit)
    assert chosen is not None
    cost = sum(options[i].cost for options, i in zip(items, chosen, strict=True))
    loss = sum(options[i].loss for options, i in zip(items, chosen, strict=True))
    assert cost <= limit + 1e-9
    best = min(
        sum(option.loss for option in choice)
        for choice in product(*items)
        if sum(option.cost for option in choice) <= limit
    )
    # A Lagrangian is at most the largest loss of one item away from the best.
    spread = max(max(o.loss for o in options) - min(o.loss for o in options) for options in items)
    assert best - 1e-9 <= loss <= best + spread + 1e-9


def test_many_items_land_close_under_the_limit() -> None:
    items = [
        [Option(str(bits), bits * (100 + 7 * (i % 5)), (1 + i % 3) * 4.0**-bits) for bits in (2, 3, 4, 5)]
        for i in range(200)
    ]
    limit = 3.3 * sum(100 + 7 * (i % 5) for i in range(200))
    chosen = solve(items, limit)
    assert chosen is not None
    assert sum(items[i][k].cost for i, k in enumerate(chosen)) == pytest.approx(limit, rel=0.005)
