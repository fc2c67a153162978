"""Compare calibration texts by the harm that uniform quantisation does to a model, and print one table.

    python -m benchmarks.calibration demo --text TEXT --origins none docs self mixed --types Q2_K Q3_K Q4_0

Importance vectors are measured on each text; every block linear is encoded in one type and decoded again by ggml; the
model then runs in float32 beside the unquantised one, embedding and head untouched. Rows that a block does not divide
are padded with zeros inside the encoder, so that 256-wide types can be judged on models with rows of 576 too.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lieq_edge.blockwise.model import BlockModel
from lieq_edge.evidence.importance.measure import measure_importance
from lieq_edge.gguf.types import TYPES
from lieq_edge.llama.encoders import dequantize, encode
from lieq_edge.sources import open_source
from lieq_edge.sources.base import Array, Source
from lieq_edge.system.progress import log, set_quiet
from lieq_edge.texts.windows import Windows, calibration_windows, load_text, text_windows
from tools.wrapped import Wrapped

Importance = Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Score:
    """Perplexity, and mean KL divergence per token (nats, with its standard error) and top-1 agreement."""

    ppl: float
    kld: float
    kld_se: float
    top1: float


class Uniform(Wrapped):
    """A source whose block linears went through one ggml type and back."""

    def __init__(self, source: Source, type_name: str, importance: Importance) -> None:
        super().__init__(source, f"all linears in {type_name}")
        self._type = type_name
        self._importance = importance

    def read(self, name: str) -> Array:
        array = super().read(name)
        if array.ndim != 2 or not name.startswith("blk."):
            return array
        return through(array, self._type, self._importance.get(name))


def through(array: Array, type_name: str, importance: npt.NDArray[np.float32] | None) -> Array:
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
def compare(model: BlockModel, reference: Tensor, hidden: Tensor, tokens: Windows) -> Score:
    """Score the output ``hidden`` against ``reference`` ``(n, T, d)`` through the same head."""
    losses = model.token_losses(hidden, torch.from_numpy(tokens)).flatten()
    klds, hits = [], []
    ours = model.logit_chunks(hidden.flatten(0, 1))
    for (_, expected), (_, got) in zip(model.logit_chunks(reference.flatten(0, 1)), ours, strict=True):
        p, q = expected.log_softmax(-1), got.log_softmax(-1)
        klds.append((p.exp() * (p - q)).sum(-1))
        hits.append(p.argmax(-1) == q.argmax(-1))
    kld = torch.cat(klds).double()
    return Score(
        ppl=math.exp(losses.double().mean()),
        kld=float(kld.mean()),
        kld_se=float(kld.std() / math.sqrt(kld.numel())),
        top1=float(torch.cat(hits).double().mean()),
    )


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--text", type=Path, required=True, help="text that the harm is judged on")
    parser.add_argument("--origins", nargs="+", default=["none", "docs", "self", "mixed"], help="or text files")
    parser.add_argument("--types", nargs="+", default=["Q2_K", "Q3_K", "Q4_0"], choices=sorted(TYPES))
    parser.add_argument("--tokens", type=int, default=16384, help="of calibration")
    parser.add_argument("--eval-tokens", type=int, default=4096)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the scores here as well")
    options = parser.parse_args()
    set_quiet(False)

    source = open_source(options.model)
    name = options.text.name
    tokens, _ = text_windows(source, load_text(options.text), name, tokens=options.eval_tokens, context=512)
    model, reference = last_hidden(source, tokens)
    full = compare(model, reference, reference, tokens)
    print(f"{name}, {tokens.size} tokens, unquantised PPL {full.ppl:.2f}\n")
    print("| type | calibration | PPL | KLD | top-1 |\n|---|---|---|---|---|", flush=True)
    scores = []
    for origin in options.origins:
        importance: Importance = {}
        if origin != "none":
            start = time.monotonic()
            windows, info = calibration_windows(source, origin, tokens=options.tokens, seed=options.seed)
            log(f"{info.name}: {info.tokens} tokens in {time.monotonic() - start:.1f} s")
            importance = measure_importance(source, windows)
        for type_name in options.types:
            _, hidden = last_hidden(Uniform(source, type_name, importance), tokens)
            score = compare(model, reference, hidden, tokens)
            scores.append({"type": type_name, "calibration": origin, **score.__dict__})
            print(
                f"| {type_name} | {origin} | {score.ppl:.2f} | {score.kld:.4f} ± {score.kld_se:.4f} "
                f"| {score.top1:.3f} |",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
