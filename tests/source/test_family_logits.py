"""The proof of names, permutation, hyper-parameters and rope: llama.cpp computes what transformers computes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from logits import export_float32, hf_parameters, llama_logits, mean_kl, transformers_logits
from tiny import LLAMA3_ROPE, cached_model, sample_text

from lieq_edge.header import read_header
from lieq_edge.source import open_source

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
BIASES = {
    f"model.layers.0.{name}.bias": np.random.default_rng(1).standard_normal(rows).astype(np.float32)
    for name, rows in {
        "self_attn.q_proj": 64,
        "self_attn.k_proj": 32,
        "self_attn.v_proj": 32,
        "self_attn.o_proj": 64,
        "mlp.gate_proj": 128,
        "mlp.up_proj": 128,
        "mlp.down_proj": 64,
    }.items()
}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama untied, bf16, shards": ("llama", {"tied": False, "dtype": "bfloat16", "shards": 3}),
    "llama sentencepiece, f16": ("llama", {"tokenizer": "sentencepiece", "dtype": "float16"}),
    "llama 288 wide": ("llama", {"hidden": 288, "heads": (9, 3)}),
    "llama without grouped heads": ("llama", {"heads": (4, 4)}),
    "llama free head size": ("llama", {"head_dim": 32}),
    "llama3 rope": ("llama", {"rope_scaling": LLAMA3_ROPE, "rope_theta": 500000.0, "head_dim": 32}),
    "llama linear rope": ("llama", {"rope_scaling": {"type": "linear", "factor": 4.0}}),
    "llama yarn": ("llama", {"rope_scaling": YARN}),
    "llama yarn with its own limits": ("llama", {"rope_scaling": {**YARN, "beta_fast": 8.0, "beta_slow": 2.0}}),
    "llama biases": ("llama", {"blocks": 1, "config": {"attention_bias": True, "mlp_bias": True}, "tensors": BIASES}),
    "qwen2": ("qwen2", {}),
    "qwen2 untied, 288 wide": ("qwen2", {"tied": False, "hidden": 288, "heads": (9, 3)}),
    "qwen2 yarn with its own attention factor": ("qwen2", {"rope_scaling": {**YARN, "attention_factor": 1.5}}),
    "qwen3": ("qwen3", {}),
    "qwen3 untied, free head size": ("qwen3", {"tied": False, "head_dim": 32}),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def model(request: pytest.FixtureRequest) -> Path:
    family, options = request.param
    return cached_model(family, **options)


def test_llama_cpp_computes_what_transformers_computes(model: Path, tmp_path: Path) -> None:
    source = open_source(str(model))
    ids = source.tokenize(sample_text(600))[:100]
    theirs = transformers_logits(source, ids)
    assert theirs.std() > 0.5
    ours = llama_logits(export_float32(source, tmp_path / "x.gguf"), ids)
    assert mean_kl(theirs, ours) < 1e-9


def test_round_trip_through_gguf_is_exact(model: Path, tmp_path: Path) -> None:
    source = open_source(str(model))
    again = open_source(str(export_float32(source, tmp_path / "x.gguf")))
    assert again.warnings == ()
    parameters, parameters_again = hf_parameters(source), hf_parameters(again)
    assert parameters.keys() == parameters_again.keys()
    for name, value in parameters.items():
        assert value.equal(parameters_again[name]), name
    assert effective(again.config()) == effective(source.config())
    assert again.metadata() == source.metadata()
    text = sample_text(500)
    assert again.tokenize(text) == source.tokenize(text)
    assert (again.n_blocks, again.bos_id, again.adds_bos) == (source.n_blocks, source.bos_id, source.adds_bos)


def test_rope_factors_of_any_kind_are_carried_over(tmp_path: Path) -> None:
    """Factors that no Llama-3 setting gives reach transformers as LongRoPE."""
    source = open_source(str(cached_model("llama", rope_scaling=LLAMA3_ROPE)))
    path = export_float32(source, tmp_path / "x.gguf")
    factors = np.array([1, 3, 2, 5, 1.5, 9, 7, 4], np.float32)
    offset = next(t.offset for t in read_header(path).tensors if t.name == "rope_freqs.weight")
    data = bytearray(path.read_bytes())
    data[offset : offset + 32] = factors.tobytes()
    path.write_bytes(data)
    again = open_source(str(path))
    ids = again.tokenize(sample_text(600))[:100]
    theirs = transformers_logits(again, ids)
    assert mean_kl(theirs, llama_logits(path, ids)) < 1e-9
    assert mean_kl(theirs, transformers_logits(source, ids)) > 1e-3


def test_stored_parameters_are_read_exactly(model: Path) -> None:
    from transformers import AutoModelForCausalLM

    original = AutoModelForCausalLM.from_pretrained(model, dtype="float32").state_dict()
    source = open_source(str(model))
    for name, value in hf_parameters(source).items():
        assert value.equal(original[name]), name


def test_both_forms_of_rope_settings_are_read(tmp_path: Path) -> None:
    old = open_source(str(cached_model("llama", rope_scaling=LLAMA3_ROPE)))
    new_form = {"rope_scaling": None, "rope_theta": None, "rope_parameters": {**LLAMA3_ROPE, "rope_theta": 10000.0}}
    new = open_source(str(cached_model("llama", config=new_form)))
    assert np.array_equal(new.read("rope_freqs.weight"), old.read("rope_freqs.weight"))
    assert old.read("rope_freqs.weight").max() == 8


def effective(config: dict[str, Any]) -> dict[str, Any]:
    """What transformers makes of a configuration, without what does not touch the numbers."""
    from transformers import CONFIG_MAPPING

    values = {k: v for k, v in config.items() if k not in ("torch_dtype", "model_type")}
    full = CONFIG_MAPPING[config["model_type"]](**values).to_dict()
    full["rope_parameters"].pop("type", None)
    return full
