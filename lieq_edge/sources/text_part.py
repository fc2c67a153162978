"""The language model inside checkpoints that also see or hear, e.g. ``Gemma3ForConditionalGeneration``.

For text alone the position ids of multimodal rope (Qwen-VL's ``mrope``) are all equal, which is ordinary rope: the text
part is a plain model of its family.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from ..errors import InputError
from ..system.memory import is_memory_error

T = TypeVar("T")

_TEXT_TYPES = {
    "gemma3": "gemma3_text",
    "qwen2_vl": "qwen2",
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen3_vl": "qwen3",
    "qwen3_vl_text": "qwen3",
}
"""Text families by ``model_type`` where the text part does not bear its own name."""

_PARTS = ("vision_config", "audio_config")
_CARRIED = ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "quantization_config", "dtype")
_EMBEDDING = "embed_tokens.weight"
_HEADS = ("lm_head.weight", "language_model.lm_head.weight", "model.lm_head.weight")


def has_text_part(config: dict[str, Any]) -> bool:
    """True for the configuration of a model that has a language model as one of its parts."""
    return isinstance(config.get("text_config"), dict) or any(config.get(part) for part in _PARTS)


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the language model in ``config``, which is ``config`` itself for a plain model.

    Settings that the file leaves out get transformers' defaults, because multimodal checkpoints state little more than
    what differs from them.

    Raises:
        InputError: the part cannot be understood.
    """
    if not has_text_part(config):
        return config
    from transformers.models.auto import configuration_auto, modeling_auto

    classes: Mapping[str, Any] = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    outer = config.get("model_type")
    # Older files have the text part's settings beside those of the vision part.
    inner = config.get("text_config") or {key: value for key, value in config.items() if key not in _PARTS}
    declared = str(inner.get("model_type") or _TEXT_TYPES.get(str(outer), outer))
    kind = _TEXT_TYPES.get(declared, declared)
    if kind not in configuration_auto.CONFIG_MAPPING or kind not in classes:
        # A family that is not read is refused by whoever asks for it.
        return {**inner, "model_type": kind, "architectures": config.get("architectures")}
    values = {key: value for key, value in inner.items() if key not in ("model_type", "architectures")}
    for name in ("rope_scaling", "rope_parameters"):
        values[name] = _plain_rope(values.get(name))
        if values[name] is None:
            del values[name]
    try:
        full: dict[str, Any] = configuration_auto.CONFIG_MAPPING[kind](**values).to_dict()
    except Exception as error:  # transformers' checks raise errors of several kinds
        if is_memory_error(error):
            raise
        raise InputError(f"The text part of the configuration cannot be read ({error}); fetch it again.") from error
    full |= {key: config[key] for key in _CARRIED if config.get(key) is not None}
    full |= {"model_type": kind, "architectures": [classes[kind]]}
    return {key: value for key, value in full.items() if value is not None}


def _plain_rope(settings: Any) -> Any:
    """Rope settings without the sections of multimodal rope, which make no difference for text."""
    if not isinstance(settings, dict) or "mrope_section" not in settings:
        return settings
    rest = {key: value for key, value in settings.items() if not key.startswith("mrope")}
    for name in ("type", "rope_type"):
        if rest.get(name) in ("mrope", "default"):
            del rest[name]
    return rest or None


def text_names(stored: Mapping[str, T], label: str) -> tuple[dict[str, T], int]:
    """The language model's tensors under the names of a plain model, and the number of the others.

    Raises:
        InputError: no language model, or more than one, is in the checkpoint.
    """
    prefixes = [name[: -len(_EMBEDDING)] for name in stored if name.endswith("." + _EMBEDDING) or name == _EMBEDDING]
    if len(prefixes) != 1:
        raise InputError(
            f"{label} holds {len(prefixes)} token embeddings, and one language model has one; choose another model."
        )
    (prefix,) = prefixes
    text = {"model." + name[len(prefix) :]: item for name, item in stored.items() if name.startswith(prefix)}
    # Where the parts lie side by side, the prefix of the language model is that of the whole.
    text = {name: item for name, item in text.items() if not name.startswith(("model.visual.", "model.vision"))}
    head = next((name for name in _HEADS if name in stored), None)
    if head is not None:
        text["lm_head.weight"] = stored[head]
    return text, len(stored) - len(text)
