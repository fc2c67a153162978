"""Settings of published models as families carry them over, and settings that they refuse or warn of."""

from __future__ import annotations

from typing import Any

import pytest
from gguf import GGUFWriter

from lieq_edge.errors import InputError
from lieq_edge.sources.families import family_of_config

GEMMA2_2B: dict[str, Any] = {
    "architectures": ["Gemma2ForCausalLM"],
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "max_position_embeddings": 8192,
    "model_type": "gemma2",
    "num_attention_heads": 8,
    "num_hidden_layers": 26,
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "vocab_size": 256000,
}
GEMMA3_1B: dict[str, Any] = {
    **GEMMA2_2B,
    "architectures": ["Gemma3ForCausalLM"],
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "hidden_size": 1152,
    "intermediate_size": 6912,
    "max_position_embeddings": 32768,
    "model_type": "gemma3_text",
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "vocab_size": 262144,
}
PHI3_MINI: dict[str, Any] = {
    "architectures": ["Phi3ForCausalLM"],
    "attention_bias": False,
    "hidden_act": "silu",
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "max_position_embeddings": 4096,
    "model_type": "phi3",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "sliding_window": 2047,
    "tie_word_embeddings": False,
    "vocab_size": 32064,
}
PHI4_MINI: dict[str, Any] = {
    **PHI3_MINI,
    "lm_head_bias": False,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "partial_rotary_factor": 0.75,
    "rope_scaling": {"long_factor": [1.5] * 48, "short_factor": [1.0] * 48, "type": "longrope"},
    "sliding_window": 262144,
    "tie_word_embeddings": True,
    "vocab_size": 200064,
}
MISTRAL_7B: dict[str, Any] = {
    "architectures": ["MistralForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "model_type": "mistral",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "vocab_size": 32000,
}


def written(config: dict[str, Any]) -> dict[str, Any]:
    """The GGUF keys of a configuration without the architecture before them."""
    family = family_of_config(config, "model")
    config = family.complete(config)
    family.check(config, "model")
    writer = GGUFWriter(None, family.architecture)
    family.write(config, family.dims(config, "model"), writer)
    start = family.architecture + "."
    return {key.removeprefix(start): entry.value for key, entry in writer.kv_data[0].items() if key.startswith(start)}


def test_gemma_2() -> None:
    keys = written(GEMMA2_2B)
    assert (keys["attn_logit_softcapping"], keys["final_logit_softcapping"]) == (50.0, 30.0)
    assert (keys["attention.sliding_window"], keys["attention.key_length"]) == (4096, 256)
    assert "attention.sliding_window_pattern" not in keys


@pytest.mark.parametrize("new_form", [False, True])
def test_gemma_3(new_form: bool) -> None:
    """In the form of rope settings of either version of transformers; both kinds of list of windows."""
    config = GEMMA3_1B
    if new_form:
        names = ("rope_theta", "rope_local_base_freq", "rope_scaling", "sliding_window_pattern")
        config = {key: value for key, value in GEMMA3_1B.items() if key not in names}
        config["layer_types"] = ["sliding_attention" if i % 6 < 5 else "full_attention" for i in range(26)]
        config["rope_parameters"] = {
            "full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        }
    keys = written(config)
    assert keys["rope.freq_base"] == 1000000.0
    assert keys["attention.sliding_window"] == 512
    for absent in ("attention.sliding_window_pattern", "rope.freq_base_swa", "rope.scaling.type"):
        assert absent not in keys
    scaled = {**config, "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "rope_parameters": None}
    assert written(scaled)["rope.scaling.factor"] == 8.0


def test_other_windows_are_written_block_by_block() -> None:
    kinds = ["full_attention", *["sliding_attention"] * 25]
    keys = written({**GEMMA3_1B, "layer_types": kinds, "rope_local_base_freq": 5000})
    assert keys["attention.sliding_window_pattern"] == [False, *[True] * 25]
    assert keys["rope.freq_base_swa"] == 5000


def test_phi_3() -> None:
    keys = written(PHI3_MINI)
    assert (keys["rope.dimension_count"], keys["attention.sliding_window"]) == (96, 2047)
    assert "rope.scaling.attn_factor" not in keys


def test_phi_4_mini() -> None:
    keys = written(PHI4_MINI)
    assert keys["rope.dimension_count"] == 96
    assert keys["rope.scaling.original_context_length"] == 4096
    # sqrt(1 + ln(131072 / 4096) / ln 4096)
    assert keys["rope.scaling.attn_factor"] == pytest.approx(1.1902380714238083)


@pytest.mark.parametrize(
    ("config", "window"),
    [
        (MISTRAL_7B, 4096),
        ({**MISTRAL_7B, "sliding_window": None}, None),
        (PHI3_MINI, 2047),
        (PHI4_MINI, None),
        (GEMMA2_2B, None),
    ],
)
def test_windows_that_llama_cpp_has_not_are_warned_of(config: dict[str, Any], window: int | None) -> None:
    warnings = family_of_config(config, "model").warnings(config, "model")
    expected = [f"attends to the last {window} tokens only"] if window else []
    assert len(warnings) == len(expected)
    assert all(words in warning for words, warning in zip(expected, warnings, strict=True))


@pytest.mark.parametrize(
    ("config", "change", "words"),
    [
        (GEMMA2_2B, {"hidden_activation": "relu"}, "activation 'relu'"),
        (GEMMA2_2B, {"attn_logit_softcapping": None}, "no attn_logit_softcapping"),
        (GEMMA2_2B, {"attention_bias": True}, "biases in its attention"),
        (GEMMA2_2B, {"tie_word_embeddings": False}, "output head besides its embedding"),
        (GEMMA2_2B, {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope scaling 'yarn'"),
        (GEMMA3_1B, {"attn_logit_softcapping": 50.0}, "caps its attention logits"),
        (GEMMA3_1B, {"use_bidirectional_attention": True}, "attends to later tokens"),
        (PHI3_MINI, {"lm_head_bias": True}, "has lm_head_bias"),
        (PHI3_MINI, {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope scaling 'linear'"),
        (PHI4_MINI, {"partial_rotary_factor": 0.5}, "48 rope factors where its heads need 32"),
        (PHI4_MINI, {"rope_scaling": {"type": "longrope", "long_factor": [1.0] * 48}}, "without its two lists"),
        (MISTRAL_7B, {"hidden_act": "gelu"}, "activation 'gelu'"),
    ],
)
def test_what_the_graph_does_not_compute_is_refused(config: dict[str, Any], change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        written({**config, **change})
