"""Run one model in llama.cpp and in transformers, for tests that compare the two."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lieq_edge.gguf.container import file_bytes, write_container
from lieq_edge.gguf.types import TYPES
from lieq_edge.sources import Source

Logits = npt.NDArray[np.float64]


def export_float32(source: Source, path: Path, type_name: str = "F32") -> Path:
    """Write ``source`` unquantised; 2-D tensors in ``type_name``."""
    entries = [(t.name, t.shape, TYPES[type_name if len(t.shape) == 2 else "F32"]) for t in source.tensors()]

    def encoded(name: str, kind: str) -> bytes:
        array = source.read(name)
        if kind == "BF16":
            return ((array.view(np.uint32) + 0x8000) >> 16).astype(np.uint16).tobytes()
        return array.astype({"F32": np.float32, "F16": np.float16}[kind]).tobytes()

    metadata = source.metadata()
    write_container(path, source.architecture, metadata, entries, (encoded(n, k.name) for n, _, k in entries))
    assert path.stat().st_size == file_bytes(metadata, entries)
    return path


@dataclass(frozen=True)
class Run:
    """What one implementation computes for some prompts.

    Attributes:
        logits: ``(T, vocabulary)`` of each prompt.
        greedy: the tokens that follow each when the likeliest is taken every time.
    """

    logits: list[Logits]
    greedy: list[list[int]]


def llama_run(path: Path, prompts: list[list[int]], new: int = 0) -> Run:
    """Run llama.cpp with a key-value cache in float32; ``new`` tokens follow each prompt."""
    from llama_cpp import Llama

    n = max(map(len, prompts)) + new
    model = Llama(
        str(path), n_ctx=n, n_batch=n, n_threads=1, logits_all=True, verbose=False, type_k=0, type_v=0, flash_attn=False
    )
    logits, greedy = [], []
    for ids in prompts:
        model.reset()
        model.eval(ids)
        logits.append(np.array(model.scores[: len(ids)], np.float64))
        tokens: list[int] = []
        for place in range(len(ids), len(ids) + new):
            tokens.append(int(model.scores[place - 1].argmax()))
            model.eval(tokens[-1:])
        greedy.append(tokens)
    model.close()
    return Run(logits, greedy)


def llama_logits(path: Path, ids: list[int]) -> Logits:
    """Logits ``(T, vocabulary)`` of llama.cpp."""
    return llama_run(path, [ids]).logits[0]


def transformers_run(
    directory: Path, prompts: list[list[int]], new: int = 0, *, gelu_table: bool = False, ends: bool = False
) -> Run:
    """Run transformers' own loading of a directory; ``new`` tokens follow each prompt, or fewer where it ``ends``.

    With ``gelu_table`` the MLP's GELU is ggml's, which looks it up by a half-precision number in a table of such
    (``ggml_table_gelu_f16``).
    """
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype="float32", attn_implementation="eager").eval()
    if gelu_table:
        for block in model.model.layers:
            block.mlp.act_fn.forward = _table_gelu
    logits, greedy = [], []
    with torch.no_grad():
        for ids in prompts:
            row = torch.tensor([ids])
            logits.append(model(row).logits[0].double().numpy())
            if new:
                options = {} if ends else {"eos_token_id": None}
                row = model.generate(
                    row, attention_mask=torch.ones_like(row), do_sample=False, max_new_tokens=new, **options
                )
            greedy.append(row[0, len(ids) :].tolist())
    return Run(logits, greedy)


def transformers_logits(source: Source, ids: list[int]) -> Logits:
    """Logits ``(T, vocabulary)`` of the transformers model that ``config`` and ``to_hf`` describe."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    config = {key: value for key, value in source.config().items() if key != "torch_dtype"}
    kind = config.pop("model_type")
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**config), attn_implementation="eager")
    missing, unexpected = model.load_state_dict(hf_parameters(source), strict=False)
    assert not unexpected
    assert missing == (["lm_head.weight"] if config["tie_word_embeddings"] else [])
    model.float().eval().tie_weights()
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].double().numpy()


def _table_gelu(x: Any) -> Any:
    import torch

    rounded = x.half().float()
    values = torch.nn.functional.gelu(rounded, approximate="tanh").half().float()
    return torch.where(x.abs() < 10, values, x.clamp_min(0))


def hf_parameters(source: Source) -> dict:
    """All transformers parameters of ``source`` as torch tensors."""
    import torch

    found = {}
    for spec in source.tensors():
        name = source.hf_name(spec.name)
        if name is not None:
            found[name] = torch.from_numpy(np.array(source.to_hf(spec.name, source.read(spec.name))))
    for name in [name for name in found if name.endswith("_layernorm.weight") and found[name].ndim == 2]:
        # StableLM: transformers has a norm for each head.
        for head, weight in enumerate(found.pop(name)):
            found[name.replace(".weight", f".norms.{head}.weight")] = weight
    for name in [name for name in found if name.endswith("experts.gate_proj.weight")]:
        # transformers keeps gates and up-projections of the experts together.
        pair = [found.pop(name), found.pop(name.replace("gate", "up"))]
        found[name.replace("gate_proj.weight", "gate_up_proj")] = torch.cat(pair, dim=1)
        down = name.replace("gate_proj", "down_proj")
        found[down.removesuffix(".weight")] = found.pop(down)
    return found


def mean_kl(reference: Logits, other: Logits) -> float:
    """Mean KL divergence in nats a token."""
    p, q = (x - np.logaddexp.reduce(x, axis=-1, keepdims=True) for x in (reference, other))
    return float((np.exp(p) * (p - q)).sum(-1).mean())
