"""The proof of names, permutation, hyper-parameters and rope: llama.cpp computes what transformers computes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_cases import CASES
from logits import (
    export_float32,
    hf_parameters,
    llama_logits,
    llama_run,
    mean_kl,
    transformers_logits,
    transformers_run,
)
from tiny import LLAMA3_ROPE, cached_model, sample_text

from lieq_edge.gguf.header import read_header
from lieq_edge.sources import open_source


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def model(request: pytest.FixtureRequest) -> Path:
    family, options = request.param
    return cached_model(family, **options)


def test_llama_cpp_computes_what_transformers_computes(model: Path, tmp_path: Path) -> None:
    """From the directory, and again from the file as a source."""
    source = open_source(str(model))
    prompts = [source.tokenize(sample_text(2000, seed=seed))[:length] for seed, length in enumerate((210, 200, 230))]
    assert min(map(len, prompts)) >= 200
    path = export_float32(source, tmp_path / "x.gguf")
    again = open_source(str(path))
    # llama.cpp takes GELU from a table of half-precision numbers.
    gelu = source.architecture.startswith("gemma")
    ours, theirs = llama_run(path, prompts, new=64), transformers_run(model, prompts, new=64, gelu_table=gelu)
    plain = transformers_run(model, prompts) if gelu else theirs
    for number, ids in enumerate(prompts):
        assert theirs.logits[number].std() > 0.5
        # A difference in the last bit may take the neighbour in that table.
        assert mean_kl(theirs.logits[number], ours.logits[number]) < (1e-7 if gelu else 1e-9)
        assert mean_kl(plain.logits[number], ours.logits[number]) < 1e-6
        assert mean_kl(plain.logits[number], transformers_logits(again, ids)) < 1e-9
    assert ours.greedy == theirs.greedy
    assert len(set(map(tuple, theirs.greedy))) == 3
    assert export_float32(again, tmp_path / "again.gguf").read_bytes() == path.read_bytes()


def test_the_largest_gemma_has_another_scale_of_attention(tmp_path: Path) -> None:
    """llama.cpp knows it by its 46 blocks."""
    sizes: dict[str, Any] = {"blocks": 46, "hidden": 32, "intermediate": 32, "heads": (2, 1), "head_dim": 8}
    model = cached_model("gemma2", **sizes, config={"query_pre_attn_scalar": 16})
    source = open_source(str(model))
    prompt = source.tokenize(sample_text(600))[:60]
    theirs = transformers_run(model, [prompt]).logits[0]
    assert theirs.std() > 0.5
    assert mean_kl(theirs, llama_logits(export_float32(source, tmp_path / "x.gguf"), prompt)) < 1e-5


def test_round_trip_through_gguf_is_exact(model: Path, tmp_path: Path) -> None:
    source = open_source(str(model))
    again = open_source(str(export_float32(source, tmp_path / "x.gguf")))
    assert again.warnings == ()
    parameters, parameters_again = hf_parameters(source), hf_parameters(again)
    assert parameters.keys() == parameters_again.keys()
    # Mistral comes back as Llama, and another scale of the queries in the weights.
    query = source.config().get("query_pre_attn_scalar")
    same = source.config()["model_type"] == again.config()["model_type"]
    same &= query == again.config().get("query_pre_attn_scalar")
    for name, value in parameters.items():
        assert value.equal(parameters_again[name]) or (not same and ".q_" in name), name
    if same:
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
    import torch
    from transformers import AutoModelForCausalLM

    original = AutoModelForCausalLM.from_pretrained(model, dtype="float32").state_dict()
    source = open_source(str(model))
    for name, value in hf_parameters(source).items():
        # Norms to which one is added and taken off again lose their last bits, and scaled queries too.
        inexact = "norm" in name or ("q_proj" in name and "query_pre_attn_scalar" in source.config())
        assert torch.allclose(value, original[name], rtol=0, atol=1e-6 if inexact else 0), name


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
    for name in ("pad_token_id", "sliding_window_pattern", "_sliding_window_pattern"):
        full.pop(name, None)
    # Of LongRoPE the file has what transformers would compute.
    for name in ("type", "attention_factor"):
        full["rope_parameters"].pop(name, None)
    return full
