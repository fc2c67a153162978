"""Quantise a GGUF file to one of llama.cpp's presets, as llama-quantize does.

    python -m benchmarks.peer model-f16.gguf out.gguf Q2_K --imatrix imatrix.npz

The imatrix file is a numpy archive: one array for each tensor, under its name, with one value for each input column.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.harness import command_line, exit_code
from benchmarks.internals import TYPES, Importance, atomic_path, captured_log, check_output
from lieq_edge import InputError

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
        out: file to write; it appears complete or not at all.
        preset: name out of ``presets()``.
        imatrix: importance of each input column by tensor name; a tensor that is missing has none.
        tensor_types: ggml type by regular expression on tensor names; the first that matches wins.
        output_type: ggml type of ``output.weight``; None leaves it to the preset.
        token_embedding_type: ggml type of ``token_embd.weight``; None leaves it to the preset.
        threads: threads of llama.cpp; None takes all cores.
        pure: whether every tensor gets the preset's main type.

    Returns:
        Bytes of the written file.

    Raises:
        InputError: the preset or a type is unknown, or llama.cpp refuses, with its reason.
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
    # A ctypes structure does not hold references to the arrays in it: these two must outlive the call.
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
            raise InputError(f"llama.cpp cannot write {source} as {preset} ({reason}); fix that or choose another.")
        return temporary.stat().st_size


def load_imatrix(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Read a numpy archive of importance vectors."""
    try:
        with np.load(path) as archive:
            return {name: np.ascontiguousarray(archive[name], np.float32) for name in archive.files}
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read the importance vectors in {path}: {error}") from error


def _reason(errors: list[str]) -> str:
    """The line that names the cause: the last one, or the first when a file cannot be loaded."""
    if not errors or "failed to load model" in errors[-1]:
        return "".join(errors[:1])
    return errors[-1].removeprefix("failed to quantize: ")


def _type_id(name: str) -> int:
    if name not in TYPES:
        raise InputError(f"lieq-edge has no ggml type {name}; choose one of {', '.join(TYPES)}.")
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


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line(__doc__, "--threads")
    parser.add_argument("source", type=Path, help="GGUF file to quantise")
    parser.add_argument("out", type=Path, help="GGUF file to write")
    parser.add_argument("preset", help="name of the preset, such as Q3_K_M")
    parser.add_argument("--imatrix", type=Path, help="numpy archive of importance vectors")
    parser.add_argument("--tensor-type", action="append", default=[], metavar="REGEX=TYPE")
    parser.add_argument("--output-type")
    parser.add_argument("--token-embedding-type")
    parser.add_argument("--pure", action="store_true", help="give every tensor the preset's main type")
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    args = parser.parse_args(arguments)

    def write() -> None:
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
        print(f"{args.out}: {size / 1e6:.1f} MB")

    return exit_code(write)


if __name__ == "__main__":
    raise SystemExit(main())
