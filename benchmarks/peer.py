"""Quantise a GGUF file to one of llama.cpp's presets, as llama-quantize does.

    python -m benchmarks.peer model-f16.gguf out.gguf Q2_K --imatrix imatrix.npz

The imatrix file is a numpy archive: one array for each tensor, under its name, with one value for each input column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.harness import command_line, exit_code
from benchmarks.internals import FILE_TYPES, Importance, Preset, check_output, quantize
from lieq_edge import InputError

_FLOATS = {"F32": 0, "F16": 1, "BF16": 32}


def presets() -> dict[str, int]:
    """llama.cpp's presets and unquantised types (``enum llama_ftype``) by llama-quantize's names, e.g. ``Q3_K_M``."""
    return FILE_TYPES | _FLOATS


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
    """Write ``source`` at a llama.cpp preset, through ``llama_model_quantize``.

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
    if preset not in presets():
        raise InputError(f"llama.cpp has no preset {preset}; choose one of {', '.join(sorted(presets()))}.")
    wanted = Preset(
        preset,
        presets()[preset],
        imatrix or None,
        tensor_types=tensor_types or {},
        output_type=output_type,
        token_embedding_type=token_embedding_type,
        pure=pure,
    )
    return quantize(source, out, wanted, threads=threads)


def load_imatrix(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Read a numpy archive of importance vectors."""
    try:
        with np.load(path) as archive:
            return {name: np.ascontiguousarray(archive[name], np.float32) for name in archive.files}
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read the importance vectors in {path}: {error}") from error


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
