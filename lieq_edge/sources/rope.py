"""Rotary position scaling: between transformers' configuration and what llama.cpp reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gguf import GGUFWriter, Keys, RopeScalingType

from ..errors import InputError
from .base import Array

Get = Callable[[str], Any]
"""Gives the value of a GGUF key in which ``{arch}`` stands for the architecture, or None."""


# gguf 0.17 does not name these.
_BETAS = {
    "beta_fast": "{arch}.rope.scaling.yarn_beta_fast",
    "beta_slow": "{arch}.rope.scaling.yarn_beta_slow",
}


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding of a model.

    Attributes:
        theta: base of the frequencies.
        kind: transformers' ``rope_type``.
        parameters: transformers' other parameters of that type.
    """

    theta: float = 10000.0
    kind: str = "default"
    parameters: dict[str, Any] = field(default_factory=dict)

    def to_config(self) -> dict[str, Any]:
        """Entries of a transformers configuration, in the form that all versions read."""
        if self.kind == "default":
            return {"rope_theta": self.theta}
        return {"rope_theta": self.theta, "rope_scaling": {"rope_type": self.kind, **self.parameters}}


def rope_of_config(config: dict[str, Any]) -> Rope:
    """The rotary embedding of a transformers configuration, old form (``rope_scaling``) or new."""
    # Beside rope_scaling transformers does not look at rope_parameters.
    values = dict(config.get("rope_scaling") or config.get("rope_parameters") or {})
    theta = values.pop("rope_theta", None) or config.get("rope_theta") or 10000.0
    old_name = values.pop("type", None)
    kind = values.pop("rope_type", None) or old_name or "default"
    for key in ("original_max_position_embeddings", "partial_rotary_factor"):
        if values.get(key) is None and config.get(key) is not None:
            values[key] = config[key]
    return Rope(float(theta), kind, values)


def check_rope(rope: Rope, label: str, kinds: Sequence[str], *, partial: bool) -> None:
    """Refuse scalings that llama.cpp's graph of a family does not compute.

    Args:
        rope: the rotary embedding.
        label: the model's name, for messages.
        kinds: kinds of scaling that the graph computes.
        partial: whether the graph can leave a part of each head unrotated.

    Raises:
        InputError: the scaling type, or one of its settings, is not supported.
    """
    if rope.kind not in kinds:
        raise InputError(
            f"{label} uses the rope scaling {rope.kind!r}, which llama.cpp does not compute for this family "
            f"(supported: {', '.join(kinds)}); choose another model."
        )
    required = {
        "linear": ["factor"],
        "llama3": ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"],
        "yarn": ["factor"],
        "longrope": ["original_max_position_embeddings"],
    }
    for key in required.get(rope.kind, []):
        if not isinstance(rope.parameters.get(key), (int, float)):
            raise InputError(f"config.json of {label} scales rope by {rope.kind!r} without {key}; complete it.")
    lengths = {name: len(rope.parameters.get(name) or ()) for name in ("long_factor", "short_factor")}
    if rope.kind == "longrope" and (min(lengths.values()) == 0 or len(set(lengths.values())) > 1):
        raise InputError(f"config.json of {label} scales rope by 'longrope' without its two lists; complete it.")
    whole = partial or rope.parameters.get("partial_rotary_factor") in (None, 1, 1.0)
    if not whole or rope.parameters.get("truncate") is False:
        raise InputError(
            f"{label} uses a partial or untruncated rope, which llama.cpp does not compute; choose another model."
        )


def write_rope(rope: Rope, context: int, writer: GGUFWriter) -> None:
    """Write the keys as llama.cpp's converter does (``TextModel.set_gguf_parameters``).

    The attention factor of YaRN goes to ``rope.scaling.attn_factor``, because llama.cpp
    computes ``yarn_attn_factor`` itself and ignores the converter's.
    """
    values = rope.parameters
    if rope.kind == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(values["factor"])
    elif rope.kind == "yarn":
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(values["factor"])
        writer.add_rope_scaling_orig_ctx_len(int(values.get("original_max_position_embeddings") or context))
        ratio = _yarn_attention(values) / _mscale(values["factor"])
        if not math.isclose(ratio, 1.0, rel_tol=1e-7):
            writer.add_rope_scaling_attn_factors(ratio)
        for name, key in _BETAS.items():
            if values.get(name):
                writer.add_float32(key.format(arch=writer.arch), values[name])
    elif rope.kind == "longrope":
        writer.add_rope_scaling_orig_ctx_len(int(values["original_max_position_embeddings"]))
        writer.add_rope_scaling_attn_factors(_longrope_attention(values, context))
    writer.add_rope_freq_base(rope.theta)


def rope_of_keys(get: Get, context: int) -> Rope:
    """The rotary embedding that GGUF keys describe (``llama_model_base::load_hparams``)."""
    theta = shortest(get(Keys.Rope.FREQ_BASE) or 10000.0)
    factor = get(Keys.Rope.SCALING_FACTOR) or get("{arch}.rope.scale_linear") or 1.0
    kind = get(Keys.Rope.SCALING_TYPE) or "linear"
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return Rope(theta)
    values: dict[str, Any] = {"factor": shortest(factor)}
    if kind == "yarn":
        values["original_max_position_embeddings"] = get(Keys.Rope.SCALING_ORIG_CTX_LEN) or context
        if (ratio := get(Keys.Rope.SCALING_ATTN_FACTOR)) is not None:
            values["attention_factor"] = shortest(ratio * _mscale(factor))
        for name, key in _BETAS.items():
            if get(key) is not None:
                values[name] = shortest(get(key))
    return Rope(theta, kind, values)


def llama3_factors(rope: Rope, head_dim: int) -> Array:
    """``rope_freqs.weight`` of Llama-3 scaling, ``(head_dim / 2,)``: the factor of each wavelength.

    Source: transformers' ``_compute_llama3_parameters``, solved for the factor.
    """
    wavelength = 2 * math.pi * rope.theta ** (np.arange(0, head_dim, 2) / head_dim)
    values = rope.parameters
    factor, low, high = values["factor"], values["low_freq_factor"], values["high_freq_factor"]
    ratio = values["original_max_position_embeddings"] / wavelength
    smooth = (ratio - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    return np.where(ratio > high, 1.0, np.where(ratio < low, factor, between)).astype(np.float32)


def rope_of_factors(factors: Array, theta: float, context: int) -> Rope:
    """The transformers scaling whose frequencies are those of ``rope_freqs.weight``.

    Llama-3's four parameters where they give these very factors (of those only the ratios to
    ``low_freq_factor`` matter, which is taken as 1), else LongRoPE with the factors as they are.
    """
    if np.all(factors == 1):
        return Rope(theta)
    top = float(factors.max())
    between = (factors > 1) & (factors < top)
    wavelength = 2 * math.pi * theta ** (np.arange(len(factors)) / len(factors))[between]
    smooth = (1 / factors[between] - 1 / top) / (1 - 1 / top)
    candidates = [(8192.0, 4.0)]  # Llama 3.1 and 3.2
    if len(smooth) >= 1:
        candidates.append((float(round(wavelength[0] * (1 + 3 * smooth[0]))), 4.0))
    if len(smooth) >= 2:
        slope, offset = np.polyfit(1 / wavelength, smooth, 1)
        if offset < 0:
            candidates.append((float(round(-slope / offset)), round(1 - 1 / offset, 4)))
    for original, high in candidates:
        values: dict[str, Any] = {
            "factor": shortest(top),
            "low_freq_factor": 1.0,
            "high_freq_factor": high,
            "original_max_position_embeddings": int(original),
        }
        rope = Rope(theta, "llama3", values)
        if np.allclose(llama3_factors(rope, 2 * len(factors)), factors, rtol=1e-5):
            return rope
    exact = [shortest(factor) for factor in factors]
    values = {
        "factor": 1.0,
        "attention_factor": 1.0,
        "short_factor": exact,
        "long_factor": exact,
        "original_max_position_embeddings": context,
    }
    return Rope(theta, "longrope", values)


def longrope_of_keys(get: Get, long: Array, short: Array, context: int) -> Rope:
    """LongRoPE as keys and the tensors ``rope_factors_long.weight`` and ``rope_factors_short.weight`` describe it."""
    values: dict[str, Any] = {
        "long_factor": [shortest(factor) for factor in long],
        "short_factor": [shortest(factor) for factor in short],
        "original_max_position_embeddings": get(Keys.Rope.SCALING_ORIG_CTX_LEN) or context,
        "attention_factor": shortest(get(Keys.Rope.SCALING_ATTN_FACTOR) or 1.0),
    }
    return Rope(shortest(get(Keys.Rope.FREQ_BASE) or 10000.0), "longrope", values)


def _longrope_attention(values: dict[str, Any], context: int) -> float:
    # As transformers' _compute_longrope_parameters.
    if values.get("attention_factor") is not None:
        return float(values["attention_factor"])
    original = values["original_max_position_embeddings"]
    factor = values.get("factor") or context / original
    return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0


def _mscale(factor: float, scale: float = 1.0) -> float:
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0


def _yarn_attention(values: dict[str, Any]) -> float:
    # As transformers' _compute_yarn_parameters.
    if values.get("attention_factor") is not None:
        return float(values["attention_factor"])
    if values.get("mscale") and values.get("mscale_all_dim"):
        return _mscale(values["factor"], values["mscale"]) / _mscale(values["factor"], values["mscale_all_dim"])
    return _mscale(values["factor"])


def shortest(value: Any) -> float:
    """The decimal number behind a float32: 1e-05 rather than the float32's 9.999999747378752e-06."""
    return float(str(np.float32(value)))
