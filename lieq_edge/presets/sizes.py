"""Exact sizes of the files that llama-quantize would write. Only the model's header is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from gguf import GGUFValueType

from ..errors import InputError
from ..gguf.container import KeyValue, header_size, key_value_bytes, padded
from ..gguf.names import EMBEDDING, HEAD
from ..llama.library import block_sizes
from ..llama.quantize import preset_types
from ..sources.base import Source
from .imatrix import imatrix_key_values
from .names import FILE_TYPES, PRESETS, USUAL, preset_name
from .original import Layout, layout_of, shapes_of

_WITH_IMATRIX = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"})


def preset_bytes(source: Source, preset: str, *, importance: bool = True) -> int:
    """Bytes of the file that llama-quantize writes of an unquantised GGUF file of ``source``.

    That file has the original's key-values and, with an imatrix, the four of ``imatrix.imatrix_key_values``.

    Args:
        source: the model; of a GGUF file, the file itself is the original.
        preset: name of the preset, in any case.
        importance: the file is made with an imatrix, which changes the types of some presets.

    Raises:
        InputError: the preset is unknown, llama.cpp does not make it of this model, or the folder for temporary files
            does not take a file as long as the model.
    """
    (size,) = preset_sizes(source, [preset], importance=importance).values()
    return size


def preset_sizes(
    source: Source, presets: Sequence[str] = USUAL, *, importance: bool = True, possible: bool = False
) -> dict[str, int]:
    """``preset_bytes`` of several presets, by name in their order; ``possible`` leaves out those it cannot make so."""
    with layout_of(source) as layout:
        contents = preset_contents(layout, presets, source.label, importance=importance)
    without = possible and not importance
    return {name: size for name, (size, types) in contents.items() if not (without and _needs_imatrix(name, types))}


def preset_contents(
    layout: Layout, presets: Sequence[str], label: str, *, importance: bool = True
) -> dict[str, tuple[int, Mapping[str, str]]]:
    """Size of the file and ggml's name of the type of each tensor of several presets, by name in their order.

    Args:
        layout: the unquantised file, by ``layout_of``.
        presets: names of the presets, in any case.
        label: the user's name for the model.
        importance: the files are made with an imatrix.
    """
    names = list(dict.fromkeys(map(known_preset, presets)))
    wanted = [(name, FILE_TYPES[name]) for name in names]
    found = preset_types(layout.path, wanted, importance=importance, label=label)
    return {name: (_file_bytes(layout, types, importance), types) for name, types in zip(names, found, strict=True)}


def preset_bits(source: Source, presets: Sequence[str] = USUAL) -> dict[str, float]:
    """Bits a weight, over all weights of the file, of presets with an imatrix, by name; raises as ``preset_bytes``."""
    with shapes_of(source) as layout:
        contents = preset_contents(layout, presets, source.label)
    weights = sum(map(prod, layout.shapes.values()))
    return {
        name: 8 * sum(_tensor_bytes(shape, types[tensor]) for tensor, shape in layout.shapes.items()) / weights
        for name, (_, types) in contents.items()
    }


def nearest_preset(sizes: Mapping[str, int], size: int) -> str:
    """The largest of some presets whose file is no larger than ``size`` bytes, else the smallest one."""
    fitting = {name: number for name, number in sizes.items() if number <= size}
    return max(fitting, key=fitting.__getitem__) if fitting else min(sizes, key=sizes.__getitem__)


def known_preset(text: str) -> str:
    """The preset that ``text`` names in any case.

    Raises:
        InputError: llama.cpp has none of that name.
    """
    name = preset_name(text)
    if name is None:
        raise InputError(f"llama.cpp has no preset {text}; choose one of {', '.join(PRESETS)}.")
    return name


def _file_bytes(layout: Layout, types: Mapping[str, str], importance: bool) -> int:
    added = [
        KeyValue("general.file_type", 0, GGUFValueType.UINT32),
        KeyValue("general.quantization_version", 0, GGUFValueType.UINT32),
    ]
    if importance:
        for key, value in imatrix_key_values(0, 0).items():
            kind = GGUFValueType.STRING if isinstance(value, str) else GGUFValueType.UINT32
            added.append(KeyValue(key, value, kind))
    key_values = {**layout.key_values, **{kv.key: key_value_bytes(kv) for kv in added}}
    # llama.cpp leaves out leading dimensions of 1.
    shapes = [(name, _without_ones(shape)) for name, shape in layout.shapes.items()]
    data = 0
    for name, shape in shapes:
        data += padded(_tensor_bytes(shape, types[name]))
    return header_size(sum(key_values.values()), shapes) + data


def _needs_imatrix(preset: str, types: Mapping[str, str]) -> bool:
    """llama-quantize refuses the preset without an imatrix (llama.cpp's ``tensor_requires_imatrix``)."""
    inside = {kind.upper() for name, kind in types.items() if name not in (EMBEDDING, HEAD)}
    return bool(inside & _WITH_IMATRIX) or (preset == "Q2_K_S" and "Q2_K" in inside)


def _tensor_bytes(shape: tuple[int, ...], type_name: str) -> int:
    block, block_bytes = block_sizes(type_name)
    return prod(shape) // block * block_bytes


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return shape
