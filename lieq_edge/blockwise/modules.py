"""A transformers model without weights, in which some modules are replaced by ones with the tensors of GGUF.

Importing this module imports those of transformers, which takes seconds.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.granitemoe.modeling_granitemoe import GraniteMoeExperts
from transformers.models.mixtral.modeling_mixtral import MixtralExperts
from transformers.models.olmoe.modeling_olmoe import OlmoeExperts
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts
from transformers.models.stablelm.modeling_stablelm import StableLmLayerNormPerHead
from transformers.pytorch_utils import Conv1D

from ..errors import InputError
from ..system.memory import is_memory_error
from .attention import NAME, register
from .layers import Experts, HeadNorms

_EXPERTS = (GraniteMoeExperts, MixtralExperts, OlmoeExperts, Qwen3MoeExperts)


def empty_model(config: dict[str, Any]) -> Any:
    """The transformers causal LM of a configuration, parameters on the meta device, rotary tables computed.

    Raises:
        InputError: transformers does not know the model type, or cannot build it with these settings.
    """
    register()
    # Weights are float32, however they are stored. A copy, because transformers fills in the settings that it receives.
    fields = copy.deepcopy({key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")})
    kind = fields.pop("model_type", None)
    if kind not in CONFIG_MAPPING:
        raise InputError(f"transformers does not know the model type {kind!r}; update transformers or choose another.")
    try:
        settings = CONFIG_MAPPING[kind](**fields)
        # Only transformers' own attention supports capped scores.
        attention = "eager" if getattr(settings, "attn_logit_softcapping", None) else NAME
        with _EmptyOnMeta():
            model = AutoModelForCausalLM.from_config(settings, attn_implementation=attention)
    except Exception as error:  # settings of a wrong type raise anything
        if is_memory_error(error):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"transformers cannot build a {kind!r} language model from its settings ({reason}); fix config.json."
        ) from error
    return model.float().eval().requires_grad_(False)


class _EmptyOnMeta(TorchFunctionMode):
    """Puts uninitialised tensors on the meta device.

    These are the parameters, which the source provides later; rotary tables and scales are computed as usual.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def replace_modules(model: nn.Module) -> set[str]:
    """Replace modules by ones that compute the same from the tensors of GGUF.

    ``Conv1D`` (GPT-2), whose matrix is ``(columns, rows)``, becomes a linear. StableLM's list of norms, one per head,
    becomes one module. Experts, whose gates and up-projections are one parameter in transformers, become three modules,
    whose calls show which expert receives which tokens.

    Args:
        model: a model on the meta device.

    Returns:
        Names of the matrices that are transposed.
    """
    transposed = set()
    for name, module in list(model.named_modules()):
        if isinstance(module, Conv1D):
            columns, rows = module.weight.shape
            _replace(model, name, nn.Linear(columns, rows, device="meta"))
            transposed.add(f"{name}.weight")
        elif isinstance(module, StableLmLayerNormPerHead):
            _replace(model, name, HeadNorms(module.num_heads, module.dim, module.norms[0].eps))
        elif isinstance(module, _EXPERTS):
            sizes = (module.num_experts, module.hidden_dim, module.intermediate_dim)
            _replace(model, name, Experts(*sizes, module.act_fn))
    return transposed


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent_name, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent_name), attribute, module.requires_grad_(False))
