"""Write a model unquantised: matrices in one floating-point type, everything else in float32."""

from __future__ import annotations

from math import prod
from pathlib import Path

from gguf import GGUFValueType

from ..gguf.container import ALIGNMENT_KEY, Entry, write_container
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
    metadata, tensors = plain_layout(source, type_name)
    data = (encode(source.read(name).reshape(-1, shape[-1]), kind.name) for name, shape, kind in tensors)
    with atomic_path(path) as temporary:
        write_container(temporary, source.architecture, metadata, tensors, data)
        return temporary.stat().st_size


def plain_layout(source: Source, type_name: str | None = None) -> tuple[list[KeyValue], list[Entry]]:
    """Key-values and tensors of the file that ``write_plain`` writes of the same arguments."""
    chosen = type_name or native_type(source)
    metadata = [
        # llama.cpp's quantiser pads by the default alignment, whatever the file says.
        *(kv for kv in source.metadata() if kv.key != ALIGNMENT_KEY),
        KeyValue("general.file_type", FILE_TYPES[chosen], GGUFValueType.UINT32),
        KeyValue("general.quantization_version", 2, GGUFValueType.UINT32),
    ]

    def kind(tensor: TensorSpec) -> GgmlType:
        return TYPES[chosen if is_matrix(tensor.name, tensor.shape) else "F32"]

    return metadata, [(tensor.name, tensor.shape, kind(tensor)) for tensor in source.tensors()]
