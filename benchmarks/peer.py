"""Quantise a GGUF file with llama.cpp's own presets (what llama-quantize does), to compare with.

    python -m benchmarks.peer model-f16.gguf out.gguf Q2_K --imatrix imatrix.npz

The imatrix file is a numpy archive: one array a tensor, named as the tensor, one value an input column.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lieq_edge.errors import InputError
from lieq_edge.gguf.types import TYPES
from lieq_edge.llama.log import captured_log
from lieq_edge.system.files import atomic_path, check_output

Importance = Mapping[str, npt.NDArray[np.float32]]

_MOSTLY = "LLAMA_FTYPE_MOSTLY_"


def presets() -> dict[str, int]:
    """llama.cpp's presets (``enum llama_ftype``) by llama-quantize's names, e.g. ``Q3_K_M``."""
    import llama_cpp

    names = {name.removeprefix(_MOSTLY): value for name, value in vars(llama_cpp).items() if name.startswith(_MOSTLY)}
    return names | {"F32": llama_cpp.LLAMA_FTYPE_ALL_F32}


def quantize_with_llama_cpp(
    source: Path,
    out: Path,
    preset: str,
    *,
    imatrix: Importance | None = None,
    tensor_types: Mapping[str, str] | None = None,
    output_type: str | None = None,
    token_embedding_type: str | None = None,
    threads: int | None = None,
    pure: bool = False,
) -> int:
    """Write ``source`` at a llama.cpp preset, through ``llama_model_quantize`` in this process.

    Args:
        source: GGUF file; quantised tensors in it are decoded first.
        out: file to write; it appears whole or not at all.
        preset: name out of ``presets()``.
        imatrix: importance of each input column by tensor name; a tensor that is missing gets none.
        tensor_types: ggml type by regular expression on tensor names; the first that matches wins.
        output_type: ggml type of ``output.weight``; None leaves it to the preset.
        token_embedding_type: ggml type of ``token_embd.weight``; None leaves it to the preset.
        threads: None takes all cores.
        pure: the preset's main type for every tensor, no mixture.

    Returns:
        Bytes of the written file.

    Raises:
        InputError: unknown preset or type, or llama.cpp refuses (with its own reason).
    """
    import llama_cpp

    if preset not in presets():
        raise InputError(f"llama.cpp has no preset {preset}; choose one of {', '.join(sorted(presets()))}.")
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = presets()[preset]
    params.nthread = threads or 0
    params.allow_requantize = True
    params.pure = pure
    if output_type is not None:
        params.output_tensor_type = _type_id(output_type)
    if token_embedding_type is not None:
        params.token_embedding_type = _type_id(token_embedding_type)
    # ctypes keeps no references from a structure to what it points to: these two must outlive the call.
    importance = _imatrix_array(imatrix) if imatrix else None
    overrides = _override_array(tensor_types) if tensor_types else None
    if importance is not None:
        params.imatrix = ctypes.cast(importance, type(params.imatrix))
    if overrides is not None:
        params.tt_overrides = ctypes.cast(overrides, type(params.tt_overrides))
    with atomic_path(out) as temporary:
        with captured_log() as log:
            status = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(temporary), ctypes.byref(params))
        if status != 0:
            reason = _reason(log.errors) or f"status {status}"
            raise InputError(f"llama.cpp cannot write {source} as {preset} ({reason}); mend that or choose another.")
        return temporary.stat().st_size


def load_imatrix(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Read a numpy archive of importance vectors."""
    try:
        with np.load(path) as archive:
            return {name: np.ascontiguousarray(archive[name], np.float32) for name in archive.files}
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read the importance vectors in {path}: {error}") from error


def _reason(errors: list[str]) -> str:
    """The line that names the cause: the last one, but of a file that cannot be loaded the first."""
    if not errors or "failed to load model" in errors[-1]:
        return "".join(errors[:1])
    return errors[-1].removeprefix("failed to quantize: ")


def _type_id(name: str) -> int:
    if name not in TYPES:
        raise InputError(f"There is no ggml type {name} here; choose one of {', '.join(TYPES)}.")
    return TYPES[name].id


def _imatrix_array(imatrix: Importance) -> Any:
    """A C array of ``llama_model_imatrix_data``, ended by an entry without a name."""
    import llama_cpp

    entries = (llama_cpp.llama_model_imatrix_data * (len(imatrix) + 1))()
    arrays = []
    for entry, (name, values) in zip(entries, imatrix.items(), strict=False):
        array = np.ascontiguousarray(values, np.float32).reshape(-1)
        arrays.append(array)
        entry.name = name.encode("utf-8")
        entry.data = array.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = array.size
    entries.keep = arrays
    return entries


def _override_array(tensor_types: Mapping[str, str]) -> Any:
    """A C array of ``llama_model_tensor_override``, ended by an entry without a pattern."""
    import llama_cpp

    entries = (llama_cpp.llama_model_tensor_override * (len(tensor_types) + 1))()
    for entry, (pattern, name) in zip(entries, tensor_types.items(), strict=False):
        entry.pattern = pattern.encode("utf-8")
        entry.type = _type_id(name)
    return entries


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("preset")
    parser.add_argument("--imatrix", type=Path, help="numpy archive of importance vectors")
    parser.add_argument("--tensor-type", action="append", default=[], metavar="REGEX=TYPE")
    parser.add_argument("--output-type")
    parser.add_argument("--token-embedding-type")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--pure", action="store_true", help="one type for every tensor")
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    args = parser.parse_args()
    try:
        check_output(args.out, force=args.force)
        size = quantize_with_llama_cpp(
            args.source,
            args.out,
            args.preset,
            imatrix=load_imatrix(args.imatrix) if args.imatrix else None,
            tensor_types=dict(item.split("=", 1) for item in args.tensor_type) or None,
            output_type=args.output_type,
            token_embedding_type=args.token_embedding_type,
            threads=args.threads,
            pure=args.pure,
        )
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{args.out}: {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
