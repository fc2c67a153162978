"""Proof of families: llama.cpp, the block-by-block model and transformers' own implementation compute the same."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from logits import Logits, export_float32, hf_parameters, mean_kl
from safetensors.numpy import load_file, save_file
from tiny import LLAMA3_ROPE, cached_model, sample_text
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

from lieq_edge.blockwise.model import BlockModel
from lieq_edge.blockwise.sampling import generate
from lieq_edge.errors import InputError
from lieq_edge.sources import Source, open_source

LINEAR = {"type": "linear", "factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "smollm3": ("smollm3", {"blocks": 4}),
    "smollm3 untied, free head size, yarn": (
        "smollm3",
        {"blocks": 4, "tied": False, "head_dim": 32, "rope_scaling": YARN},
    ),
    "granite": ("granite", {}),
    "granite untied, llama3 rope, biases": (
        "granite",
        {"tied": False, "rope_scaling": LLAMA3_ROPE, "config": {"attention_bias": True, "mlp_bias": True}},
    ),
    "olmo2": ("olmo2", {}),
    "olmo2 without grouped heads, yarn": ("olmo2", {"heads": (4, 4), "rope_scaling": YARN}),
    "stablelm": ("stablelm", {}),
    "stablelm without biases, half rotated, linear rope": (
        "stablelm",
        {"config": {"use_qkv_bias": False, "partial_rotary_factor": 0.5, "rope_scaling": LINEAR}},
    ),
    "stablelm parallel, with norms of each head": (
        "stablelm",
        {"config": {"use_parallel_residual": True, "qk_layernorm": True}},
    ),
    "gpt2": ("gpt2", {}),
    "qwen3_moe": ("qwen3_moe", {}),
    "qwen3_moe untied, free head size": ("qwen3_moe", {"tied": False, "head_dim": 32}),
    "olmoe": ("olmoe", {"heads": (4, 4)}),
    "granitemoe": ("granitemoe", {"intermediate": 64}),
    "granitemoe untied": ("granitemoe", {"tied": False, "intermediate": 64}),
    "mixtral": ("mixtral", {"tied": False, "intermediate": 64}),
    "gpt2 untied": ("gpt2", {"config": {"tie_word_embeddings": False}, "heads": (2, 2)}),
}

PROMPTS = 3
LENGTH = 200
GREEDY = 64


@dataclass(frozen=True)
class Proved:
    """A model directory, opened, with transformers' own model of it and its export in float32."""

    source: Source
    plain: Any
    gguf: Path


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES.keys())
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Proved:
    family, options = request.param
    directory = cached_model(family, **options)
    source = open_source(str(directory))
    plain = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    return Proved(source, plain, export_float32(source, tmp_path_factory.mktemp("export") / "x.gguf"))


def prompts(source: Source) -> list[list[int]]:
    """Token ids ``(PROMPTS, LENGTH)`` of different texts."""
    return [source.tokenize(sample_text(1500, seed))[:LENGTH] for seed in range(PROMPTS)]


def skip_what_llama_cpp_runs(model: Proved, *, from_gguf: bool) -> None:
    if from_gguf and model.plain.config.model_type == "mixtral":
        pytest.skip("GGUF files of Mixtral are run by llama.cpp")


def plain_logits(plain: Any, ids: list[int]) -> Logits:
    with torch.no_grad():
        return np.asarray(plain(torch.tensor([ids])).logits[0].double().numpy())


def test_llama_cpp_computes_what_transformers_computes(model: Proved) -> None:
    from llama_cpp import Llama

    room = LENGTH + GREEDY
    llama = Llama(
        str(model.gguf),
        n_ctx=room,
        n_batch=room,
        n_threads=1,
        logits_all=True,
        verbose=False,
        type_k=0,
        type_v=0,
        flash_attn=False,
    )
    for ids in prompts(model.source):
        assert len(ids) == LENGTH
        theirs = plain_logits(model.plain, ids)
        assert theirs.std() > 0.5
        llama.reset()
        llama.eval(ids)
        ours = np.array(llama.scores[:LENGTH], np.float64)
        assert mean_kl(theirs, ours) < 1e-6
        continuation = [int(ours[-1].argmax())]
        while len(continuation) < GREEDY:
            llama.eval(continuation[-1:])
            continuation.append(int(llama.scores[llama.n_tokens - 1].argmax()))
        with torch.no_grad():
            whole = model.plain.generate(
                torch.tensor([ids]), max_new_tokens=GREEDY, do_sample=False, eos_token_id=None, pad_token_id=0
            )
        assert continuation == whole[0, LENGTH:].tolist()
    llama.close()


def test_round_trip_through_gguf_is_exact(model: Proved, tmp_path: Path) -> None:
    """What is written from the file as a source is the same file, so what llama.cpp computes is the same."""
    skip_what_llama_cpp_runs(model, from_gguf=True)
    again = open_source(str(model.gguf))
    assert export_float32(again, tmp_path / "again.gguf").read_bytes() == model.gguf.read_bytes()
    assert again.warnings == ()
    assert again.metadata() == model.source.metadata()
    assert effective(again.config()) == effective(model.source.config())
    parameters = hf_parameters(again)
    own = model.plain.state_dict()
    if model.plain.config.tie_word_embeddings:
        del own["lm_head.weight"]
    assert parameters.keys() == own.keys()
    for name, value in own.items():
        assert parameters[name].equal(value), name


@pytest.mark.parametrize("from_gguf", [False, True], ids=["directory", "gguf"])
def test_blocks_one_by_one_compute_what_transformers_computes(model: Proved, from_gguf: bool) -> None:
    skip_what_llama_cpp_runs(model, from_gguf=from_gguf)
    blocks = BlockModel(open_source(str(model.gguf)) if from_gguf else model.source, keep_blocks=False)
    ids = torch.tensor(prompts(model.source))
    with torch.no_grad():
        hidden = blocks.embed(ids)
        for index in range(blocks.n_blocks):
            with blocks.block(index) as module:
                blocks.advance(module, index, hidden)
        torch.testing.assert_close(blocks.logits(hidden), model.plain(ids).logits, atol=5e-5, rtol=1e-5)


def test_text_is_written_as_transformers_writes_it(model: Proved, monkeypatch: pytest.MonkeyPatch) -> None:
    """With keys and values of earlier tokens kept, and the most likely token taken instead of a random one."""
    monkeypatch.setattr("lieq_edge.blockwise.sampling.sample", lambda logits, _: logits.argmax(-1))
    openings = [ids[:8] for ids in prompts(model.source)]
    written = generate(BlockModel(model.source), openings, 40)
    with torch.no_grad():
        theirs = model.plain.generate(
            torch.tensor(openings), max_new_tokens=32, do_sample=False, eos_token_id=None, pad_token_id=0
        )
    assert written.tolist() == theirs.tolist()


def test_gpt2_without_prefix_and_with_masks_is_read(tmp_path: Path) -> None:
    """As the first checkpoints were saved."""
    new = cached_model("gpt2")
    old = Path(shutil.copytree(new, tmp_path / "old"))
    tensors = load_file(new / "model.safetensors")
    named = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    for index in range(2):
        named[f"h.{index}.attn.bias"] = np.tril(np.ones((1, 1, 8, 8), np.float32))
    save_file(named, old / "model.safetensors")
    first, second = open_source(str(new)), open_source(str(old))
    assert first.tensors() == second.tensors()
    for spec in first.tensors():
        assert np.array_equal(first.read(spec.name), second.read(spec.name)), spec.name


@pytest.mark.parametrize(
    ("family", "config", "words"),
    [
        ("smollm3", {"no_rope_layer_interval": 2}, r"out of other blocks than every 4th"),
        ("smollm3", {"no_rope_layers": [1, 0]}, r"out of other blocks than every 4th"),
        ("smollm3", {"use_sliding_window": True, "sliding_window": 64}, "sliding windows"),
        ("smollm3", {"attention_bias": True}, "has biases"),
        ("granite", {"residual_multiplier": 0}, "no positive residual_multiplier"),
        ("granite", {"logits_scaling": "8"}, "no positive logits_scaling"),
        ("olmo2", {"tie_word_embeddings": True}, "token embedding as head"),
        ("olmo2", {"attention_bias": True}, "biases in its attention"),
        ("stablelm", {"tie_word_embeddings": True}, "token embedding as head"),
        ("stablelm", {"hidden_act": "gelu"}, "activation 'gelu'"),
        ("gpt2", {"activation_function": "relu"}, "activation 'relu'"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True"),
        ("gpt2", {"n_embd": None}, "no valid"),
        ("qwen3_moe", {"norm_topk_prob": False}, "norm_topk_prob = False"),
        ("qwen3_moe", {"mlp_only_layers": [0]}, "blocks without experts"),
        ("qwen3_moe", {"decoder_sparse_step": 2}, "blocks without experts"),
        ("qwen3_moe", {"num_experts_per_tok": 9}, "to 9 of 8 experts"),
        ("qwen3_moe", {"num_experts": None}, "no valid num_experts"),
        ("granitemoe", {"num_local_experts": None, "num_experts_per_tok": 9}, "to 9 of 8 experts"),
        ("mixtral", {"norm_topk_prob": False}, "norm_topk_prob = False"),
        ("olmoe", {"norm_topk_prob": True}, "norm_topk_prob = True"),
        ("olmoe", {"clip_qkv": 8.0}, r"clip_qkv = 8\.0"),
        ("olmoe", {"num_key_value_heads": 2}, "shares key-value heads"),
    ],
)
def test_what_the_graph_does_not_compute_is_refused(
    tmp_path: Path, family: str, config: dict[str, Any], words: str
) -> None:
    path = Path(shutil.copytree(cached_model(family), tmp_path / "model")) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    with pytest.raises(InputError, match=words):
        open_source(str(path.parent))


def test_settings_that_configurations_leave_out_are_those_of_transformers(tmp_path: Path) -> None:
    """transformers leaves out of config.json what its own defaults say."""
    for family, names in {
        "smollm3": ("tie_word_embeddings", "rope_theta"),
        "stablelm": ("partial_rotary_factor",),
        "gpt2": ("tie_word_embeddings",),
    }.items():
        path = Path(shutil.copytree(cached_model(family), tmp_path / family)) / "config.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps({key: value for key, value in config.items() if key not in names}))
        known = open_source(str(path.parent)).config()
        full = AutoConfig.from_pretrained(path.parent).to_dict()
        rope = full.get("rope_parameters") or {}
        for name in names:
            assert known[name] == (rope[name] if name in rope else full[name]), (family, name)


def effective(config: dict[str, Any]) -> dict[str, Any]:
    """What transformers makes of a configuration, without what does not touch the numbers."""
    values = {key: value for key, value in config.items() if key not in ("torch_dtype", "model_type")}
    full: dict[str, Any] = CONFIG_MAPPING[config["model_type"]](**values).to_dict()
    (full.get("rope_parameters") or {}).pop("type", None)
    del full["pad_token_id"]
    return full
