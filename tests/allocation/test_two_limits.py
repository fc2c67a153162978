"""Two limits at once: never above the best of all choices by more than is proven, and infeasible only if all are."""

from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lieq_edge.allocation.knapsack import Option, solve
from lieq_edge.allocation.two_limits import GAP, fastest, solve_two

_option = st.tuples(st.integers(1, 50), st.integers(1, 50), st.floats(0, 100))
_items = st.lists(st.lists(_option, min_size=1, max_size=4), min_size=1, max_size=5)


def made(raw: list[list[tuple[int, int, float]]]) -> tuple[list[list[Option]], list[list[float]]]:
    items = [[Option(str(i), cost, loss) for i, (cost, _, loss) in enumerate(options)] for options in raw]
    return items, [[float(time) for _, time, _ in options] for options in raw]


def between(values: list[list[float]], share: float) -> float:
    least, most = sum(map(min, values)), sum(map(max, values))
    return least + share * (most - least)


@given(_items, st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=300)
def test_the_choice_is_the_best_of_all(raw: list[list[tuple[int, int, float]]], a: float, b: float) -> None:
    items, times = made(raw)
    limit = between([[option.cost for option in options] for options in items], a)
    seconds = between(times, b)
    possible = [
        choice
        for choice in product(*(range(len(options)) for options in items))
        if sum(items[i][k].cost for i, k in enumerate(choice)) <= limit
        and sum(times[i][k] for i, k in enumerate(choice)) <= seconds
    ]
    found = solve_two(items, times, limit, seconds)
    if not possible:
        assert found is None
        return
    assert found is not None
    best = min(sum(items[i][k].loss for i, k in enumerate(choice)) for choice in possible)
    assert found.chosen in possible
    assert found.loss == sum(items[i][k].loss for i, k in enumerate(found.chosen))
    assert found.loss <= best * (1 + 2 * GAP) + 1e-6
    assert found.bound <= best + 1e-6


@given(_items, st.floats(0, 1))
@settings(max_examples=100)
def test_the_fastest_choice_is_the_fastest_of_all(raw: list[list[tuple[int, int, float]]], share: float) -> None:
    items, times = made(raw)
    limit = between([[option.cost for option in options] for options in items], share)
    best = min(
        sum(times[i][k] for i, k in enumerate(choice))
        for choice in product(*(range(len(options)) for options in items))
        if sum(items[i][k].cost for i, k in enumerate(choice)) <= limit
    )
    found = fastest(items, times, limit)
    assert found is not None
    assert best <= found.loss <= best * (1 + 2 * GAP)


def test_a_model_of_two_hundred_matrices_is_within_a_thousandth() -> None:
    generator = np.random.default_rng(0)
    sizes = generator.choice([331_776, 884_736, 110_592], 210)
    bits, nanoseconds = (2.625, 3.4375, 4.5, 5.5, 6.5625, 8.5), (0.034, 0.045, 0.049, 0.066, 0.073, 0.112)
    weights = np.exp(generator.normal(0, 1.5, 210))
    items = [
        [Option(str(b), float(size * b // 8), float(weight * size * 4.0**-b)) for b in bits]
        for size, weight in zip(sizes, weights, strict=True)
    ]
    times = [[float(size * each) for each in nanoseconds] for size in sizes]
    limit = float(4.5 / 8 * sizes.sum())
    alone = solve(items, limit)
    assert alone is not None
    taken, quickest = sum(t[i] for t, i in zip(times, alone, strict=True)), fastest(items, times, limit)
    assert quickest is not None
    seconds = (taken + quickest.loss) / 2
    found = solve_two(items, times, limit, seconds)
    assert found is not None
    assert sum(items[i][k].cost for i, k in enumerate(found.chosen)) <= limit
    assert sum(times[i][k] for i, k in enumerate(found.chosen)) <= seconds
    assert 0 <= found.gap <= 1e-3
    assert found.loss >= sum(options[i].loss for options, i in zip(items, alone, strict=True)) * (1 - 1e-3)
    assert solve_two(items, times, limit, quickest.loss * 0.999) is None
