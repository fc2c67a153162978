"""Importance of all matrices from one forward pass over a calibration text."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...blockwise.model import BlockModel
from ...blockwise.precision import fast_products, takes_bfloat16
from ...sources.base import Source
from ...store import Entry, Run, Steps
from ...system.progress import stage
from ...texts.windows import Windows
from .records import Importances, matrix_means, mean_square


def run_importance(
    source: Source, tokens: Windows, *, threads: int | None, bfloat16: bool | None, run: Run
) -> Importances:
    """Run a calibration text through the model and average the squares of the inputs of each linear.

    Args:
        source: model in full precision.
        tokens: token ids, ``(n, T)``.
        threads: number of CPU threads, None for all cores.
        bfloat16: see ``precision.takes_bfloat16``; its effect on finished files is in docs/method.md.
        run: run that stores finished blocks.

    Raises:
        InputError: the model gives NaN or Inf on the text.
    """
    importances: dict[str, npt.NDArray[np.float32]] = {}
    model = BlockModel(source, threads=threads)
    steps = Steps(run, range(model.n_blocks))
    quick = takes_bfloat16(source, bfloat16)
    with torch.no_grad(), fast_products(quick), stage("Calibrating", model.n_blocks + 1) as advance:
        for _, entry in steps.results():
            importances |= entry.arrays
            advance()
        if steps.state is None:
            hidden = model.embed(torch.from_numpy(tokens))
        else:
            hidden = torch.from_numpy(steps.state.arrays["hidden"]).clone()
        for index in steps.remaining:
            with model.block(index) as module:
                block = _block_importance(model, module, index, hidden)
            importances |= block
            steps.finish(index, Entry(block), {"hidden": hidden.numpy()})
            advance()
        total = torch.zeros(hidden.shape[-1], dtype=torch.float64)
        for part in hidden:
            total += _squares(model.final_norm(part))
        importances[model.head_name] = mean_square(model.head_name, total.numpy(), tokens.size)
        advance()
    return importances


def _block_importance(
    model: BlockModel, module: nn.Module, index: int, hidden: Tensor
) -> dict[str, npt.NDArray[np.float32]]:
    """Importance of the linears of one block; ``hidden``, ``(n, T, d)``, becomes the block's output."""
    linears = model.linears(module, index)
    sums = {name: torch.zeros(linear.in_features, dtype=torch.float64) for name, linear in linears.items()}

    experts = model.experts(module, index)
    shapes = {name: matrices.weight.shape for name, matrices in experts.items()}
    visits = {name: [0] * shape[0] for name, shape in shapes.items()}
    visitors = {name: torch.zeros(shape[0], shape[2], dtype=torch.float64) for name, shape in shapes.items()}

    def collect(name: str, x: Tensor) -> None:
        sums[name] += _squares(x)

    def collect_visit(name: str, x: Tensor, expert: int, _: Tensor) -> None:
        visitors[name][expert] += _squares(x)
        visits[name][expert] += len(x)

    hooks = [
        linear.register_forward_pre_hook(lambda _, args, name=name: collect(name, args[0]))
        for name, linear in linears.items()
    ] + [
        matrices.register_forward_pre_hook(lambda _, args, name=name: collect_visit(name, *args))
        for name, matrices in experts.items()
    ]
    try:
        model.advance(module, index, hidden)
    finally:
        for hook in hooks:
            hook.remove()
    count = hidden.shape[0] * hidden.shape[1]
    importances = {name: mean_square(name, total.numpy(), count) for name, total in sums.items()}
    for name, totals in visitors.items():
        importances[name] = matrix_means(name, totals.numpy(), np.array(visits[name]), several=True)
    return importances


def _squares(x: Tensor) -> Tensor:
    # A few thousand float32 terms at a time keep float32's accuracy; the sum over batches is float64.
    return x.float().square().flatten(0, -2).sum(0).double()
