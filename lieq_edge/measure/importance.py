"""Importance of the input columns of each linear: the mean of x^2 over a calibration text (llama.cpp's imatrix)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..cache import NO_CACHE, Cache, Entry, Run, Steps
from ..errors import InputError
from ..progress import stage
from ..source.base import Source
from .model import BlockModel
from .precision import quick_products, takes_bfloat16


def measure_importance(
    source: Source,
    tokens: Tensor,
    *,
    threads: int | None = None,
    bfloat16: bool | None = None,
    cache: Cache = NO_CACHE,
) -> dict[str, npt.NDArray[np.float32]]:
    """Run a calibration text through the model and average the squares of what each linear receives.

    Args:
        source: the model in full precision.
        tokens: ids ``(n, T)``.
        threads: CPU threads for torch.
        bfloat16: see ``precision.takes_bfloat16``. It takes half the time and moves a finished file's KL divergence by
            less than half a percent on average (docs/method.md).
        cache: for results of this model.

    Returns:
        float32 ``(columns,)`` by GGUF tensor name, for every linear of every block and for the matrix that makes
        the logits (``output.weight``, or ``token_embd.weight`` when tied); ``(experts, columns)`` for the experts of a
        block, each over the tokens that visit it, or those of all where no token does. All entries are positive.

    Raises:
        InputError: the model gives NaN or Inf on the text.
    """
    quick = takes_bfloat16(source, bfloat16)
    parts = {"tokens": tokens, "bfloat16": quick}
    kept = cache.get("importance", parts)
    if kept is None:
        if source.in_transformers:
            with cache.run("importance", parts) as run:
                kept = Entry(_measure(source, tokens, threads, quick, run))
                cache.put("importance", parts, kept)
        else:
            from . import llama_measure

            kept = Entry(llama_measure.measure_importance(source, tokens, threads=threads))
            cache.put("importance", parts, kept)
    return kept.arrays


def _measure(
    source: Source, tokens: Tensor, threads: int | None, bfloat16: bool, run: Run
) -> dict[str, npt.NDArray[np.float32]]:
    """Importance by PyTorch."""
    found: dict[str, npt.NDArray[np.float32]] = {}
    model = BlockModel(source, threads=threads)
    steps = Steps(run, range(model.n_blocks))
    with torch.no_grad(), quick_products(bfloat16), stage("Calibrating", model.n_blocks + 1) as advance:
        for _, entry in steps.results():
            found |= entry.arrays
            advance()
        if steps.state is None:
            hidden = model.embed(tokens)
        else:
            hidden = torch.from_numpy(steps.state.arrays["hidden"]).clone()
        for index in steps.remaining:
            with model.block(index) as module:
                own = _block_importance(model, module, index, hidden)
            found |= own
            steps.finish(index, Entry(own), {"hidden": hidden.numpy()})
            advance()
        total = torch.zeros(hidden.shape[-1], dtype=torch.float64)
        for part in hidden:
            total += _squares(model.final_norm(part))
        found[model.head_name] = mean_square(model.head_name, total.numpy(), tokens.numel())
        advance()
    return found


def _block_importance(
    model: BlockModel, module: nn.Module, index: int, hidden: Tensor
) -> dict[str, npt.NDArray[np.float32]]:
    """Importance of the linears of one block; ``hidden`` ``(n, T, d)`` becomes the block's output."""
    linears = model.linears(module, index)
    sums = {name: torch.zeros(linear.in_features, dtype=torch.float64) for name, linear in linears.items()}

    experts = model.experts(module, index)
    shapes = {name: matrices.weight.shape for name, matrices in experts.items()}
    visits = {name: [0] * shape[0] for name, shape in shapes.items()}
    visitors = {name: torch.zeros(shape[0], shape[2], dtype=torch.float64) for name, shape in shapes.items()}

    def collect(name: str, x: Tensor) -> None:
        sums[name] += _squares(x)

    def collect_visit(name: str, x: Tensor, expert: int) -> None:
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
    found = {name: mean_square(name, total.numpy(), count) for name, total in sums.items()}
    for name, totals in visitors.items():
        # An expert that no token visits gets the mean of the others.
        pooled = mean_square(name, totals.sum(0).numpy(), sum(visits[name]))
        each = zip(totals, visits[name], strict=True)
        found[name] = np.stack([mean_square(name, total.numpy(), n) if n else pooled for total, n in each])
    return found


def _squares(x: Tensor) -> Tensor:
    # A few thousand float32 terms at a time keep float32's accuracy; the sum over batches is float64.
    return x.float().square().flatten(0, -2).sum(0).double()


def mean_square(name: str, total: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.float32]:
    """Importance of a matrix from the sum of the squares of ``count`` inputs: their mean, kept above zero.

    Raises:
        InputError: it is NaN or Inf.
    """
    mean = total / count
    if not np.isfinite(mean).all():
        raise InputError(
            f"The model computes NaN or Inf before {name} on the calibration text; its weights are damaged."
        )
    average = mean.mean()
    if average == 0.0:
        # Never activated: every weight counts alike (llama.cpp gives 1 to matrices that no token reached).
        return np.ones(len(mean), dtype=np.float32)
    # A column that is always zero costs nothing whatever its weights become, but a block of nothing but such columns
    # would leave the encoder dividing by zero.
    floored: npt.NDArray[np.float32] = np.maximum(mean, 1e-6 * average).astype(np.float32)
    return floored


def matrix_means(
    name: str, totals: npt.NDArray[np.float64], counts: npt.NDArray[np.int64], *, several: bool
) -> npt.NDArray[np.float32]:
    """Importance of a tensor of one matrix ``(columns,)``, or of ``several`` (experts) ``(matrices, columns)``.

    A matrix that no input reached gets the mean over the inputs of all.

    Args:
        name: of the tensor.
        totals: sums of squares ``(matrices, columns)``.
        counts: of the inputs of each matrix ``(matrices,)``, not all zero.
        several: the tensor is of more than two dimensions.
    """
    pooled = mean_square(name, totals.sum(0), int(counts.sum()))
    each = [mean_square(name, row, int(n)) if n else pooled for row, n in zip(totals, counts, strict=True)]
    return np.stack(each) if several else each[0]
