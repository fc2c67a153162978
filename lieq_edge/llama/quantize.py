"""Quantise GGUF files to llama.cpp's presets as llama-quantize does, in the process beside this one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..gguf.splits import read_model
from ..gguf.types import TYPES
from ..system.files import atomic_path, temporary_folder
from ..system.progress import stage
from ..system.threads import available_threads
from .child import encoded_path, shared
from .limits import LOAD_SECONDS, quantize_seconds

Columns = Mapping[str, npt.NDArray[np.float32]]
"""Importance of each input column by tensor name; of experts one row each."""


@dataclass(frozen=True)
class Preset:
    """What llama.cpp is to write.

    Attributes:
        name: name of the preset, for messages.
        file_type: value of ``enum llama_ftype``.
        imatrix: importances; a tensor that is missing has none. None quantises without.
        tensor_types: ggml type by regular expression on tensor names; the first that matches wins.
        output_type: ggml type of ``output.weight``; None leaves it to the preset.
        token_embedding_type: ggml type of ``token_embd.weight``; None leaves it to the preset.
        pure: every tensor gets the preset's main type.
        key_values: key-values to add, each of fewer than 128 bytes.
    """

    name: str
    file_type: int
    imatrix: Columns | None = None
    tensor_types: Mapping[str, str] = field(default_factory=dict)
    output_type: str | None = None
    token_embedding_type: str | None = None
    pure: bool = False
    key_values: Mapping[str, str | int] = field(default_factory=dict)


def quantize(path: Path, out: Path, preset: Preset, *, threads: int | None = None, label: str | None = None) -> int:
    """Write a GGUF file as a preset; quantised tensors in it are decoded first.

    Args:
        path: the file, or the first of several parts.
        out: file to write; it appears complete or not at all.
        preset: what to write.
        threads: CPU threads; all cores when None.
        label: what messages call the file, by default its path.

    Returns:
        Bytes of the written file.

    Raises:
        InputError: a type is unknown, or llama.cpp refuses, with its reason, or ends on the file.
    """
    label = label or str(path)
    with temporary_folder() as folder, atomic_path(out) as temporary:
        options = {
            "preset": preset.name,
            "file_type": preset.file_type,
            "threads": threads or available_threads(),
            "pure": preset.pure,
            "output_tensor_type": _type_id(preset.output_type),
            "token_embedding_type": _type_id(preset.token_embedding_type),
            "tensor_types": [(pattern, _type_id(name)) for pattern, name in preset.tensor_types.items()],
            "key_values": dict(preset.key_values),
            "imatrix": None if preset.imatrix is None else str(_saved(folder / "imatrix.npz", preset.imatrix)),
        }
        with stage(f"Write {preset.name} with llama.cpp", len(read_model(path).header.tensors)) as advance:
            child = shared()
            child.allow_memory(path)
            child.call(
                "quantize",
                encoded_path(path),
                label,
                encoded_path(temporary),
                options,
                label=label,
                seconds=quantize_seconds(path),
                on_event=lambda done: advance() if done else None,
            )
            advance()
        return temporary.stat().st_size


def preset_types(
    path: Path, presets: Sequence[tuple[str, int]], *, importance: bool, label: str | None = None
) -> list[dict[str, str]]:
    """The type that each tensor of a GGUF file would get, without reading weights.

    Args:
        path: file whose header counts; it must be as long as with its weights.
        presets: name and value of ``enum llama_ftype`` of each preset.
        importance: types of files that are made with an imatrix.
        label: what messages call the file, by default its path.

    Returns:
        For each preset, ggml's name of the type by tensor name.

    Raises:
        InputError: llama.cpp refuses, with its reason, or ends on the file.
    """
    label = label or str(path)
    child = shared()
    child.allow_memory(path)
    types: list[dict[str, str]] = child.call(
        "quantized_types",
        encoded_path(path),
        label,
        list(presets),
        importance,
        label=label,
        seconds=len(presets) * LOAD_SECONDS,
    )
    return types


def _saved(path: Path, imatrix: Columns) -> Path:
    """Importances as a file, by which the other process gets them."""
    arrays: dict[str, Any] = {name: np.asarray(values, np.float32) for name, values in imatrix.items()}
    np.savez(path, **arrays)
    return path


def _type_id(name: str | None) -> int | None:
    if name is None:
        return None
    if name not in TYPES:
        raise InputError(f"lieq-edge has no ggml type {name}; choose one of {', '.join(TYPES)}.")
    return TYPES[name].id
