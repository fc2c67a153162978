"""Allocate by predicted loss: the types of the tensors have the least sum of predicted losses under a budget.

A bound on the time of a token may come with it (``two_limits``).

The predictions are additive in nats a token (``tr(E H E^T)``, see ``evidence.loss.predictions``), so the choice is a
knapsack over tensors. With ``granularity="block"`` all matrices of a block share one type, as in LieQ.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ..errors import InputError
from ..evidence.blocks.records import Diagnostics, TensorInfo
from ..gguf.container import padded
from ..gguf.names import EMBEDDING, HEAD, block_of
from ..gguf.types import TYPES
from .budget import Budget, parse_budget
from .knapsack import Option, solve
from .plan import (
    Plan,
    PlanOptions,
    TensorPlan,
    count_weights,
    is_block_weight,
    overhead_bytes,
    plan_fixed,
    plan_tensor,
    summarise,
)
from .time_limit import TimeLimit
from .two_limits import fastest, solve_two

Losses = Mapping[str, Mapping[str, float]]
"""Predicted loss in nats a token, by tensor name and type name."""

# Losses are measured for types that fit only.
_AS_MEASURED = PlanOptions(strict_types=True)


def make_loss_plan(
    diagnostics: Diagnostics,
    budget: str | Budget,
    losses: Losses,
    options: PlanOptions | None = None,
    time: TimeLimit | None = None,
) -> Plan:
    """Choose types under a budget.

    Args:
        diagnostics: names and shapes of the tensors.
        budget: nominal bits and bits a weight count the block weights; bytes count the whole file, and then embedding
            and head are chosen too unless ``options`` fix them.
        losses: predicted losses of every block matrix, and of embedding and head for a budget in bytes.
        options: options, of which ``granularity``, ``token_embedding_type``, ``output_type`` and ``strict_types`` are
            read.
        time: bound on the time of a token, and the device on which the plan's speed is predicted.

    Raises:
        InputError: the budget or the bound is out of reach; the sentence gives what is in reach.
    """
    options = options or PlanOptions(metric="loss", granularity="tensor")
    budget = parse_budget(budget) if isinstance(budget, str) else budget
    free, fixed = _divide(diagnostics, budget, losses, options)
    groups = _groups(free, options)
    items, choices = _items(groups, losses, budget)
    limit = _limit(budget, diagnostics, free, fixed)
    chosen = solve(items, limit)
    if chosen is None:
        raise _out_of_reach(budget, items, limit)
    if time is not None and time.min_tps is not None:
        chosen = _within_time(time, items, choices, chosen, limit, fixed.values(), budget)
    types = dict(fixed)
    for group, made, index in zip(groups, choices, chosen, strict=True):
        types.update({tensor.name: plan for tensor, plan in zip(group, made[index], strict=True)})
    predicted = {name: losses[name].get(tensor.type, 0.0) for name, tensor in types.items() if name in losses}
    tensors = tuple(replace(types[t.name], predicted_loss=predicted.get(t.name)) for t in diagnostics.tensors)
    plan = summarise(
        diagnostics,
        budget,
        options,
        _scores(diagnostics, losses),
        tensors,
        nominal=_nominal_bits(tensors, len(diagnostics.blocks)),
        predicted_loss=sum(predicted[t.name] for t in tensors if t.name in predicted),
    )
    return plan if time is None else replace(plan, pace=time.pace(tensors))


def _within_time(
    time: TimeLimit,
    items: Sequence[Sequence[Option]],
    choices: Sequence[Sequence[Sequence[TensorPlan]]],
    chosen: list[int],
    limit: float,
    fixed: Iterable[TensorPlan],
    budget: Budget,
) -> list[int]:
    """The choice under the budget alone if it is fast enough, else the one with the least loss that is."""
    times = [[time.of(plans) for plans in made] for made in choices]
    seconds = time.seconds - time.of(fixed)
    if sum(each[index] for each, index in zip(times, chosen, strict=True)) <= seconds:
        return chosen
    found = solve_two(items, times, limit, seconds)
    if found is None:
        quickest = fastest(items, times, limit)
        assert quickest is not None  # the budget alone can be kept
        if quickest.loss <= seconds:
            return list(quickest.chosen)
        speed = 1 / (1 / (time.min_tps or 1) - seconds + quickest.loss)
        raise InputError(
            f"{time.min_tps:g} tokens a second are out of reach under the budget {budget.text}: the fastest file of "
            f"the allowed types is predicted to reach {speed:.1f} on {time.profile.name}; lower --min-tps, change the "
            "budget or allow other --types."
        )
    return list(found.chosen)


def largest_budget(diagnostics: Diagnostics, budget: Budget, losses: Losses, options: PlanOptions) -> float:
    """The largest budget of which anything is used, in the unit of ``budget``; arguments as ``make_loss_plan``."""
    free, fixed = _divide(diagnostics, budget, losses, options)
    items, _ = _items(_groups(free, options), losses, budget)
    most = sum(max(option.cost for option in each) for each in items)
    weights = sum(count_weights(tensor) for tensor in free)
    if budget.kind == "nominal":
        return most / weights
    if budget.kind == "bpw":
        return 8 * most / weights
    return most + budget.value - _limit(budget, diagnostics, free, fixed)


def _divide(
    diagnostics: Diagnostics, budget: Budget, losses: Losses, options: PlanOptions
) -> tuple[list[TensorInfo], dict[str, TensorPlan]]:
    """Tensors whose types are chosen, and those whose types are fixed."""
    free = [tensor for tensor in diagnostics.tensors if _is_free(tensor, budget, options, losses)]
    names = {tensor.name for tensor in free}
    return free, {t.name: plan_fixed(t, diagnostics, options) for t in diagnostics.tensors if t.name not in names}


def _is_free(tensor: TensorInfo, budget: Budget, options: PlanOptions, losses: Losses) -> bool:
    if is_block_weight(tensor):
        return True
    chosen = {EMBEDDING: options.token_embedding_type, HEAD: options.output_type}
    return budget.kind == "bytes" and tensor.name in losses and chosen.get(tensor.name) is None


def _groups(free: Sequence[TensorInfo], options: PlanOptions) -> list[list[TensorInfo]]:
    """Tensors that get a type together: single ones, or the matrices of a block."""
    if options.granularity == "tensor":
        return [[tensor] for tensor in free]
    blocks: dict[int, list[TensorInfo]] = {}
    for tensor in free:
        # Tensors outside the blocks stand alone, under numbers that no block has.
        block = block_of(tensor.name) if is_block_weight(tensor) else None
        blocks.setdefault(-1 - len(blocks) if block is None else block, []).append(tensor)
    return list(blocks.values())


def _items(
    groups: Sequence[Sequence[TensorInfo]], losses: Losses, budget: Budget
) -> tuple[list[list[Option]], list[list[list[TensorPlan]]]]:
    items, choices = [], []
    for group in groups:
        names = list(dict.fromkeys(name for tensor in group for name in losses[tensor.name]))
        options, made = [], []
        for name in names:
            plans = [_fitting(tensor, name, losses) for tensor in group]
            cost = sum(_cost(plan, budget) for plan in plans)
            loss = sum(losses[plan.name][plan.type] for plan in plans)
            options.append(Option(name, cost, loss))
            made.append(plans)
        items.append(options)
        choices.append(made)
    return items, choices


def _fitting(tensor: TensorInfo, name: str, losses: Losses) -> TensorPlan:
    """The type where the tensor has a loss for it, else the smallest measured one with at least as many bits."""
    measured = losses[tensor.name]
    if name in measured:
        return plan_tensor(tensor, name, _AS_MEASURED)
    enough = [other for other in measured if TYPES[other].bits >= TYPES[name].bits]
    other = min(enough or measured, key=lambda kind: TYPES[kind].bpw)
    plan = plan_tensor(tensor, other, _AS_MEASURED)
    return TensorPlan(plan.name, plan.shape, plan.type, plan.nbytes, wanted=name)


def _cost(plan: TensorPlan, budget: Budget) -> float:
    if budget.kind == "nominal":
        return float(TYPES[plan.type].bits * count_weights(plan))
    return float(padded(plan.nbytes))


def _limit(
    budget: Budget, diagnostics: Diagnostics, free: Sequence[TensorInfo], fixed: Mapping[str, TensorPlan]
) -> float:
    weights = sum(count_weights(tensor) for tensor in free)
    if budget.kind == "nominal":
        return budget.value * weights * (1 + 1e-12)
    if budget.kind == "bpw":
        return budget.value * weights / 8 * (1 + 1e-12)
    return budget.value - overhead_bytes(diagnostics) - sum(padded(tensor.nbytes) for tensor in fixed.values())


def _out_of_reach(budget: Budget, items: Sequence[Sequence[Option]], limit: float) -> InputError:
    least = sum(min(option.cost for option in options) for options in items)
    share = least / limit if limit > 0 else float("inf")
    if budget.kind == "bytes":
        needed = f"{(budget.value - limit + least) / 1e6:.1f} MB"
    else:
        needed = f"{budget.value * share:.3f}"
    return InputError(
        f"The budget {budget.text} is out of reach: with the smallest of the types it takes {needed} or more; "
        "raise the budget or allow smaller --types."
    )


def _nominal_bits(tensors: Sequence[TensorPlan], blocks: int) -> dict[int, float]:
    """Mean nominal bits of each block's weights."""
    bits, weights = [0.0] * blocks, [0] * blocks
    for tensor in tensors:
        index = block_of(tensor.name)
        if index is not None and is_block_weight(tensor):
            bits[index] += TYPES[tensor.type].bits * count_weights(tensor)
            weights[index] += count_weights(tensor)
    return {index: bits[index] / max(weights[index], 1) for index in range(blocks)}


def _scores(diagnostics: Diagnostics, losses: Losses) -> list[float]:
    """A block's score: its predicted loss with every matrix in its smallest type."""
    scores = [0.0] * len(diagnostics.blocks)
    for name, by_type in losses.items():
        block = block_of(name)
        if block is not None:
            scores[block] += by_type[min(by_type, key=lambda kind: TYPES[kind].bpw)]
    return scores
