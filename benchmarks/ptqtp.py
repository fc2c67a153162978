"""PTQTP (trit planes, arXiv 2509.16989) beside llama.cpp's types and ours, at equal bytes.

    python -m benchmarks.ptqtp wide --text TEXT --work work --out ptqtp

Weights of a row are taken 128 at a time and become a1 T1 + a2 T2, T1 and T2 of -1, 0 and 1. No type of llama.cpp holds
that, so it is simulated: the matrices of the blocks are decoded again and written as F32, embedding and head in the
types that they have in our files by block metric (Q6_K where they are one), and the file is scored like all others.
Its size is computed: 2 bits for a trit and two float16 scales for each 128 weights make 4.25 bits a weight. With five
trits in a byte it would be 3.45. Written are OUT.md and OUT.json, from which an interrupted run is resumed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

import numba
import numpy as np
import numpy.typing as npt

from benchmarks.harness import command_line, exit_code, plus_minus, table, write_markdown
from benchmarks.internals import Importance, Packed, Source, TensorPlan, block_of, encode, is_matrix, write_model
from benchmarks.peer import quantize_with_llama_cpp
from benchmarks.quality import COMMON, Bench, opened_bench
from benchmarks.quality_report import Row
from lieq_edge import Diagnostics, Plan, PlanOptions, make_plan

GROUP = 128
ROUNDS = 50
TOLERANCE = 1e-4
"""Largest change of a scale in a round that ends the alternation."""

PHYSICAL, DENSE = "PTQTP", "PTQTP, dense"
"""Sizes of its file: with 2 bits a trit, and with 1.6."""

# Uniform files of llama.cpp with as many bits and the same types outside the blocks. PTQTP knows no importance, so
# that there is one without.
_PEERS = {PHYSICAL: (("IQ4_XS", True), ("IQ4_XS", False)), DENSE: (("IQ3_S", True), ("Q3_K", False))}
_PRESETS = {"Q3_K": "Q3_K_S"}
"""Presets whose main type is the type, where their names differ."""
_OURS = (("geometry", "imatrix"), ("loss", "imatrix"), ("loss", "feedback-once"))

Floats = npt.NDArray[np.float64]
Trits = npt.NDArray[np.int8]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _advance(rows: npt.NDArray[np.float32], first: Trits, second: Trits, scales: Floats) -> float:
    """One round: scales by ridge least squares, then the best of nine pairs for each weight.

    Args:
        rows: weights, ``(rows, columns)``.
        first, second: the planes, like ``rows``; changed.
        scales: a1 and a2, ``(rows, groups, 2)``; changed.

    Returns:
        Largest change of a scale.
    """
    largest = 0.0
    for row in range(rows.shape[0]):
        for group in range(scales.shape[1]):
            start, stop = group * GROUP, min((group + 1) * GROUP, rows.shape[1])
            s11, s12, s22, b1, b2 = 0.0, 0.0, 0.0, 0.0, 0.0
            for column in range(start, stop):
                t1, t2, w = float(first[row, column]), float(second[row, column]), float(rows[row, column])
                s11 += t1 * t1
                s12 += t1 * t2
                s22 += t2 * t2
                b1 += t1 * w
                b2 += t2 * w
            ridge = 1e-8
            while True:
                middle, half = (s11 + s22) / 2 + ridge, np.hypot((s11 - s22) / 2, s12)
                if middle + half <= 1e12 * (middle - half) or ridge > 1.0:
                    break
                ridge *= 10
            determinant = (s11 + ridge) * (s22 + ridge) - s12 * s12
            a1 = ((s22 + ridge) * b1 - s12 * b2) / determinant
            a2 = ((s11 + ridge) * b2 - s12 * b1) / determinant
            largest = max(largest, abs(a1 - scales[row, group, 0]), abs(a2 - scales[row, group, 1]))
            scales[row, group, 0], scales[row, group, 1] = a1, a2
            _assign(rows[row, start:stop], first[row, start:stop], second[row, start:stop], a1, a2)
    return largest


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _assign(weights: npt.NDArray[np.float32], first: Trits, second: Trits, a1: float, a2: float) -> None:
    """Choose for each weight the pair of trits of the nearest value; of equal ones the first, alike for both signs."""
    for column in range(len(weights)):
        best = np.inf
        for t1 in (0, 1, -1):
            for t2 in (0, 1, -1):
                error = abs(weights[column] - (a1 * t1 + a2 * t2))
                if error < best:
                    best = error
                    first[column], second[column] = t1, t2


def trit_planes(rows: npt.NDArray[np.float32], rounds: int = ROUNDS) -> npt.NDArray[np.float32]:
    """Weights ``(rows, columns)`` after PTQTP, decoded with float16 scales; the last group of a row may be shorter."""
    first = np.sign(rows).astype(np.int8)
    second = first.copy()
    scales = np.zeros((len(rows), -(-rows.shape[1] // GROUP), 2))
    for _ in range(rounds):
        if _advance(rows, first, second, scales) < TOLERANCE:
            break
    wide = np.repeat(scales.astype(np.float16).astype(np.float32), GROUP, axis=1)[:, : rows.shape[1]]
    return wide[..., 0] * first + wide[..., 1] * second


def stored_bytes(shape: tuple[int, ...], *, dense: bool) -> int:
    """Bytes of a matrix in trit planes: two float16 scales a group, and 2 bits a trit, or five trits in a byte."""
    columns = shape[-1]
    plane = -(-columns // 5) if dense else -(-columns // 4)
    return prod(shape[:-1]) * (2 * plane + 4 * -(-columns // GROUP))


def is_decomposed(tensor: TensorPlan) -> bool:
    """Matrices of the blocks; embedding, head, norms and biases are left to ggml's types."""
    return block_of(tensor.name) is not None and is_matrix(tensor.name, tensor.shape) and not tensor.kept


def simulated(shapes: Diagnostics) -> Plan:
    """Types of the simulated file: 32 bits for what is in trit planes, else those of our files by block metric."""
    plan = make_plan(shapes, "4", PlanOptions(metric="first", levels=(4,)))
    tensors = (
        replace(tensor, type="F32", nbytes=4 * prod(tensor.shape)) if is_decomposed(tensor) else tensor
        for tensor in plan.tensors
    )
    return replace(plan, tensors=tuple(tensors))


def write_ptqtp(path: Path, source: Source, plan: Plan, importance: Importance) -> None:
    """Write the file of ``simulated``; embedding and head are encoded with importance."""

    def encoded() -> Iterator[tuple[TensorPlan, Packed]]:
        for tensor in plan.tensors:
            if tensor.kept:
                yield tensor, source.read_stored(tensor.name)
                continue
            rows = source.read(tensor.name).reshape(-1, tensor.shape[-1])
            if is_decomposed(tensor):
                yield tensor, encode(trit_planes(rows), "F32")
            else:
                weights = None if tensor.type == "F32" else importance.get(tensor.name)
                yield tensor, encode(rows, tensor.type, weights)

    write_model(path, source, plan, encoded(), rounding="nearest")


def plane_bytes(plan: Plan, *, dense: bool) -> tuple[int, float]:
    """Bytes of all trit planes, and the bits of a weight in them."""
    shapes = [tensor.shape for tensor in plan.tensors if is_decomposed(tensor)]
    stored = sum(stored_bytes(shape, dense=dense) for shape in shapes)
    return stored, 8 * stored / sum(map(prod, shapes))


def size_of(path: Path, plan: Plan, *, dense: bool) -> tuple[int, float]:
    """Bytes of a simulated file if its planes were stored, and the bits of a weight of the blocks."""
    stored, bits = plane_bytes(plan, dense=dense)
    floats = sum(tensor.nbytes for tensor in plan.tensors if is_decomposed(tensor))
    return path.stat().st_size - floats + stored, bits


def measure(bench: Bench) -> None:
    """PTQTP's file in both sizes, and files of llama.cpp and ours of the same bytes."""
    plan = simulated(bench.shapes)

    def make(path: Path) -> None:
        write_ptqtp(path, bench.source, plan, bench.importance)

    bench.row("ptqtp", PHYSICAL, make, ("importance",), lambda path: size_of(path, plan, dense=False))
    row = bench.find("ptqtp", PHYSICAL)
    assert row is not None
    if bench.find("ptqtp", DENSE) is None:
        # The same values in fewer bytes: the scores stay.
        dense, bits = plane_bytes(plan, dense=True)
        size = row.file_bytes - plane_bytes(plan, dense=False)[0] + dense
        bench.rows.add(replace(row, size=DENSE, file_bytes=size, block_bpw=bits))
    for size_name, kinds in _PEERS.items():
        for kind, weighted in kinds:
            _uniform_peer(bench, plan, kind, size_name, weighted=weighted)
        bench.lagrange(size_name)
        for metric, rounding in _OURS:
            bench.ours(metric, rounding, size_name)


def _uniform_peer(bench: Bench, plan: Plan, kind: str, size: str, *, weighted: bool) -> None:
    """llama.cpp's file with every matrix of the blocks in one type, and PTQTP's types outside them."""
    outside = {tensor.name: tensor.type for tensor in plan.tensors}

    def make(path: Path) -> None:
        quantize_with_llama_cpp(
            bench.reference_file,
            path,
            _PRESETS.get(kind, kind),
            imatrix=bench.importance if weighted else None,
            token_embedding_type=outside.get("token_embd.weight"),
            output_type=outside.get("output.weight"),
            pure=True,
        )

    name, needed = (f"all {kind}", ("importance",)) if weighted else (f"all {kind}, no importance", ())
    bench.row(name, size, make, needed)


def section(rows: Sequence[Row]) -> str:
    """The table of both sizes: PTQTP first, then what has as many bytes, then the preset Q2_K if there is one."""
    cells = []
    for size in (PHYSICAL, DENSE):
        own = next((row for row in rows if row.method == "ptqtp" and row.size == size), None)
        if own is None:
            continue
        others = sorted((row for row in rows if row.size == size and row is not own), key=lambda row: row.kld)
        cells += [_cells(row, size) for row in (own, *others)]
    if cells:
        smaller = [row for row in rows if row.size == "Q2_K" and row.method in ("preset", "loss + feedback-once")]
        cells += [_cells(row, "Q2_K") for row in smaller]
    return table(("size of", "file", "MB", "bits a block weight", "KL divergence", "PPL", "same top token"), cells)


def _cells(row: Row, size: str) -> tuple[str, ...]:
    bits = "" if row.block_bpw is None else f"{row.block_bpw:.2f}"
    return (
        size,
        f"**{row.method}**" if row.method == "ptqtp" else row.method,
        f"{row.file_bytes / 1e6:.2f}",
        bits,
        plus_minus(row.kld, row.kld_se, 4),
        plus_minus(row.ppl, row.ppl_se, 2),
        f"{100 * row.top1:.1f} %",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    args = command_line(__doc__, *COMMON, calibration="builtin").parse_args(arguments)

    def compare() -> None:
        with opened_bench(args) as bench:
            for preset in ("Q2_K",):
                bench.preset(preset)
                bench.ours("loss", "feedback-once", preset)
            measure(bench)
            write_markdown(args.out, f"{section([*bench.rows])}\n")

    return exit_code(compare)


if __name__ == "__main__":
    sys.exit(main())
