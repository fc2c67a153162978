"""From nominal bits to a ggml type that fits a tensor's rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError
from ..evidence.blocks.records import TensorInfo
from ..gguf.types import (
    CODEBOOK_TYPES,
    FALLBACKS,
    K_CANDIDATES,
    NARROW_CANDIDATES,
    PORTABLE_CANDIDATES,
    PORTABLE_FALLBACKS,
    TYPES,
    GgmlType,
    is_matrix,
)

PORTABLE = "portable"
"""Value of ``--types``: only types that programs with kernels of their own read too, whichever the metric is."""

_SETS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "k": (K_CANDIDATES, NARROW_CANDIDATES),
    "all": ((*K_CANDIDATES, *CODEBOOK_TYPES), NARROW_CANDIDATES),
    PORTABLE: (K_CANDIDATES, PORTABLE_CANDIDATES),
}
"""Candidates for rows of whole super-blocks and for other rows, by the name of the set."""


@dataclass(frozen=True)
class Resolved:
    """The type of a tensor.

    Attributes:
        type: type that fits the rows.
        wanted: name of the intended type, if it does not fit the rows; else None.
    """

    type: GgmlType
    wanted: str | None


def resolve(
    type_name: str, columns: int, *, strict: bool = False, portable: bool = False, tensor: str = "a tensor"
) -> Resolved:
    """The type itself where it fits rows of ``columns`` weights, otherwise the smallest type that does.

    A fallback never has fewer nominal bits than the type it stands for, so the order of the blocks stays.

    Args:
        type_name: name of the type in any case.
        columns: weights in a row.
        strict: True refuses a type that does not fit.
        portable: True takes only types that programs with kernels of their own read too in its place.
        tensor: the tensor, for messages.

    Raises:
        InputError: the type is unknown, or it does not fit and ``strict`` is set.
    """
    wanted = TYPES.get(type_name.upper())
    if wanted is None:
        raise InputError(f"The type {type_name!r} is unknown; choose one of {', '.join(TYPES)}.")
    if wanted.fits(columns):
        return Resolved(wanted, None)
    if strict:
        raise InputError(
            f"{wanted.name} does not fit {tensor}: its rows of {columns} weights are not a multiple of {wanted.block}; "
            "leave --strict-types out to let it take the smallest type that fits."
        )
    candidates = [TYPES[name] for name in (PORTABLE_FALLBACKS if portable else FALLBACKS)]
    fitting = [kind for kind in candidates if kind.fits(columns) and kind.bits >= wanted.bits]
    return Resolved(min(fitting, key=lambda kind: kind.bpw), wanted.name)


def candidate_types(tensors: Sequence[TensorInfo], types: str, *, strict: bool = True) -> dict[str, tuple[str, ...]]:
    """Types to try for each matrix.

    Args:
        tensors: tensors of the model.
        types: ``k``, ``all``, ``portable``, or type names with commas between them.
        strict: True refuses a matrix that none of them fits; False gives it no candidates.

    Raises:
        InputError: a name is unknown, or none of the types fits a matrix.
    """
    if types in _SETS:
        wide, narrow = _SETS[types]
    else:
        wide = narrow = tuple(dict.fromkeys(name.strip().upper() for name in types.split(",")))
        for name in wide:
            if name not in TYPES:
                raise InputError(
                    f"The type {name!r} is unknown; choose {', '.join(_SETS)}, or some of {', '.join(TYPES)}."
                )
    candidates = {}
    for tensor in tensors:
        if not is_matrix(tensor.name, tensor.shape):
            continue
        columns = tensor.shape[-1]
        fitting = tuple(name for name in (wide if columns % 256 == 0 else narrow) if TYPES[name].fits(columns))
        if not fitting and strict:
            raise InputError(f"None of the types {types} fits the rows of {columns} weights of {tensor.name}; add one.")
        candidates[tensor.name] = fitting
    return candidates
