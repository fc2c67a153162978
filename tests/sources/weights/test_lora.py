"""Adapters merged while reading: the oracle is transformers with the low-rank product added to each layer's output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from logits import export_float32, llama_logits, mean_kl, transformers_logits
from runner import assert_refused, run
from safetensors.numpy import save_file
from tiny import cached_model, sample_text

from lieq_edge.errors import InputError
from lieq_edge.sources import open_source

F = npt.NDArray[np.float32]
RNG = np.random.default_rng(5)
CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "base_model_name_or_path": None,
    "r": 4,
    "lora_alpha": 8,
    "rank_pattern": {"o_proj": 2, r"layers.0.mlp\.down_proj": 3},
    "alpha_pattern": {"q_proj": 5},
    "init_lora_weights": True,
    "lora_dropout": 0.1,
    "modules_to_save": None,
    "target_modules": ["q_proj", "o_proj", "down_proj"],
    "use_dora": False,
}
# Weight, r, alpha by CONFIG's patterns, worked out by hand.
TARGETS = {
    "model.layers.0.self_attn.q_proj": (64, 64, 4, 5),
    "model.layers.1.self_attn.q_proj": (64, 64, 4, 5),
    "model.layers.1.self_attn.o_proj": (64, 64, 2, 8),
    "model.layers.0.mlp.down_proj": (64, 128, 3, 8),
    "model.layers.1.mlp.down_proj": (64, 128, 4, 8),
}


def low_rank() -> dict[str, F]:
    found = {}
    for module, (rows, columns, rank, _) in TARGETS.items():
        key = f"base_model.model.{module}.lora_"
        found[f"{key}A.weight"] = RNG.standard_normal((rank, columns)).astype(np.float32) * 0.2
        found[f"{key}B.weight"] = RNG.standard_normal((rows, rank)).astype(np.float32) * 0.2
    return found


def save(directory: Path, weights: dict[str, F], **config: Any) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}))
    save_file(
        {name: np.ascontiguousarray(array) for name, array in weights.items()}, directory / "adapter_model.safetensors"
    )
    return directory


def adapted_logits(base: Path, weights: dict[str, F], ids: list[int], *, rslora: bool, saved: dict[str, F]) -> Any:
    """The model as it is trained: every target's output plus ``scale * B (A x)``."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype="float32", attn_implementation="eager")
    for name, array in saved.items():
        model.get_parameter(name).data = torch.from_numpy(array)
    for module, (_, _, rank, alpha) in TARGETS.items():
        a, b = (torch.from_numpy(weights[f"base_model.model.{module}.lora_{part}.weight"]) for part in "AB")
        scale = alpha / rank**0.5 if rslora else alpha / rank

        def hook(_: Any, inputs: Any, output: Any, a: Any = a, b: Any = b, scale: float = scale) -> Any:
            return output + scale * (inputs[0] @ a.T) @ b.T

        model.get_submodule(module).register_forward_hook(hook)
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].double().numpy()


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("rslora", [False, True])
def test_the_merged_model_computes_what_the_adapted_one_does(tmp_path: Path, family: str, rslora: bool) -> None:
    base, weights = cached_model(family, tied=False), low_rank()
    saved = {
        "lm_head.weight": RNG.standard_normal((512, 64)).astype(np.float32) * 0.2,
        "model.layers.1.post_attention_layernorm.weight": np.linspace(0.5, 1.5, 64, dtype=np.float32),
    }
    whole = {f"base_model.model.{name}": array for name, array in saved.items()}
    adapter = save(tmp_path / "adapter", {**weights, **whole}, use_rslora=rslora, modules_to_save=["lm_head"])
    source = open_source(str(base), lora=adapter)
    ids = source.tokenize(sample_text(400))[:64]
    expected = adapted_logits(base, weights, ids, rslora=rslora, saved=saved)
    assert mean_kl(expected, transformers_logits(source, ids)) < 1e-9
    assert mean_kl(expected, llama_logits(export_float32(source, tmp_path / "m.gguf"), ids)) < 1e-9
    assert mean_kl(expected, transformers_logits(open_source(str(base)), ids)) > 1e-2
    merged = {spec.name for spec in source.tensors() if spec.stored == "F32"}
    assert "blk.0.attn_q.weight" in merged


def test_the_hash_covers_the_adapter_and_the_command_takes_it(tmp_path: Path) -> None:
    base = cached_model("llama")
    one, two = (save(tmp_path / name, low_rank()) for name in ("one", "two"))
    plain = open_source(str(base)).content_hash
    hashes = {plain, *(open_source(str(base), lora=path).content_hash for path in (one, two))}
    assert len(hashes) == 3
    assert open_source(str(base), lora=one).content_hash in hashes
    planned = run("plan", base, "--lora", one, "--budget", "4", "--metric", "first", "--json")
    assert json.loads(planned.stdout)["model_hash"] == open_source(str(base), lora=one).content_hash, planned.stderr
    assert_refused(run("plan", base, "--lora", tmp_path / "none", "--budget", "4"), "adapter_config.json")


def test_an_adapter_of_another_model_that_fits_is_noted(tmp_path: Path) -> None:
    base = cached_model("llama")
    adapter = save(tmp_path / "adapter", low_rank(), base_model_name_or_path="org/other")
    (note,) = open_source(str(base), lora=adapter).warnings
    assert "org/other" in note
    adapter = save(tmp_path / "adapter", low_rank(), base_model_name_or_path=f"org/{base.name}")
    assert open_source(str(base), lora=adapter).warnings == ()


Q = "base_model.model.model.layers.0.self_attn.q_proj"
PAIR = {f"{Q}.lora_A.weight": np.ones((4, 64), np.float32), f"{Q}.lora_B.weight": np.ones((64, 4), np.float32)}
EMBEDDING = "base_model.model.model.embed_tokens"


@pytest.mark.parametrize(
    ("weights", "config", "message"),
    [
        (PAIR, {"use_dora": True}, "uses use_dora"),
        (PAIR, {"init_lora_weights": "pissa_niter_4"}, "pissa"),
        (PAIR, {"peft_type": "LOHA"}, "kind LOHA"),
        (PAIR, {"target_parameters": ["mlp.experts"]}, "target_parameters"),
        (PAIR, {"r": "x"}, "makes no sense"),
        (PAIR, {"r": 8}, "rank 8 .* holds rank 4"),
        (PAIR, {"r": 0}, "rank|makes no sense"),
        (PAIR, {"rank_pattern": {"(": 4}}, "makes no sense"),
        ({**PAIR, f"{Q}.lora_magnitude_vector": np.ones(64, np.float32)}, {}, "lora_magnitude_vector"),
        ({f"{EMBEDDING}.lora_embedding_A": np.ones((4, 512), np.float32)}, {}, "lora_embedding_A"),
        ({f"{EMBEDDING}.weight": np.ones((520, 64), np.float32)}, {}, "from 512 to 520 tokens"),
        ({f"{Q.replace('layers.0', 'layers.7')}.lora_A.weight": np.ones((4, 64), np.float32)}, {}, "does not have"),
        ({f"{Q}.lora_A.weight": np.ones((4, 64), np.float32)}, {}, "no pair"),
        ({**PAIR, f"{Q}.lora_B.weight": np.ones((96, 4), np.float32)}, {}, r"shape \(96, 64\)"),
        ({"other.weight": np.ones(4, np.float32)}, {}, r"other\.weight"),
    ],
)
def test_what_cannot_be_merged_is_refused(
    tmp_path: Path, weights: dict[str, F], config: dict[str, Any], message: str
) -> None:
    adapter = save(tmp_path / "adapter", weights, **{"rank_pattern": {}, **config})
    with pytest.raises(InputError, match=message) as caught:
        open_source(str(cached_model("llama", tied=False)), lora=adapter)
    assert "\n" not in str(caught.value)


def test_tied_embeddings_are_not_parted(tmp_path: Path) -> None:
    for name in (f"{EMBEDDING}.weight", "base_model.model.lm_head.weight"):
        adapter = save(tmp_path / "adapter", {name: np.ones((512, 64), np.float32)})
        with pytest.raises(InputError, match="one matrix"):
            open_source(str(cached_model("llama", tied=True)), lora=adapter)


def test_matrices_that_the_model_keeps_turned() -> None:
    from lieq_edge.sources.weights.lora import Adapter, _Factors

    class Stored:
        def __init__(self, array: F) -> None:
            self.array = array

        def read(self) -> F:
            return self.array

    a, b = RNG.standard_normal((2, 5)).astype(np.float32), RNG.standard_normal((3, 2)).astype(np.float32)
    factors: Any = _Factors(Stored(a), Stored(b), 0.5)  # type: ignore[arg-type]
    merged = Adapter(Path("x"), transposed=True, factors={"w": factors}).merge("w", np.zeros((5, 3), np.float32))
    assert np.allclose(merged, 0.5 * (b @ a).T)


@pytest.mark.parametrize("pattern", ["(a+)+", "(.*)*x", r"(q|q)\1", ".*.*.*x", "(?=.*)q_proj", "x" * 3000])
def test_patterns_that_could_match_for_ever_are_refused(tmp_path: Path, pattern: str) -> None:
    adapter = save(tmp_path / "adapter", PAIR, rank_pattern={pattern: 4})
    with pytest.raises(InputError, match="which could take for ever to match"):
        open_source(str(cached_model("llama")), lora=adapter)


@pytest.mark.parametrize(
    "pattern", ["q_proj", r"layers\.0\.self_attn\.q_proj", r".*\.(q|k)_proj", r"layers\.[0-9]+\..*"]
)
def test_patterns_as_peft_writes_them_are_matched(tmp_path: Path, pattern: str) -> None:
    adapter = save(tmp_path / "adapter", PAIR, r=2, rank_pattern={pattern: 4})
    assert open_source(str(cached_model("llama")), lora=adapter).n_blocks == 2
