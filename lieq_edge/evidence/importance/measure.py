"""Importance of the input columns of each linear: the mean of x^2 over a calibration text (llama.cpp's imatrix)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...errors import InputError
from ...sources.base import Source
from ...store import NO_CACHE, Cache, Entry
from ...texts.windows import Windows


def measure_importance(
    source: Source,
    tokens: Windows,
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
    # Whether this processor has bfloat16 products is part of every key.
    parts = {"tokens": tokens, "bfloat16": bfloat16 is not False}
    kept = cache.get("importance", parts)
    if kept is None:
        if source.in_transformers:
            from .forward_pass import run_importance

            with cache.run("importance", parts) as run:
                kept = Entry(run_importance(source, tokens, threads=threads, bfloat16=bfloat16, run=run))
                cache.put("importance", parts, kept)
        else:
            from ...runtimes import llama_cpp as llama_measure

            kept = Entry(llama_measure.measure_importance(source, tokens, threads=threads))
            cache.put("importance", parts, kept)
    return kept.arrays


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
