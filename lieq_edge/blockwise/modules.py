"""A model of transformers without weights, some of its modules replaced by ones that hold what GGUF holds."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import InputError
from .attention import NAME, register


def empty_model(config: dict[str, Any]) -> Any:
    """The transformers causal LM of a configuration, parameters on the meta device, rotary tables computed.

    Raises:
        InputError: transformers has no such model, or cannot build it with these settings.
    """
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    register()
    # Weights are float32 here whatever they are stored in. A copy, for transformers completes what it is given.
    fields = copy.deepcopy({key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")})
    kind = fields.pop("model_type", None)
    if kind not in CONFIG_MAPPING:
        raise InputError(f"transformers does not know the model type {kind!r}; update transformers or choose another.")
    try:
        settings = CONFIG_MAPPING[kind](**fields)
        # Only transformers' own attention caps its scores.
        attention = "eager" if getattr(settings, "attn_logit_softcapping", None) else NAME
        with _EmptyOnMeta():
            model = AutoModelForCausalLM.from_config(settings, attn_implementation=attention)
    except Exception as error:  # settings of a wrong kind raise whatever the code that meets them raises
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"transformers cannot build a {kind!r} language model from its settings ({reason}); mend config.json."
        ) from error
    return model.float().eval().requires_grad_(False)


class _EmptyOnMeta(TorchFunctionMode):
    """Puts uninitialised tensors on the meta device.

    Those are the matrices, which a source fills later; rotary tables and scales are computed as usual.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def replace_modules(model: nn.Module) -> set[str]:
    """Replace modules by ones that compute the same from the parameters that a source offers.

    ``Conv1D`` (GPT-2), which keeps its matrix as ``(columns, rows)``, becomes a linear. StableLM's list of a norm for
    each head becomes one module. Experts, whose gates and up-projections transformers keeps together, become three
    modules of matrices that tell which expert receives what.

    Args:
        model: on the meta device.

    Returns:
        The names of the matrices that are turned.
    """
    from transformers.models.olmoe.modeling_olmoe import OlmoeExperts
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts
    from transformers.models.stablelm.modeling_stablelm import StableLmLayerNormPerHead
    from transformers.pytorch_utils import Conv1D

    turned = set()
    for name, module in list(model.named_modules()):
        if isinstance(module, Conv1D):
            columns, rows = module.weight.shape
            _replace(model, name, nn.Linear(columns, rows, device="meta"))
            turned.add(f"{name}.weight")
        elif isinstance(module, StableLmLayerNormPerHead):
            _replace(model, name, HeadNorms(module.num_heads, module.dim, module.norms[0].eps))
        elif isinstance(module, (Qwen3MoeExperts, OlmoeExperts)):
            sizes = (module.num_experts, module.hidden_dim, module.intermediate_dim)
            _replace(model, name, Experts(*sizes, module.act_fn))
    return turned


class HeadNorms(nn.Module):
    """LayerNorm over each head of ``(n, heads, T, d)``, with weights of each head's own."""

    def __init__(self, heads: int, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(heads, width, device="meta"))
        self._eps = eps

    def forward(self, x: Tensor) -> Tensor:
        normed = nn.functional.layer_norm(x, x.shape[-1:], eps=self._eps)
        return normed * self.weight[:, None]


class ExpertMatrices(nn.Module):
    """One projection of all experts: ``weight`` is ``(experts, rows, columns)``."""

    def __init__(self, experts: int, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, rows, columns, device="meta"))

    def forward(self, x: Tensor, expert: int) -> Tensor:
        """What one expert gives for ``(tokens, columns)``."""
        return nn.functional.linear(x, self.weight[expert])


class Experts(nn.Module):
    """Gated MLPs of which each token visits some, with weights that the router gives."""

    def __init__(self, experts: int, hidden: int, intermediate: int, activation: nn.Module) -> None:
        super().__init__()
        self.gate_proj = ExpertMatrices(experts, intermediate, hidden)
        self.up_proj = ExpertMatrices(experts, intermediate, hidden)
        self.down_proj = ExpertMatrices(experts, hidden, intermediate)
        self._activation = activation

    def forward(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """``(tokens, d)`` for as much, with the experts ``(tokens, visits)`` of each token and their weights."""
        result = torch.zeros_like(hidden)
        for expert in chosen.unique().tolist():
            token, visit = torch.where(chosen == expert)
            x = hidden[token]
            inner = self._activation(self.gate_proj(x, expert)) * self.up_proj(x, expert)
            result = result.index_add(0, token, self.down_proj(inner, expert) * weights[token, visit, None])
        return result


class BelowHead:
    """Stands for the output of a model below its head: hidden states, and nothing else of what may be asked for."""

    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, index: int) -> Tensor:
        return (self.last_hidden_state,)[index]

    def __getattr__(self, name: str) -> None:
        return None


def block_list(inner: nn.Module, n_blocks: int) -> nn.ModuleList:
    """The blocks of a model below its head.

    Raises:
        InputError: there are not ``n_blocks`` of them.
    """
    for module in inner.children():
        if isinstance(module, nn.ModuleList) and len(module) == n_blocks:
            return module
    raise InputError(
        f"The model's configuration does not describe {n_blocks} blocks; its files do not belong together."
    )


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent_name, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent_name), attribute, module.requires_grad_(False))
