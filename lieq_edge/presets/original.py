"""The unquantised GGUF file that llama-quantize is given."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gguf.constants import GGUF_DEFAULT_ALIGNMENT

from ..errors import InputError
from ..gguf.container import ALIGNMENT_KEY, Entry, KeyValue, file_bytes, key_value_bytes, write_hollow
from ..gguf.splits import read_model
from ..sources.base import Source
from ..sources.plain import plain_bytes, plain_layout, write_plain
from ..system.files import check_space, temporary_folder
from ..system.progress import log, stage

_FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class Layout:
    """What a file holds, apart from the weights.

    Attributes:
        path: a file with this header, as long as if the weights were in it.
        key_values: bytes of each key-value, by key.
        shapes: shape of each tensor in numpy order, by name.
    """

    path: Path
    key_values: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]]


@contextlib.contextmanager
def written_original(source: Source, beside: Path) -> Iterator[Path]:
    """The model as an unquantised file: its own one, or one that is written and removed at the end.

    Args:
        source: the model.
        beside: folder with room for a file of the model's size.

    Raises:
        InputError: the disk has too little space, or the weights are damaged.
    """
    own = _own_file(source)
    if own is not None:
        stored = {spec.stored for spec in source.tensors() if not spec.kept}
        if not stored <= {*_FLOATS}:
            log(
                f"Note: the weights of {source.label} are quantised already; presets are made from what they decode to."
            )
        yield own
        return
    check_space(beside, plain_bytes(source))
    with temporary_folder(beside) as folder:
        path = folder / "original.gguf"
        with stage("Write the original as GGUF", 1) as advance:
            try:
                write_plain(path, source)
            except OSError as error:
                raise InputError(
                    f"The original could not be written to {beside} ({error.strerror or error}); free some space or "
                    "write elsewhere."
                ) from error
            advance()
        yield path


@contextlib.contextmanager
def layout_of(source: Source) -> Iterator[Layout]:
    """The file of ``written_original`` without the weights, which are not read; it is removed at the end.

    Raises:
        InputError: the folder for temporary files does not take a file as long as the model, not even one with a hole.
    """
    own = _own_file(source)
    if own is not None:
        header = read_model(own).header
        sizes = {kv.key: key_value_bytes(kv) for kv in header.metadata}
        yield Layout(own, sizes, {tensor.name: tensor.shape for tensor in header.tensors})
        return
    with _hollow(source, *plain_layout(source)) as layout:
        yield layout


@contextlib.contextmanager
def shapes_of(source: Source) -> Iterator[Layout]:
    """``layout_of`` without the tokenizer, which takes llama.cpp most of the time, for what depends on shapes alone."""
    metadata, tensors = plain_layout(source)
    small = [kv for kv in metadata if not kv.key.startswith("tokenizer.")]
    with _hollow(source, small, tensors) as layout:
        yield layout


@contextlib.contextmanager
def _hollow(source: Source, metadata: Sequence[KeyValue], tensors: Sequence[Entry]) -> Iterator[Layout]:
    with temporary_folder() as folder:
        path = folder / "header.gguf"
        try:
            write_hollow(path, metadata, tensors)
        except OSError as error:
            size = file_bytes(metadata, tensors) / 1e6
            raise InputError(
                f"{tempfile.gettempdir()} does not take an empty file of {size:,.0f} MB ({error.strerror or error}), "
                "by which llama.cpp tells the size of a preset; set TMPDIR to another folder, or give a size in MB."
            ) from error
        sizes = {kv.key: key_value_bytes(kv) for kv in metadata}
        yield Layout(path, sizes, {name: shape for name, shape, _ in tensors})


def _own_file(source: Source) -> Path | None:
    """The source's own GGUF file, if llama.cpp can quantise it as it is."""
    if source.gguf_path is None:
        return None
    alignment = read_model(source.gguf_path).header.get(ALIGNMENT_KEY, GGUF_DEFAULT_ALIGNMENT)
    return source.gguf_path if alignment == GGUF_DEFAULT_ALIGNMENT else None
