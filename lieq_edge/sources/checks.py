"""Checks that all sources share."""

from __future__ import annotations

import contextlib
import hashlib
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .base import Array

_CHUNK = 1 << 20


@contextlib.contextmanager
def sensible(origin: str) -> Iterator[None]:
    """Turn what Python raises over values of a wrong kind or size into an InputError.

    Files from elsewhere may hold anything where a number or a list belongs.

    Args:
        origin: origin of the values, in the plural, e.g. ``The tokenizer files of x``.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError, struct.error) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise InputError(f"{origin} make no sense ({reason}); fetch or convert the model again.") from error


def check_blocks(blocks: int, tensors: int, label: str) -> None:
    """Refuse more blocks than the tensors of a model can fill, before a list is made of them."""
    if blocks > tensors:
        raise InputError(
            f"The configuration of {label} asks for {blocks} blocks and there are {tensors} tensors; "
            "the files do not belong together."
        )


def read_bytes(path: Path, offset: int, count: int) -> npt.NDArray[np.uint8]:
    """``count`` bytes of ``path`` from ``offset``.

    Raises:
        InputError: the file cannot be read, or ends before.
    """
    try:
        raw = np.fromfile(path, np.uint8, count, offset=offset)
    except OSError as error:
        raise InputError(f"Cannot read {path} ({error.strerror}); give an existing file.") from error
    if raw.size < count:
        raise InputError(f"{path} is truncated; fetch it again.")
    return raw


def check_finite(array: Array, name: str, label: str) -> None:
    """Raise InputError, naming the tensor, when ``array`` holds NaN or Inf."""
    # Their sum is finite unless one of them is not, or the sum overflows: cheaper than a mask for the usual case.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(array.sum(dtype=np.float64)):
            return
    kind = "NaN" if np.isnan(array).any() else "infinite"
    raise InputError(f"The tensor {name} of {label} holds {kind} values; choose an undamaged model.")


def check_parameters(
    needed: dict[str, tuple[int, ...]], present: dict[str, tuple[int, ...]], ignored: set[str], label: str
) -> None:
    """Compare the tensors that a configuration asks for with those that are there.

    Args:
        needed: shapes that the configuration asks for, by name.
        present: shapes of the tensors, by name.
        ignored: names of tensors that may be missing or left over.
        label: the model's name, for messages.

    Raises:
        InputError: one is missing, superfluous or of another shape.
    """
    for name, shape in needed.items():
        if name not in present:
            raise InputError(f"{label} has no tensor {name}, which its configuration asks for; fetch the whole model.")
        if present[name] != shape:
            raise InputError(
                f"The tensor {name} of {label} has shape {present[name]} where its configuration asks for {shape}; "
                "the files do not belong together."
            )
    for name in present:
        if name not in needed and name not in ignored:
            raise InputError(f"{label} has a tensor {name} that its architecture does not have; choose another model.")


def hash_files(paths: Iterable[Path], *, named: bool = True) -> str:
    """SHA-256 (hex) over the bytes of files wherever they lie.

    Args:
        paths: files, in the order in which they are hashed.
        named: whether their names and sizes are hashed too.
    """
    digest = hashlib.sha256()
    for path in paths:
        if named:
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()
