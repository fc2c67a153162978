"""Directories that are not language models with plain weights: each refusal names the thing itself."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny import cached_model

from lieq_edge.errors import InputError
from lieq_edge.sources import open_source


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(cached_model("llama"), tmp_path / "model"))


def set_config(directory: Path, **entries: Any) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, **entries}))


def refused(directory: Path, message: str, **options: Any) -> None:
    with pytest.raises(InputError, match=message) as caught:
        open_source(str(directory), **options)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


CONFIGURED = {
    "MLX, old": ({"quantization": {"group_size": 64, "bits": 4}}, r"already quantised \(MLX\)"),
    "MLX, new": (
        {"quantization": {"bits": 4}, "quantization_config": {"group_size": 64, "bits": 4, "mode": "affine"}},
        r"already quantised \(MLX\)",
    ),
    "GPTQ": ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"already quantised \(GPTQ\)"),
    "AWQ": ({"quantization_config": {"quant_method": "awq"}}, r"already quantised \(AWQ\)"),
    "bitsandbytes": ({"quantization_config": {"load_in_4bit": True}}, r"already quantised \(bitsandbytes\)"),
    "fp8": ({"quantization_config": {"quant_method": "fp8"}}, r"already quantised \(fp8\)"),
    "text": ({"quantization_config": "yes"}, r"already quantised \(unknown\)"),
}


@pytest.mark.parametrize(("entries", "message"), CONFIGURED.values(), ids=CONFIGURED.keys())
def test_quantised_models_that_say_so(model: Path, entries: dict[str, Any], message: str) -> None:
    set_config(model, **entries)
    refused(model, message)


PROJECTION = "model.layers.0.mlp.up_proj"
INT, BYTES = np.zeros((16, 128), np.int32), np.zeros(512, np.uint8)
UNCONFIGURED = {
    "MLX": ({"weight": INT.view(np.uint32), "scales": np.ones((8, 2), np.float16)}, r"\(MLX, by its tensor"),
    "GPTQ": ({"qweight": INT, "qzeros": INT, "g_idx": INT, "scales": BYTES}, r"\(GPTQ, by its tensor"),
    "AWQ": ({"qweight": INT, "qzeros": INT, "scales": BYTES}, r"\(AWQ or GPTQ, by its tensor"),
    "bitsandbytes": (
        {"weight": BYTES, "weight.absmax": BYTES, "weight.quant_state.bitsandbytes__nf4": BYTES},
        r"\(bitsandbytes, by its tensor",
    ),
    "bitsandbytes, 8 bits": ({"weight": BYTES, "SCB": BYTES}, r"\(bitsandbytes, by its tensor"),
    "FP8": ({"weight": BYTES, "weight_scale_inv": BYTES}, r"\(FP8, by its tensor"),
}


@pytest.mark.parametrize(("tensors", "message"), UNCONFIGURED.values(), ids=UNCONFIGURED.keys())
def test_quantised_models_that_do_not(model: Path, tensors: dict[str, Any], message: str) -> None:
    weights = load_file(model / "model.safetensors")
    del weights[f"{PROJECTION}.weight"]
    weights |= {f"{PROJECTION}.{name}": array for name, array in tensors.items()}
    save_file(weights, model / "model.safetensors")
    refused(model, message)


def test_float64_is_named(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    save_file({name: array.astype(np.float64) for name, array in weights.items()}, model / "model.safetensors")
    refused(model, r"weights in float64 .* save it in float32")


def test_an_adapter_given_as_the_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "org/m"}))
    refused(tmp_path, r"is an adapter, not a model; give org/m and add --lora")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"fine_tune_type": "lora", "lora_parameters": {}}))
    refused(tmp_path, r"an adapter of mlx-lm, not a model; merge it with mlx_lm\.fuse")


def test_an_mlx_adapter_for_lora(model: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_file({"x": np.ones(2, np.float32)}, adapter / "adapters.safetensors")
    refused(model, r"an adapter of mlx-lm, not of PEFT", lora=adapter)
    (adapter / "adapter_config.json").write_text(json.dumps({"fine_tune_type": "lora", "num_layers": 4}))
    refused(model, r"an adapter of mlx-lm, not of PEFT", lora=adapter)


def test_an_embedding_model(model: Path) -> None:
    (model / "modules.json").write_text("[]")
    refused(model, r"is an embedding model \(it has a modules\.json")


@pytest.mark.parametrize("name", ["Qwen3ForSequenceClassification", "LlamaForTokenClassification", "BertForMaskedLM"])
def test_classes_that_write_no_text(model: Path, name: str) -> None:
    set_config(model, architectures=[name])
    refused(model, rf"\({name}\), which writes no text")


def test_yarn_beside_rope_parameters(tmp_path: Path) -> None:
    """transformers reads rope_scaling alone, with the base that config.json states outside."""
    from transformers import CONFIG_MAPPING

    from lieq_edge.sources.rope import rope_of_config

    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    plain = {"rope_type": "default", "rope_theta": 10000.0}
    config = {"rope_scaling": yarn, "rope_parameters": plain, "rope_theta": 50000.0, "max_position_embeddings": 512}
    theirs = CONFIG_MAPPING["llama"](**json.loads(json.dumps(config))).rope_parameters
    ours = rope_of_config(config)
    assert (ours.kind, ours.theta) == (theirs["rope_type"], theirs["rope_theta"]) == ("yarn", 50000.0)
    directory = Path(shutil.copytree(cached_model("llama"), tmp_path / "model"))
    set_config(directory, **config)
    source = open_source(str(directory))
    assert any("transformers reads rope_scaling" in note for note in source.warnings)
    keys = {kv.key: kv.value for kv in source.metadata()}
    assert keys["llama.rope.scaling.type"] == "yarn"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"])
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_is_refused_at_once(model: Path, name: str) -> None:
    (model / name).unlink(missing_ok=True)
    os.mkfifo(model / name)
    start = time.monotonic()
    refused(model, "not a regular file")
    assert time.monotonic() - start < 5


HUGE: dict[str, Any] = {
    "vocab_size": 2**40,
    "hidden_size": 2**40,
    "intermediate_size": 2**62,
    "num_attention_heads": 2**40,
    "num_hidden_layers": 2**30,
    "head_dim": 2**30,
    "max_position_embeddings": 2**40,
}


@pytest.mark.parametrize("key", HUGE)
@pytest.mark.parametrize("family", ["llama", "smollm3", "gemma3_text", "phi3"])
def test_sizes_are_compared_before_anything_is_made(tmp_path: Path, family: str, key: str) -> None:
    directory = Path(shutil.copytree(cached_model(family), tmp_path / "model"))
    set_config(directory, **{key: HUGE[key]})
    start = time.monotonic()
    refused(directory, r".")
    assert time.monotonic() - start < 5


def test_settings_about_other_things_are_dropped(model: Path) -> None:
    foreign = {"num_labels": 10**9, "id2label": {"0": "x"}, "auto_map": {"AutoModel": "x.y"}, "output_attentions": True}
    plain = open_source(str(model)).config()
    set_config(model, **foreign)
    assert open_source(str(model)).config() == plain
