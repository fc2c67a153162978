"""GGUF files that no family describes, of many architectures: run through llama.cpp, with its logits as the oracle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign import BLOCKS, CONTEXT, EXPERTS, HEADS, HIDDEN, INNER, KV_HEADS, VOCAB, write_model
from logits import llama_logits
from runner import assert_refused, run

from lieq_edge.errors import InputError
from lieq_edge.sources import open_source

KV = HIDDEN // HEADS * KV_HEADS
QKV = HIDDEN + 2 * KV
STATE, RANK, WIDE = 16, 32, 2 * HIDDEN
SIZES = {
    "context_length": CONTEXT,
    "embedding_length": HIDDEN,
    "feed_forward_length": INNER,
    "block_count": BLOCKS,
    "attention.head_count": HEADS,
    "attention.head_count_kv": KV_HEADS,
}
RMS = {"attention.layer_norm_rms_epsilon": 1e-5}
LAYER = {"attention.layer_norm_epsilon": 1e-5}

SEPARATE = {"attn_q": (HIDDEN, HIDDEN), "attn_k": (KV, HIDDEN), "attn_v": (KV, HIDDEN), "attn_output": (HIDDEN, HIDDEN)}
FUSED = {"attn_qkv": (QKV, HIDDEN), "attn_output": (HIDDEN, HIDDEN)}
NORMS = {"attn_norm": (HIDDEN,), "ffn_norm": (HIDDEN,)}
PLAIN = {"ffn_up": (INNER, HIDDEN), "ffn_down": (HIDDEN, INNER)}
GATED = {"ffn_gate": (INNER, HIDDEN), **PLAIN}
MIXED = {
    "ffn_gate_inp": (EXPERTS, HIDDEN),
    "ffn_gate_exps": (EXPERTS, INNER, HIDDEN),
    "ffn_up_exps": (EXPERTS, INNER, HIDDEN),
    "ffn_down_exps": (EXPERTS, HIDDEN, INNER),
}
SHARED = {f"{name}_shexp": shape for name, shape in GATED.items()}
MAMBA: dict[str, tuple[int, ...]] = {
    "attn_norm": (HIDDEN,),
    "ssm_in": (2 * WIDE, HIDDEN),
    "ssm_conv1d": (WIDE, 4),
    "ssm_x": (RANK + 2 * STATE, WIDE),
    "ssm_dt": (WIDE, RANK),
    "ssm_out": (HIDDEN, WIDE),
}


@dataclass(frozen=True)
class Kind:
    """An architecture, or a variant of one.

    Attributes:
        architecture: GGUF's.
        block: shapes of the weights of a block, by role.
        biases: roles of a block that have one too.
        keys: key-values beside ``SIZES``.
        outer: weights outside the blocks beside embedding and last norm.
        bare: shapes of tensors of a block without a suffix.
        projections: the flag for a model without queries, keys and values.
    """

    architecture: str
    block: dict[str, tuple[int, ...]]
    keys: dict[str, Any]
    biases: tuple[str, ...] = ()
    outer: dict[str, tuple[int, ...]] = field(default_factory=lambda: {"output": (VOCAB, HIDDEN)})
    bare: dict[str, tuple[int, ...]] = field(default_factory=dict)
    projections: tuple[str, ...] = ()

    def write(self, path: Path) -> Path:
        return write_model(path, self.architecture, SIZES | self.keys, dict(self._shapes()))

    def _shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        outer = {"token_embd": (VOCAB, HIDDEN), "output_norm": (HIDDEN,), **self.outer}
        blocks = {f"blk.{i}.{role}": shape for i in range(BLOCKS) for role, shape in self.block.items()}
        for name, shape in (outer | blocks).items():
            yield f"{name}.weight", shape
            if name.rpartition(".")[2] in self.biases:
                yield f"{name}.bias", shape[:1]
        for i in range(BLOCKS):
            for role, shape in self.bare.items():
                yield f"blk.{i}.{role}", shape


BEHIND = {"post_attention_norm": (HIDDEN,), "post_ffw_norm": (HIDDEN,), "attn_q_norm": (HIDDEN,), "attn_k_norm": (KV,)}
WINDOWS = {"attention.sliding_window": 32, "attention.sliding_window_pattern": [True, True, False]}
HEAD_NORM = ("attn_norm", "output_norm")

KINDS = {
    "olmo 3": Kind("olmo2", {**SEPARATE, **GATED, **BEHIND}, RMS | WINDOWS),
    "phi 2": Kind(
        "phi2",
        {"attn_norm": (HIDDEN,), **SEPARATE, **PLAIN},
        {**LAYER, "rope.dimension_count": 32, "attention.head_count_kv": KV_HEADS},
        ("output", *HEAD_NORM, *SEPARATE, *PLAIN),
    ),
    "falcon": Kind("falcon", {"attn_norm": (HIDDEN,), **FUSED, **PLAIN}, LAYER, HEAD_NORM),
    "gpt-neox": Kind(
        "gptneox",
        {**NORMS, "attn_qkv": (3 * HIDDEN, HIDDEN), "attn_output": (HIDDEN, HIDDEN), **PLAIN},
        {**LAYER, "attention.head_count_kv": HEADS, "rope.dimension_count": 16, "use_parallel_residual": True},
        ("output_norm", *NORMS, *FUSED, *PLAIN),
    ),
    "bloom": Kind(
        "bloom",
        {**NORMS, "attn_qkv": (3 * HIDDEN, HIDDEN), "attn_output": (HIDDEN, HIDDEN), **PLAIN},
        {**LAYER, "attention.head_count_kv": HEADS},
        ("token_embd_norm", "output_norm", *NORMS, *FUSED, *PLAIN),
        {"token_embd_norm": (HIDDEN,)},
    ),
    "command-r": Kind(
        "command-r", {"attn_norm": (HIDDEN,), **SEPARATE, **GATED}, {**LAYER, "logit_scale": 0.5}, outer={}
    ),
    "starcoder 2": Kind(
        "starcoder2", {**NORMS, **SEPARATE, **PLAIN}, LAYER, ("output_norm", *NORMS, *SEPARATE, *PLAIN), {}
    ),
    "minicpm": Kind("minicpm", {**NORMS, **SEPARATE, **GATED}, {**RMS, "embedding_scale": 2.0, "logit_scale": 0.5}),
    "mamba": Kind(
        "mamba",
        MAMBA,
        {
            **RMS,
            "ssm.conv_kernel": 4,
            "ssm.inner_size": WIDE,
            "ssm.state_size": STATE,
            "ssm.time_step_rank": RANK,
            "attention.head_count": 0,
            "attention.head_count_kv": 0,
            "feed_forward_length": 0,
        },
        ("ssm_conv1d", "ssm_dt"),
        bare={"ssm_a": (WIDE, STATE), "ssm_d": (WIDE,)},
        projections=("--projections", "all"),
    ),
    "qwen2-moe": Kind(
        "qwen2moe",
        {**NORMS, **SEPARATE, **MIXED, **SHARED, "ffn_gate_inp_shexp": (HIDDEN,)},
        {**RMS, "expert_count": EXPERTS, "expert_used_count": 2, "expert_feed_forward_length": INNER},
        ("attn_q", "attn_k", "attn_v"),
    ),
    "granite-moe with a shared expert": Kind(
        "granitemoe",
        {**NORMS, **SEPARATE, **MIXED, **SHARED},
        {
            **RMS,
            "logit_scale": 2.0,
            "attention.scale": 0.125,
            "expert_count": EXPERTS,
            "expert_used_count": 2,
            "expert_shared_feed_forward_length": INNER,
        },
    ),
    "llama with longer attention": Kind(
        "llama", {**NORMS, **SEPARATE, **GATED}, {**RMS, "rope.scaling.attn_factor": 1.5}
    ),
}
"""Two of the last are variants of families: the one has tensors, the other a key that transformers' lacks."""

VARIANTS = ("olmo 3", "granite-moe with a shared expert", "llama with longer attention")
FAST = ("--calibration", "docs", "--calibration-tokens", "256", "--probe-tokens", "64", "--threads", "1", "--force")
LARGE = ("--levels", "4,8", "--budget", "8", "--token-embedding-type", "Q8_0", "--output-type", "Q8_0", "--no-validate")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("variants")


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Root mean square of the difference over that of the logits about their mean."""
    spread = one - one.mean(-1, keepdims=True)
    return float(np.sqrt(np.square(one - other).mean() / np.square(spread).mean()))


@pytest.mark.parametrize("name", KINDS)
def test_whatever_llama_cpp_runs_is_exported(folder: Path, name: str) -> None:
    kind = KINDS[name]
    model = kind.write(folder / f"{name}.gguf")
    source = open_source(str(model))
    assert not source.in_transformers
    assert any("run through llama.cpp" in note for note in source.warnings) == (name in VARIANTS)
    ids = np.random.default_rng(0).integers(5, 300, 48).tolist()
    expected = llama_logits(model, ids)
    out = folder / "out.gguf"
    for flags in ((), ("--rounding", "nearest")):
        done = run("export", model, "--out", out, *LARGE, *FAST, *kind.projections, *flags)
        assert done.returncode == 0, done.stderr
        assert distance(expected, llama_logits(out, ids)) < 0.15


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("flags", [("--rounding", "feedback"), ("--rounding", "feedback-once"), ("--metric", "loss")])
def test_what_needs_gradients_names_what_does_not(folder: Path, name: str, flags: tuple[str, ...]) -> None:
    model = KINDS[name].write(folder / f"{name}.gguf")
    done = run("export", model, "--out", folder / "refused.gguf", "--budget", "4", *flags)
    assert_refused(done, "run through llama.cpp", "--metric geometry and --rounding imatrix")
    assert not (folder / "refused.gguf").exists()


def test_a_model_without_projections_says_which_flag_helps(folder: Path) -> None:
    model = KINDS["mamba"].write(folder / "mamba.gguf")
    done = run("export", model, "--out", folder / "refused.gguf", "--budget", "4", *FAST)
    assert_refused(done, "no query, key and value projections", "--projections all")


def test_a_key_that_no_graph_reads_is_no_variant(folder: Path) -> None:
    keys = {**RMS, "attention.sliding_window": 32, "rope.scaling.finetuned": False, "custom.remark": 3}
    source = open_source(str(Kind("llama", {**NORMS, **SEPARATE, **GATED}, keys).write(folder / "plain.gguf")))
    assert source.in_transformers
    assert source.warnings == ()


def test_what_llama_cpp_does_not_load_either_keeps_the_first_reason(folder: Path) -> None:
    block = {**SEPARATE, **GATED, **BEHIND, "attn_norm_2": (HIDDEN,)}
    with pytest.raises(InputError, match="has sliding windows"):
        open_source(str(Kind("olmo2", block, RMS | WINDOWS).write(folder / "damaged.gguf")))
