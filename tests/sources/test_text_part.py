"""Checkpoints that see as well: transformers itself saves them, and its whole model is the oracle for text."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from logits import export_float32, llama_logits, mean_kl, transformers_logits
from tiny import cached_model, sample_text

from lieq_edge.sources import open_source
from lieq_edge.sources.families import FAMILIES

TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 512,
}
VISION = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
QWEN_VISION = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 64}
MROPE = {"type": "mrope", "mrope_section": [2, 3, 3]}

CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "text part of gemma3": ("Gemma3ForConditionalGeneration", "gemma3_text", {
        "text_config": {**TEXT, "head_dim": 16, "sliding_window": 32},
        "vision_config": {**VISION, "image_size": 28, "patch_size": 14},
        "mm_tokens_per_image": 4,
        "boi_token_index": 5, "eoi_token_index": 6, "image_token_index": 7,
    }),
    "text part of qwen2_5_vl": ("Qwen2_5_VLForConditionalGeneration", "qwen2", {
        "text_config": {**TEXT, "rope_scaling": MROPE}, "vision_config": {**QWEN_VISION, "fullatt_block_indexes": [0]},
    }),
    "text part of qwen3_vl": ("Qwen3VLForConditionalGeneration", "qwen3", {
        "text_config": {**TEXT, "head_dim": 16, "rope_scaling": {"rope_type": "default", "mrope_section": [2, 3, 3]}},
        "vision_config": {**QWEN_VISION, "deepstack_visual_indexes": [0]},
    }),
    "text part of qwen2_vl": ("Qwen2VLForConditionalGeneration", "qwen2", {
        "text_config": {**TEXT, "rope_scaling": MROPE},
        "vision_config": {"depth": 1, "embed_dim": 32, "hidden_size": 64, "num_heads": 2},
    }),
    "text part of smolvlm": ("SmolVLMForConditionalGeneration", "llama", {
        "text_config": {**TEXT, "model_type": "llama"},
        "vision_config": {**VISION, "image_size": 28, "patch_size": 14},
    }),
    "text part of llava": ("LlavaForConditionalGeneration", "llama", {
        "text_config": {**TEXT, "model_type": "llama"},
        "vision_config": {**VISION, "model_type": "clip_vision_model", "image_size": 28, "patch_size": 14},
        "image_token_index": 7,
    }),
}  # fmt: skip


def make(directory: Path, class_name: str, text_family: str, config: dict[str, Any]) -> Any:
    import torch
    import transformers

    kind = getattr(transformers, class_name)
    torch.manual_seed(0)
    # transformers changes the dictionaries that it is given.
    config = {**copy.deepcopy(config), "tie_word_embeddings": text_family != "llama"}
    model = kind(kind.config_class(**config, bos_token_id=1, eos_token_id=2, pad_token_id=0)).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3 if parameter.ndim == 1 else 1.5 * parameter.shape[-1] ** -0.5)
    model.save_pretrained(directory)
    tokens = cached_model("qwen2" if "qwen" in text_family else "llama")
    for path in tokens.glob("tokenizer*"):
        shutil.copy(path, directory)
    return model


@pytest.mark.parametrize("name", CASES)
def test_the_text_part_computes_what_the_whole_model_does(tmp_path: Path, name: str) -> None:
    import torch

    class_name, text_family, config = CASES[name]
    if text_family not in FAMILIES:
        pytest.skip(f"{text_family} is not read")
    whole = make(tmp_path / "model", class_name, text_family, config)
    source = open_source(str(tmp_path / "model"))
    assert "text part" in source.warnings[0]
    ids = [i for i in source.tokenize(sample_text(400)) if i not in (5, 6, 7)][:64]
    with torch.no_grad():
        expected = whole(input_ids=torch.tensor([ids])).logits[0].double().numpy()
    assert expected.std() > 0.3
    assert mean_kl(expected, transformers_logits(source, ids)) < 1e-9
    assert mean_kl(expected, llama_logits(export_float32(source, tmp_path / "m.gguf"), ids)) < 1e-7


def test_the_older_form_of_qwen_vl_is_read(tmp_path: Path) -> None:
    """Text settings beside ``vision_config``, text tensors under ``model.`` and others under ``visual.``."""
    plain = cached_model("qwen2", tied=False)
    old = Path(shutil.copytree(plain, tmp_path / "old"))
    settings = json.loads((old / "config.json").read_text())
    settings |= {"model_type": "qwen2_5_vl", "architectures": ["Qwen2_5_VLForConditionalGeneration"]}
    settings |= {"vision_config": {"depth": 1}, "rope_scaling": MROPE}
    (old / "config.json").write_text(json.dumps(settings))
    one, other = open_source(str(plain)), open_source(str(old))
    assert other.architecture == "qwen2"
    for spec in one.tensors():
        assert (one.read(spec.name) == other.read(spec.name)).all()
    ids = one.tokenize(sample_text(200))[:32]
    assert mean_kl(transformers_logits(one, ids), transformers_logits(other, ids)) < 1e-12
