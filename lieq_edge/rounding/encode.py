"""Encode tensors by ggml's own encoders, one after the other, reading ahead by one."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ..allocation.plan import Plan, TensorPlan
from ..errors import InputError
from ..evidence.importance.records import Importances
from ..gguf.types import TYPES
from ..llama.encoders import NEVER_WITHOUT_IMPORTANCE, Packed, encode
from ..sources.base import Array, Source


def check_importance(plan: Plan, importances: Importances, *, allow_none: bool = False) -> None:
    """Refuse a plan whose 2-bit types would be encoded without an importance vector, as rounding to nearest does.

    Such a file is useless: in uniform Q2_K without importance the demo model has a perplexity above 100,000.

    Args:
        plan: plan to write.
        importances: measured importances.
        allow_none: True if the user asked for no calibration (``--calibration none``).

    Raises:
        InputError: a type needs importance and the tensor has none.
    """
    for tensor in plan.tensors:
        if tensor.name in importances or tensor.kept:
            continue
        if importances and TYPES[tensor.type].needs_importance:
            raise InputError(
                f"{tensor.name} is to be {tensor.type}, which needs an importance vector, and a table that is only "
                "looked up has none; choose a larger type for it."
            )
        if tensor.type in NEVER_WITHOUT_IMPORTANCE:
            way = "leave out --calibration none" if allow_none else "take --rounding imatrix"
            raise InputError(
                f"{tensor.name} is to be {tensor.type}, which ggml does not write without importance; {way} or choose "
                "another type."
            )
        if TYPES[tensor.type].needs_importance and not allow_none:
            raise InputError(
                f"{tensor.name} is to be {tensor.type}, which needs importance, and --rounding nearest reads no text; "
                "take --rounding imatrix, raise --levels, or pass --calibration none to do without."
            )


def encode_tensors(
    source: Source, plan: Plan, importances: Importances, *, threads: int | None = None
) -> Iterator[tuple[TensorPlan, Packed]]:
    """Read and encode every tensor in the plan's order.

    Args:
        source: model with the weights.
        plan: types of all tensors.
        importances: importances by tensor name; other tensors are encoded with equal weights.
        threads: number of threads of the encoder, None for all cores.

    Yields:
        Each tensor's plan and its bytes, uint8 ``(rows, bytes of a row)``.
    """
    with ThreadPoolExecutor(1) as reader:
        pending = reader.submit(_load, source, plan.tensors[0])
        for position, tensor in enumerate(plan.tensors):
            array = pending.result()
            if position + 1 < len(plan.tensors):
                pending = reader.submit(_load, source, plan.tensors[position + 1])
            yield tensor, array if tensor.kept else encode_tensor(array, tensor, importances, threads=threads)


def _load(source: Source, tensor: TensorPlan) -> Any:
    """Values of a tensor, or its stored bytes if they are copied."""
    return source.read_stored(tensor.name) if tensor.kept else source.read(tensor.name)


def encode_tensor(array: Array, tensor: TensorPlan, importances: Importances, *, threads: int | None = None) -> Packed:
    """Encode one tensor.

    Args:
        array: weights, float32 of the plan's shape.
        tensor: plan of the tensor.
        importances: importances by tensor name.
        threads: number of threads of the encoder, None for all cores.

    Raises:
        InputError: the shape is another than the plan's.
    """
    if array.shape != tensor.shape:
        raise InputError(f"{tensor.name} has shape {array.shape} and the plan says {tensor.shape}; make a new plan.")
    rows = array.reshape(-1, array.shape[-1])
    weights = importances.get(tensor.name) if TYPES[tensor.type].uses_importance else None
    if weights is not None and weights.ndim == 2:
        # One vector for each expert.
        parts = zip(np.split(rows, len(weights)), weights, strict=True)
        return np.concatenate([encode(part, tensor.type, importance, threads) for part, importance in parts])
    return encode(rows, tensor.type, weights, threads)
