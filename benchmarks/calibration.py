"""Compare calibration texts by the harm that uniform quantisation does to a model, and print one table.

    python -m benchmarks.calibration demo --text TEXT --out calibration --origins none docs self mixed

Importance is measured on each text; every block matrix is encoded in one type and decoded again by ggml; the model then
runs in float32 beside the unquantised one, embedding and head unchanged. Rows that are not a multiple of a block are
padded with zeros before they are encoded, so that 256-wide types can be judged on models with rows of 576 too. Written
are OUT.md and OUT.json; a run that was interrupted is resumed from OUT.json.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.harness import (
    Records,
    command_line,
    exit_code,
    mean_and_error,
    plus_minus,
    table,
    timed,
    write_markdown,
)
from benchmarks.internals import (
    TYPES,
    Array,
    BlockModel,
    Importance,
    Source,
    Windows,
    calibration_windows,
    dequantize,
    encode,
    log,
    measure_importance,
    text_windows,
    validation_text,
)
from lieq_edge import open_source
from tools.wrapped import Wrapped


@dataclass(frozen=True)
class Score:
    """Perplexity, mean KL divergence (nats a token, with its standard error) and top-1 agreement of a model.

    ``calibration`` names the calibration text, and ``type`` the ggml type of all block matrices.
    """

    type: str
    calibration: str
    ppl: float
    kld: float
    kld_se: float
    top1: float


class Uniform(Wrapped):
    """A source whose block matrices were encoded in one ggml type and decoded again."""

    def __init__(self, source: Source, type_name: str, importance: Importance) -> None:
        super().__init__(source, f"all block matrices in {type_name}")
        self._type = type_name
        self._importance = importance

    def read(self, name: str) -> Array:
        array = super().read(name)
        if array.ndim != 2 or not name.startswith("blk."):
            return array
        return rounded(array, self._type, self._importance.get(name))


def rounded(array: Array, type_name: str, importance: npt.NDArray[np.float32] | None) -> Array:
    """Rows ``(rows, columns)`` encoded in a type and decoded again, zero-padded inside to whole blocks."""
    columns = array.shape[1]
    # 256 for all types: scales of sub-blocks are then shared just as in a model of fitting width.
    padding = -columns % max(256, TYPES[type_name].block)
    padded = np.pad(array, ((0, 0), (0, padding)))
    weights = None
    if importance is not None:
        weights = np.pad(importance, (0, padding), constant_values=float(importance.min()))
    packed = encode(padded, type_name, weights)
    return np.ascontiguousarray(dequantize(packed, type_name, padded.shape)[:, :columns])


@torch.no_grad()
def last_hidden(source: Source, tokens: Windows, *, keep: bool = False) -> tuple[BlockModel, Tensor]:
    """The model and its last block's output ``(n, T, d)`` on token windows."""
    model = BlockModel(source, keep_blocks=keep)
    hidden = model.embed(torch.from_numpy(tokens))
    for index in range(model.n_blocks):
        with model.block(index) as module:
            model.advance(module, index, hidden)
    return model, hidden


@torch.no_grad()
def compare(
    model: BlockModel, reference: Tensor, hidden: Tensor, tokens: Windows, *, kind: str, calibration: str
) -> Score:
    """Score the output ``hidden`` against ``reference`` ``(n, T, d)`` with the same head.

    Args:
        model: the unquantised model, for its head.
        reference: its last block's output.
        hidden: the last block's output with block matrices of the type ``kind``.
        tokens: windows ``(n, T)`` of the held-out text.
        kind: ggml type, for the record.
        calibration: name of the calibration text, for the record.
    """
    losses = model.token_losses(hidden, torch.from_numpy(tokens)).flatten()
    klds, hits = [], []
    ours = model.logit_chunks(hidden.flatten(0, 1))
    for (_, expected), (_, got) in zip(model.logit_chunks(reference.flatten(0, 1)), ours, strict=True):
        p, q = expected.log_softmax(-1), got.log_softmax(-1)
        klds.append((p.exp() * (p - q)).sum(-1))
        hits.append(p.argmax(-1) == q.argmax(-1))
    kld, error = mean_and_error(torch.cat(klds).numpy())
    return Score(
        type=kind,
        calibration=calibration,
        ppl=math.exp(losses.double().mean()),
        kld=kld,
        kld_se=error,
        top1=float(torch.cat(hits).double().mean()),
    )


def measure(args: argparse.Namespace, scores: Records[Score]) -> str:
    """Score all types with importance of all texts; a line about the held-out text."""
    source = open_source(args.model)
    text, name = validation_text(args.text)
    tokens, _ = text_windows(source, text, name, tokens=args.context * args.chunks, context=args.context)
    model, reference = last_hidden(source, tokens)
    full = compare(model, reference, reference, tokens, kind="F32", calibration="none")
    made = {(score.calibration, score.type) for score in scores}
    for calibration in args.origins:
        types = [kind for kind in args.types if (calibration, kind) not in made]
        importance: Importance = {}
        if types and calibration != "none":
            seconds: dict[str, float] = {}
            with timed(seconds, "text"):
                windows, info = calibration_windows(source, calibration, tokens=args.calibration_tokens, seed=args.seed)
            log(f"{info.name}: {info.tokens} tokens in {seconds['text']:.1f} s")
            importance = measure_importance(source, windows)
        for kind in types:
            _, hidden = last_hidden(Uniform(source, kind, importance), tokens)
            scores.add(compare(model, reference, hidden, tokens, kind=kind, calibration=calibration))
            log(f"{kind}, {calibration}: {asdict([*scores][-1])}")
    return f"{name}, {tokens.size} tokens, unquantised PPL {full.ppl:.2f}"


def render(scores: Sequence[Score]) -> str:
    """A row for each type and calibration text."""
    rows = (
        (s.type, s.calibration, f"{s.ppl:.2f}", plus_minus(s.kld, s.kld_se, 4), f"{100 * s.top1:.1f} %") for s in scores
    )
    return table(("type", "calibration", "PPL", "KL divergence", "same top token"), rows)


def main(arguments: Sequence[str] | None = None) -> int:
    names = ("model", "--text", "--out", "--calibration-tokens", "--context", "--chunks")
    parser = command_line(__doc__, *names, chunks=8)
    texts = ["none", "docs", "self", "mixed"]
    parser.add_argument("--origins", nargs="+", default=texts, help="calibration texts, or text files")
    parser.add_argument(
        "--types", nargs="+", default=["Q2_K", "Q3_K", "Q4_0"], choices=sorted(TYPES), help="ggml types"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the calibration texts")
    args = parser.parse_args(arguments)

    def compare_texts() -> None:
        scores = Records(args.out.with_suffix(".json"), Score)
        line = measure(args, scores)
        write_markdown(args.out, f"{line}\n\n{render([*scores])}\n")

    return exit_code(compare_texts)


if __name__ == "__main__":
    raise SystemExit(main())
