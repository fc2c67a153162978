"""The model families that can be read, one file each."""

from __future__ import annotations

from typing import Any

from ...errors import InputError
from ..kinds import check_class
from .base import COMPUTED, Dims, Family
from .experts import ExpertFamily
from .gemma import Gemma, Gemma2, Gemma3
from .gpt2 import Gpt2
from .granite import Granite
from .granitemoe import GraniteMoe
from .llama import Llama
from .mistral import Mistral
from .mixtral import Mixtral
from .olmo2 import Olmo2
from .olmoe import Olmoe
from .phi3 import Phi3
from .qwen2 import Qwen2
from .qwen3 import Qwen3
from .qwen3_moe import Qwen3Moe
from .smollm3 import SmolLM3
from .stablelm import StableLm

__all__ = ["COMPUTED", "FAMILIES", "Dims", "Family", "family_of_architecture", "family_of_config"]

_ALL = (
    Llama(),
    Mistral(),
    Qwen2(),
    Qwen3(),
    Gemma(),
    Gemma2(),
    Gemma3(),
    Phi3(),
    SmolLM3(),
    Granite(),
    Olmo2(),
    StableLm(),
    Gpt2(),
    Qwen3Moe(),
    Olmoe(),
    GraniteMoe(),
    Mixtral(),
)

FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}
"""By ``model_type`` of transformers."""

_OF_ARCHITECTURE = {family.architecture: family for family in FAMILIES.values() if family.reads_gguf}

_EXPERT_KEYS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


def family_of_config(config: dict[str, Any], label: str) -> Family:
    """The family of a transformers configuration.

    Raises:
        InputError: it is a mixture of experts, or of another family.
    """
    kind = config.get("model_type")
    names = config.get("architectures") or []
    family = FAMILIES.get(str(kind))
    mixture = "moe" in str(kind) or kind == "mixtral" or any((config.get(key) or 0) > 1 for key in _EXPERT_KEYS)
    if mixture and not isinstance(family, ExpertFamily):
        raise _mixture(label, str(kind))
    if family is None:
        raise _unknown(label, str(kind))
    check_class(map(str, names), label)
    if names and not {family.class_name, family.body_name} & set(names):
        raise _unknown(label, str(names[0]))
    return family


def family_of_architecture(architecture: str, experts: int) -> Family | None:
    """The family of a GGUF file, or None.

    Args:
        architecture: ``general.architecture``.
        experts: ``expert_count``, 0 where the file has none.
    """
    family = _OF_ARCHITECTURE.get(architecture)
    return None if experts > 1 and not isinstance(family, ExpertFamily) else family


def _supported() -> str:
    titles = [family.title for family in FAMILIES.values()]
    return ", ".join(titles[:-1]) + " and " + titles[-1]


def _mixture(label: str, name: str) -> InputError:
    return InputError(
        f"{label} is a mixture of experts ({name}) that lieq-edge does not read from safetensors; convert it with "
        f"llama.cpp's convert_hf_to_gguf.py and give the GGUF file, or choose a model of {_supported()}."
    )


def _unknown(label: str, name: str) -> InputError:
    return InputError(
        f"{label} is of the architecture {name}, which lieq-edge does not read from safetensors; convert it to an "
        f"F16 GGUF file with llama.cpp's convert_hf_to_gguf.py and give that, or choose a model of {_supported()}."
    )
