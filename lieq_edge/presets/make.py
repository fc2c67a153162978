"""Make the file of a preset as llama-quantize does."""

from __future__ import annotations

from pathlib import Path

from ..llama.quantize import Columns, Preset, quantize
from ..sources.base import Source
from ..system.files import check_space, output_target
from .imatrix import block_importances, imatrix_key_values
from .names import FILE_TYPES
from .original import written_original
from .sizes import known_preset, preset_bytes


def make_preset(
    source: Source,
    preset: str,
    out: Path,
    importances: Columns | None,
    *,
    chunks: int = 1,
    threads: int | None = None,
    original: Path | None = None,
) -> int:
    """Write a model as one of llama.cpp's presets.

    Args:
        source: the model.
        preset: name of the preset, in any case.
        out: file to write; it appears complete or not at all.
        importances: importances by tensor name, of which those of blocks are used; None makes the file without.
        chunks: windows of the text that they were measured on, for the record in the file.
        threads: CPU threads; all cores when None.
        original: the unquantised file of ``written_original``, for several presets of a model; None writes one beside
            ``out`` for as long as it is needed, if the model is not a GGUF file itself.

    Returns:
        Bytes of the written file, those that ``preset_bytes`` tells before.

    Raises:
        InputError: the preset is unknown, llama.cpp refuses it, or the disk has too little space.
    """
    name = known_preset(preset)
    if original is None:
        with written_original(source, output_target(out).parent) as path:
            return make_preset(source, name, out, importances, chunks=chunks, threads=threads, original=path)
    imatrix = None if importances is None else block_importances(importances)
    check_space(output_target(out).parent, preset_bytes(source, name, importance=imatrix is not None))
    recorded = {} if imatrix is None else imatrix_key_values(len(imatrix), chunks)
    wanted = Preset(name, FILE_TYPES[name], imatrix, key_values=recorded)
    return quantize(original, out, wanted, threads=threads, label=source.label)
