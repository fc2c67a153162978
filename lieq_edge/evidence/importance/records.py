"""Importance of the input columns of each matrix: the mean of x^2 over a calibration text (llama.cpp's imatrix)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ...errors import InputError

Importances = Mapping[str, npt.NDArray[np.float32]]
"""Mean of x^2 of each input column ``(columns,)`` by GGUF tensor name; ``(matrices, columns)`` for experts.

All entries are positive. The matrix that makes the logits is one of them (``output.weight``, or ``token_embd.weight``
of a tied model).
"""


def mean_square(name: str, total: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.float32]:
    """Importance of a matrix: the mean square of its inputs, raised above zero, float32 ``(columns,)``.

    Args:
        name: name of the matrix, for messages.
        total: sums of squares, ``(columns,)``.
        count: number of inputs.

    Raises:
        InputError: the mean is NaN or Inf.
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
    # Errors in a column that is always zero cost nothing, but in a block of such columns only the encoder would divide
    # by zero.
    floored: npt.NDArray[np.float32] = np.maximum(mean, 1e-6 * average).astype(np.float32)
    return floored


def matrix_means(
    name: str, totals: npt.NDArray[np.float64], counts: npt.NDArray[np.int64], *, several: bool
) -> npt.NDArray[np.float32]:
    """Importance of a tensor of one matrix ``(columns,)``, or of ``several`` (experts) ``(matrices, columns)``.

    A matrix that no input reached gets the mean over the inputs of all.

    Args:
        name: name of the tensor, for messages.
        totals: sums of squares, ``(matrices, columns)``.
        counts: number of inputs of each matrix, ``(matrices,)``, not all zero.
        several: True if the tensor has more than two dimensions.

    Raises:
        InputError: a mean is NaN or Inf.
    """
    pooled = mean_square(name, totals.sum(0), int(counts.sum()))
    each = [mean_square(name, row, int(n)) if n else pooled for row, n in zip(totals, counts, strict=True)]
    return np.stack(each) if several else each[0]
