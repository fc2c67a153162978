"""Encode the tensors of a source as a plan says, one after the other, reading ahead by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from ..allocate.plan import Plan, TensorPlan
from ..errors import InputError
from ..ggml_types import TYPES
from ..source.base import Array, Source
from .ggml import NEVER_WITHOUT_IMPORTANCE, Packed, encode

Importance = Mapping[str, npt.NDArray[np.float32]]
"""Importance by GGUF tensor name: mean of x^2 of each input column, ``(columns,)`` or ``(experts, columns)``."""


def check_importance(plan: Plan, importance: Importance, *, allow_none: bool = False) -> None:
    """Refuse a plan whose 2-bit types would be encoded without an importance vector.

    Uniform Q2_K without importance took the demo model's perplexity from 23 to 132,920: such a file is of no use.

    Args:
        plan: to be written.
        importance: what was measured.
        allow_none: the user said ``--calibration none``.

    Raises:
        InputError: a type needs importance and the tensor has none.
    """
    for tensor in plan.tensors:
        if tensor.name in importance:
            continue
        if importance and TYPES[tensor.type].needs_importance:
            raise InputError(
                f"{tensor.name} is to be {tensor.type}, which needs an importance vector, and a tensor that is only "
                "looked up has none; choose a larger type for it."
            )
        if tensor.type in NEVER_WITHOUT_IMPORTANCE:
            raise InputError(
                f"{tensor.name} is to be {tensor.type}, which ggml does not write without importance; "
                "calibrate (--calibration docs) or choose another type."
            )
        if TYPES[tensor.type].needs_importance and not allow_none:
            raise InputError(
                f"{tensor.name} is to be {tensor.type}, which needs calibration; "
                "calibrate (--calibration docs), raise --levels, or say --calibration none to do without."
            )


def encode_tensors(
    source: Source, plan: Plan, importance: Importance, *, threads: int | None = None
) -> Iterator[tuple[TensorPlan, Packed]]:
    """Read and encode every tensor in the plan's order.

    Args:
        source: of the weights.
        plan: the types.
        importance: by tensor name; tensors without an entry are encoded with equal weights.
        threads: of the encoder.

    Yields:
        The tensor's plan and its bytes, uint8 ``(rows, bytes of a row)``.
    """
    with ThreadPoolExecutor(1) as reader:
        pending = reader.submit(source.read, plan.tensors[0].name)
        for position, tensor in enumerate(plan.tensors):
            array = pending.result()
            if position + 1 < len(plan.tensors):
                pending = reader.submit(source.read, plan.tensors[position + 1].name)
            yield tensor, encode_tensor(array, tensor, importance, threads=threads)


def encode_tensor(array: Array, tensor: TensorPlan, importance: Importance, *, threads: int | None = None) -> Packed:
    """Encode one tensor; ``array`` float32 of the plan's shape."""
    if array.shape != tensor.shape:
        raise InputError(f"{tensor.name} has shape {array.shape} and the plan says {tensor.shape}; make a new plan.")
    rows = array.reshape(-1, array.shape[-1])
    weights = importance.get(tensor.name) if TYPES[tensor.type].uses_importance else None
    if weights is not None and weights.ndim == 2:
        experts = zip(array, weights, strict=True)
        return np.concatenate([encode(one, tensor.type, own, threads) for one, own in experts])
    return encode(rows, tensor.type, weights, threads)
