"""Importances as llama-quantize takes them from llama-imatrix."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..gguf.names import block_of
from ..llama.quantize import Columns


def block_importances(importances: Columns) -> dict[str, npt.NDArray[np.float32]]:
    """The importances of the blocks: llama-imatrix leaves the head out, unless asked for it."""
    return {name: values for name, values in importances.items() if block_of(name) is not None}


def imatrix_key_values(entries: int, chunks: int) -> dict[str, str | int]:
    """The key-values by which llama-quantize records the imatrix of a file.

    The names are always the same, so that the size of a file does not depend on them: they are those of
    ``llama-imatrix -f calibration.txt``.

    Args:
        entries: tensors in the imatrix.
        chunks: windows of its text.
    """
    return {
        "quantize.imatrix.file": "imatrix.gguf",
        "quantize.imatrix.dataset": "calibration.txt",
        "quantize.imatrix.entries_count": entries,
        "quantize.imatrix.chunks_count": chunks,
    }
