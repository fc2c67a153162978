"""What a directory is, where it is not a language model with plain weights: every refusal names the thing itself."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from .plain_files import is_plain_file, read_json

ADAPTER_CONFIG = "adapter_config.json"
_MODULES = "modules.json"
_FLOATS = ("F32", "F16", "BF16")
_HINT = "give the unquantised model, or a GGUF file of this one"

_CLASSES = (
    ("ForSequenceClassification", "a classifier of texts"),
    ("ForTokenClassification", "a classifier of tokens"),
    ("ForQuestionAnswering", "a model that marks answers in a text"),
    ("ForMaskedLM", "an encoder that fills gaps"),
    ("ForRewardModel", "a reward model"),
)

# Endings of tensor names that only one way of quantising leaves, the telling ones first.
_ENDINGS = (
    ("bitsandbytes", re.compile(r"\.quant_state\.bitsandbytes__|\.weight\.(absmax|quant_map|nested_absmax)$|\.SCB$")),
    ("GPTQ", re.compile(r"\.g_idx$")),
    ("AWQ or GPTQ", re.compile(r"\.qweight$")),
    ("compressed-tensors", re.compile(r"\.weight_packed$")),
    ("FP8", re.compile(r"\.weight_scale(_inv)?$")),
    ("MLX", re.compile(r"\.scales$")),
)


def check_directory(directory: Path, label: str) -> None:
    """Refuse a directory whose files say that it is something else than a language model.

    Args:
        directory: the model's.
        label: the model's name, for messages.

    Raises:
        InputError: it is an adapter, or an embedding model.
    """
    if not is_plain_file(directory / "config.json") and is_plain_file(directory / ADAPTER_CONFIG):
        raise InputError(_adapter(directory, label))
    if is_plain_file(directory / _MODULES):
        raise InputError(
            f"{label} is an embedding model (it has a {_MODULES} of sentence-transformers), which writes no text; "
            "choose a language model."
        )


def check_quantisation(config: Mapping[str, Any], label: str) -> None:
    """Refuse a configuration that says that its weights are quantised.

    Raises:
        InputError: it does.
    """
    settings = config.get("quantization_config") or config.get("quantization")
    if not settings:
        return
    settings = settings if isinstance(settings, dict) else {}
    method = settings.get("quant_method")
    if not method:
        bits_and_bytes = any(settings.get(key) for key in ("load_in_4bit", "load_in_8bit"))
        method = "bitsandbytes" if bits_and_bytes else "MLX" if "group_size" in settings else "unknown"
    raise InputError(f"{label} is already quantised ({_title(str(method))}); {_HINT}.")


def check_stored(types: Mapping[str, str], needed: Collection[str], label: str) -> None:
    """Refuse quantised weights whose configuration does not say so, and numbers that are not read.

    Args:
        types: safetensors' names of the types, by name of the tensor.
        needed: names of the model's parameters.
        label: the model's name, for messages.

    Raises:
        InputError: a tensor shows it.
    """
    for method, ending in _ENDINGS:
        name = next((name for name in types if ending.search(name)), None)
        if name is not None:
            raise InputError(f"{label} is already quantised ({method}, by its tensor {name}); {_HINT}.")
    for name, kind in ((name, kind) for name, kind in types.items() if name in needed):
        if kind == "F64":
            raise InputError(
                f"{label} holds its weights in float64 ({name}), which no inference uses; save it in float32 or "
                "bfloat16 (model.float().save_pretrained) and give that."
            )
        if kind not in _FLOATS:
            raise InputError(
                f"{label} holds weights of type {kind} ({name}); only F32, F16 and BF16 are read: {_HINT}."
            )


def check_class(names: Iterable[str], label: str) -> None:
    """Refuse classes of transformers that are not language models.

    Args:
        names: ``architectures`` of a configuration.
        label: the model's name, for messages.

    Raises:
        InputError: a class is known as something else.
    """
    for name in names:
        for ending, thing in _CLASSES:
            if name.endswith(ending):
                raise InputError(f"{label} is {thing} ({name}), which writes no text; choose a language model.")


def no_head(class_name: str, label: str) -> InputError:
    """The error for a model that was saved without the head that it needs."""
    return InputError(
        f"{label} was saved as {class_name}, which has no output head (lm_head.weight), as embedding models are; give "
        "the whole language model."
    )


def is_mlx_adapter(directory: Path) -> bool:
    """Whether a directory is an adapter of mlx-lm."""
    if not is_plain_file(directory / ADAPTER_CONFIG):
        return is_plain_file(directory / "adapters.safetensors")
    config = read_json(directory / ADAPTER_CONFIG)
    return "peft_type" not in config and ("lora_parameters" in config or "fine_tune_type" in config)


def _adapter(directory: Path, label: str) -> str:
    if is_mlx_adapter(directory):
        return f"{label} is an adapter of mlx-lm, not a model; merge it with mlx_lm.fuse and give the merged model."
    base = read_json(directory / ADAPTER_CONFIG).get("base_model_name_or_path")
    model = base if isinstance(base, str) and base else "the model that it was made for"
    return f"{label} is an adapter, not a model; give {model} and add --lora {label}."


def _title(method: str) -> str:
    return {"gptq": "GPTQ", "awq": "AWQ", "mlx": "MLX"}.get(method, method)
