"""Write a model unquantised: matrices in one floating-point type, everything else in float32."""

from __future__ import annotations

from math import prod
from pathlib import Path

from gguf import GGUFValueType

from ..gguf.container import write_container
from ..gguf.types import FILE_TYPES, TYPES, GgmlType, is_matrix
from ..llama.encoders import encode
from ..system.files import atomic_path
from .base import KeyValue, Source, TensorSpec


def plain_bytes(source: Source) -> int:
    """About how many bytes ``write_plain`` needs for a 16-bit file."""
    return 2 * sum(prod(tensor.shape) for tensor in source.tensors()) + (64 << 20)


def native_type(source: Source) -> str:
    """The 16-bit type that loses least: BF16 for weights stored so, else F16."""
    stored = {tensor.stored for tensor in source.tensors() if is_matrix(tensor.name, tensor.shape)}
    return "BF16" if stored == {"BF16"} else "F16"


def write_plain(path: Path, source: Source, type_name: str | None = None) -> int:
    """Write ``source`` without quantising it.

    Args:
        path: GGUF file to write, which appears whole or not at all.
        source: the model.
        type_name: type of the matrices, ``F32``, ``F16`` or ``BF16``; None takes the source's 16-bit type.

    Returns:
        Bytes of the written file.
    """
    chosen = type_name or native_type(source)
    metadata = [
        *source.metadata(),
        KeyValue("general.file_type", FILE_TYPES[chosen], GGUFValueType.UINT32),
        KeyValue("general.quantization_version", 2, GGUFValueType.UINT32),
    ]

    def kind(tensor: TensorSpec) -> GgmlType:
        return TYPES[chosen if is_matrix(tensor.name, tensor.shape) else "F32"]

    specs = source.tensors()
    shapes = [(tensor.name, tensor.shape, kind(tensor)) for tensor in specs]
    data = (encode(source.read(t.name).reshape(-1, t.shape[-1]), kind(t).name) for t in specs)
    with atomic_path(path) as temporary:
        write_container(temporary, source.architecture, metadata, shapes, data)
        return temporary.stat().st_size
