"""Single pieces of work for ``benchmarks.scale``, each a process of its own: peers and the files that they need.

    python -m benchmarks.scale_work tokens MODEL tokens.npy --tokens 16384
    python -m benchmarks.scale_work plain MODEL model-f32.gguf F32
    python -m benchmarks.scale_work peer-export model-f32.gguf tokens.npy out.gguf Q3_K_M

Each prints one JSON object; its ``work_seconds`` leave out the start of Python and its imports, because programs
written in C++ have neither.

The peer of a whole export does the work of ``llama-imatrix`` and ``llama-quantize`` in one process.
``llama-imatrix`` is not part of llama-cpp-python, so it is rebuilt: the float32 file runs in llama.cpp over the same
windows of tokens, one in each batch, with an evaluation callback (``cb_eval``) that sums the squares of the inputs of
each block matrix, as ``llama-imatrix`` does; numpy makes the sums instead of a loop in C++. Then
``llama_model_quantize`` writes the preset with that importance.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmarks.harness import command_line, exit_code, timed
from benchmarks.internals import Importance, is_matrix

if TYPE_CHECKING:
    from benchmarks.internals import Source

Figures = dict[str, Any]


@contextmanager
def working(figures: Figures, name: str) -> Iterator[None]:
    """Put the seconds that the body takes under ``name``, and add them to ``work_seconds``."""
    with timed(figures, name):
        yield
    figures["work_seconds"] = figures.get("work_seconds", 0.0) + figures[name]


def llama_imatrix(path: Path, tokens: npt.NDArray[np.int64], threads: int | None) -> Importance:
    """Mean squares of the inputs of the blocks' matrices in llama.cpp; see the top of this file.

    Args:
        path: GGUF file.
        tokens: ids ``(n, T)``.
        threads: threads of llama.cpp; None takes all cores.
    """
    from benchmarks.internals import Floats, observed, read_header

    stored = read_header(path).tensors
    sums = {t.name: np.zeros(t.shape[-1]) for t in stored if t.name.startswith("blk.") and is_matrix(t.name, t.shape)}

    def collect(name: str, x: Floats, _: int) -> None:
        sums[name] += np.einsum("ij,ij->j", x, x)

    with observed(path, frozenset(sums), collect, context=tokens.shape[1], threads=threads) as session:
        for window in tokens:
            session.run(window)
    return {name: (total / tokens.size).astype(np.float32) for name, total in sums.items()}


def peer_export(args: argparse.Namespace) -> Figures:
    """llama.cpp's importance and its preset."""
    from benchmarks.internals import observed, read_header  # noqa: F401
    from benchmarks.peer import quantize_with_llama_cpp

    _start_llama_cpp()
    figures: Figures = {}
    tokens = np.load(args.tokens)
    with working(figures, "imatrix"):
        importance = llama_imatrix(args.model, tokens, args.threads)
    with working(figures, "quantize"):
        size = quantize_with_llama_cpp(args.model, args.out, args.preset, imatrix=importance, threads=args.threads)
    return figures | {"file_bytes": size, "tokens": int(tokens.size)}


def torch_imatrix(args: argparse.Namespace) -> Figures:
    """The project's own importance on the same tokens."""
    from benchmarks.internals import measure_importance

    figures: Figures = {}
    source = open_with_torch(args.model)
    tokens = np.load(args.tokens)
    with working(figures, "imatrix"):
        measure_importance(source, tokens, threads=args.threads)
    return figures


def open_with_torch(model: str) -> Source:
    """The model, after all imports that running it needs, so that none of them is timed."""
    from benchmarks.internals import empty_model
    from lieq_edge import open_source

    source = open_source(model)
    empty_model(source.config())
    return source


def write_tokens(args: argparse.Namespace) -> Figures:
    """The windows that an export calibrates on."""
    from benchmarks.internals import calibration_windows
    from lieq_edge import open_source

    windows, info = calibration_windows(open_source(args.model), args.calibration, tokens=args.count, seed=0)
    np.save(args.out, windows)
    return {"tokens": int(windows.size), "text": info.name}


def write_plain_file(args: argparse.Namespace) -> Figures:
    """The model as a GGUF file in one floating-point type."""
    from benchmarks.internals import write_plain
    from lieq_edge import open_source

    return {"file_bytes": write_plain(args.out, open_source(args.model), args.type)}


def synthetic_importance(shapes: dict[str, tuple[int, ...]]) -> Importance:
    """Seeded importance of any matrices, as uneven as measured ones: the encoders' time does not depend on it."""
    importance = {}
    for name, shape in shapes.items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        importance[name] = rng.lognormal(0.0, 1.5, shape[-1]).astype(np.float32)
    return importance


def quantize_ours(args: argparse.Namespace) -> Figures:
    """The last stage of an export with importance rounding: quantise and write. The types go to ``--types``."""
    from benchmarks.internals import describe, encode_tensors, write_model
    from lieq_edge import PlanOptions, make_plan, open_source

    source = open_source(args.model)
    plan = make_plan(describe(source), args.budget, PlanOptions(metric="first"))
    matrices = {t.name: t for t in plan.tensors if is_matrix(t.name, t.shape)}
    args.types.write_text(json.dumps({name: tensor.type for name, tensor in matrices.items()}), encoding="utf-8")
    importance = synthetic_importance({name: tensor.shape for name, tensor in matrices.items()})
    figures: Figures = {}
    with working(figures, "quantize"):
        encoded = encode_tensors(source, plan, importance, threads=args.threads)
        size = write_model(args.out, source, plan, encoded, rounding="imatrix")
    return figures | {"file_bytes": size, "weights": weights_digest(args.out)}


def quantize_peer(args: argparse.Namespace) -> Figures:
    """The same types and importance by ``llama_model_quantize``."""
    from benchmarks.internals import read_header
    from benchmarks.peer import quantize_with_llama_cpp

    _start_llama_cpp()
    types = json.loads(args.types.read_text(encoding="utf-8"))
    shapes = {t.name: t.shape for t in read_header(args.model).tensors if t.name in types}
    importance = synthetic_importance(shapes)
    figures: Figures = {}
    with working(figures, "quantize"):
        size = quantize_with_llama_cpp(
            args.model,
            args.out,
            "Q4_K_M",  # for vectors; every matrix has a type of its own
            imatrix=importance,
            tensor_types={f"^{re.escape(name)}$": kind for name, kind in types.items()},
            token_embedding_type=types.get("token_embd.weight"),
            output_type=types.get("output.weight"),
            threads=args.threads,
        )
    return figures | {"file_bytes": size, "weights": weights_digest(args.out)}


def _start_llama_cpp() -> None:
    """Start the process of llama.cpp: of a peer only the work counts."""
    from benchmarks.internals import START_SECONDS, shared

    shared().call("peak_bytes", label="llama.cpp", seconds=START_SECONDS)


def weights_digest(path: Path) -> str:
    """SHA-256 over names, types and bytes of all tensors, whatever their order in the file."""
    from benchmarks.internals import read_header

    digest = hashlib.sha256()
    for tensor in sorted(read_header(path).tensors, key=lambda t: t.name):
        digest.update(f"{tensor.name} {tensor.type}\0".encode())
        digest.update(np.memmap(path, np.uint8, "r", tensor.offset, (tensor.nbytes,)).data)
    return digest.hexdigest()


def saliency(args: argparse.Namespace) -> Figures:
    """Perplexity drops of all blocks as ``analyze`` measures them."""
    from benchmarks.internals import analyze

    source = open_with_torch(args.model)
    figures: Figures = {}
    with working(figures, "saliency"):
        diagnostics = analyze(source, metrics={"saliency"}, saliency_tokens=args.count, threads=args.threads)
    return figures | {"ppl": diagnostics.base_ppl, "drops": [block.delta_ppl for block in diagnostics.blocks]}


def saliency_naive(args: argparse.Namespace) -> Figures:
    """The same drops by running the model once as it is and once without each block."""
    import torch

    from benchmarks.internals import SALIENCY_CONTEXT, BlockModel, builtin_text, text_windows

    source = open_with_torch(args.model)
    figures: Figures = {}
    with working(figures, "saliency"), torch.no_grad():
        text, name = builtin_text("saliency")
        windows, _ = text_windows(source, text, name, tokens=args.count, context=min(SALIENCY_CONTEXT, args.count))
        tokens = torch.from_numpy(windows)
        model = BlockModel(source, threads=args.threads)

        def perplexity(skipped: int | None) -> float:
            hidden = model.embed(tokens).clone()
            for index in range(model.n_blocks):
                if index != skipped:
                    with model.block(index) as module:
                        model.advance(module, index, hidden)
            return math.exp(min(float(model.token_losses(hidden, tokens).double().mean()), 700.0))

        whole = perplexity(None)
        drops = [perplexity(index) - whole for index in range(model.n_blocks)]
    return figures | {"ppl": whole, "drops": drops}


def operations(args: argparse.Namespace) -> Figures:
    """GFLOP of one pass over so many tokens, by part; a multiplication and an addition count as two."""
    from benchmarks.internals import read_header

    shapes = {t.name: t.shape for t in read_header(args.model).tensors if is_matrix(t.name, t.shape)}
    blocks = {name: shape for name, shape in shapes.items() if name.startswith("blk.")}
    queries = sum(shape[0] for name, shape in blocks.items() if name.endswith("attn_q.weight"))
    head = shapes.get("output.weight") or shapes["token_embd.weight"]
    for_token = {
        "blocks": 2 * sum(math.prod(shape) for shape in blocks.values()),
        # Scores and their products with the values, over the whole window.
        "attention": 4 * queries * args.context,
        "head": 2 * math.prod(head),
        "H": 2 * sum(shape[-1] ** 2 for shape in blocks.values()),
    }
    return {"tokens": args.count, "gflop": {name: args.count * count / 1e9 for name, count in for_token.items()}}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line(__doc__)
    commands = parser.add_subparsers(required=True)
    of_files = ("peer-export", "quantize-peer", "operations")

    def add(name: str, function: Any, *positional: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=(function.__doc__ or "").splitlines()[0])
        command.set_defaults(function=function)
        for argument in positional:
            as_path = argument in ("out", "tokens") or (argument == "model" and name in of_files)
            command.add_argument(argument, type=Path if as_path else str)
        command.add_argument("--threads", type=int, help="threads; all cores when left out")
        return command

    add("peer-export", peer_export, "model", "tokens", "out", "preset")
    add("torch-imatrix", torch_imatrix, "model", "tokens")
    tokens = add("tokens", write_tokens, "model", "out")
    tokens.add_argument("--calibration", default="docs")
    tokens.add_argument("--tokens", dest="count", type=int, default=16384)
    add("plain", write_plain_file, "model", "out", "type")
    for name, function in (("quantize-ours", quantize_ours), ("quantize-peer", quantize_peer)):
        command = add(name, function, "model", "out")
        command.add_argument("--types", type=Path, required=True, help="JSON: types by tensor")
        command.add_argument("--budget", default="3.0bpw")
    for name, function in (("saliency", saliency), ("saliency-naive", saliency_naive)):
        add(name, function, "model").add_argument("--tokens", dest="count", type=int, default=4096)
    flop = add("operations", operations, "model")
    flop.add_argument("--tokens", dest="count", type=int, default=16384)
    flop.add_argument("--context", type=int, default=512)
    args = parser.parse_args(arguments)
    return exit_code(lambda: print(json.dumps(args.function(args), indent=1)))


if __name__ == "__main__":
    raise SystemExit(main())
