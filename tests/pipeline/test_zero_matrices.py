"""Matrices of zeros and dead inputs go through every rounding and every metric, and zeros stay zeros."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from llama_cpp import Llama
from measuring import analyze
from runner import run
from tiny import cached_model, make_model, random_weights, sample_text

from lieq_edge.allocation.plan import PlanOptions, make_plan
from lieq_edge.evidence.blocks.table import METRICS
from lieq_edge.sources import open_source

Weights = dict[str, np.ndarray]
BLOCKS = 2
_SIZES = {"hidden": 256, "intermediate": 512, "blocks": BLOCKS}


def _zero(*names: str) -> Callable[[Weights], None]:
    def clear(weights: Weights) -> None:
        for name in names:
            weights[name][:] = 0

    return clear


def _block(index: int, *parts: str) -> Callable[[Weights], None]:
    return _zero(*(f"model.layers.{index}.{part}.weight" for part in parts))


def _pruned_heads(weights: Weights) -> None:
    attention = "model.layers.1.self_attn."
    for part, rows in {"q_proj": 128, "k_proj": 64, "v_proj": 64}.items():
        weights[f"{attention}{part}.weight"][:rows] = 0
    weights[f"{attention}o_proj.weight"][:, :128] = 0


def _pruned_channels(weights: Weights) -> None:
    weights["model.layers.1.mlp.up_proj.weight"][:256] = 0
    weights["model.layers.1.mlp.down_proj.weight"][:64] = 0


KINDS: dict[str, tuple[bool, Callable[[Weights], None]]] = {
    "an added block": (False, _block(1, "self_attn.o_proj", "mlp.down_proj")),
    "an added block, tied": (True, _block(0, "self_attn.o_proj", "mlp.down_proj")),
    "output projection": (False, _block(0, "self_attn.o_proj")),
    "down projection": (False, _block(0, "mlp.down_proj")),
    "up projection": (False, _block(1, "mlp.up_proj")),
    "values": (False, _block(1, "self_attn.v_proj")),
    "queries": (False, _block(0, "self_attn.q_proj")),
    "heads": (False, _pruned_heads),
    "channels": (False, _pruned_channels),
    "norm of a block": (False, _block(0, "input_layernorm")),
    "last norm": (False, _zero("model.norm.weight")),
    "last norm, tied": (True, _zero("model.norm.weight")),
    "embedding, tied": (True, _zero("model.embed_tokens.weight")),
    "head": (False, _zero("lm_head.weight")),
}


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tied, clear = KINDS[request.param]
    folder = tmp_path_factory.mktemp("zeros")
    (folder / "text.txt").write_text(sample_text(20_000), encoding="utf-8")
    plain = cached_model("llama", tied=tied, **_SIZES)
    weights = random_weights(_config(plain))
    clear(weights)
    make_model(folder / "model", "llama", tied=tied, tensors=weights, **_SIZES)
    return folder


def _config(directory: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((directory / "config.json").read_text())
    return {key: value for key, value in found.items() if key != "architectures"}


@pytest.mark.parametrize("metric", ["geometry", "loss"])
@pytest.mark.parametrize("rounding", ["nearest", "imatrix", "feedback", "feedback-once"])
def test_a_file_is_written_that_loads_and_has_the_zeros(model: Path, metric: str, rounding: str) -> None:
    out, text = model / "out.gguf", model / "text.txt"
    arguments = ["--metric", metric, "--rounding", rounding, "--calibration", text, "--calibration-tokens", "1024"]
    arguments += ["--probe-text", text, "--probe-tokens", "64", "--cache-dir", model / "cache"]
    arguments += ["--no-validate", "--no-parity", "--quiet", "--force"]
    if rounding == "nearest":  # which does not write two bits without importance
        arguments += ["--budget", "4bpw"]
        arguments += ["--types", "Q3_K,Q4_K,Q5_K"] if metric == "loss" else ["--levels", "3,4"]
    else:
        arguments += ["--budget", "3.2bpw"]
    done = run(
        "export", model / "model", "--out", out, *arguments, "--no-validate", "--no-parity", "--quiet", "--force"
    )
    assert done.returncode == 0, done.stderr
    original, written = open_source(str(model / "model")), open_source(str(out))
    for spec in original.tensors():
        before, after = original.read(spec.name), written.read(spec.name)
        assert np.isfinite(after).all(), spec.name
        if before.ndim == 2:
            rows = ~before.any(1)
            assert not after[rows].any(), spec.name
            assert before[~rows].size == 0 or after.any(), spec.name
    llama = Llama(str(out), n_ctx=64, n_batch=64, n_threads=1, logits_all=True, verbose=False)
    llama.eval(original.tokenize("The quick brown fox")[:16])
    assert np.isfinite(llama.scores[: llama.n_tokens]).all()
    llama.close()


@pytest.mark.parametrize(
    ("projections", "baseline"), [("qkv", "projection"), ("all", "projection"), ("all", "network")]
)
def test_every_metric_ranks_the_blocks(model: Path, projections: str, baseline: str) -> None:
    text = model / "text.txt"
    choice = {"projections": projections, "baseline": baseline, "seeds": (0,), "probe_text": text, "probe_tokens": 64}
    source = open_source(str(model / "model"))
    diagnostics = analyze(source, **choice, saliency_text=text, saliency_tokens=64)
    for metric in METRICS:
        plan = make_plan(diagnostics, "3bpw", PlanOptions(metric=metric))
        assert all(math.isfinite(block.score) for block in plan.blocks), metric
