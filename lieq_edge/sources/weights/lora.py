"""LoRA adapters as PEFT saves them, merged into the weights as these are read: ``W + scale * B A``.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (ICLR 2022), Eq. 3; ``scale`` is alpha / r, or
alpha / sqrt(r) with rank-stabilised LoRA (Kalajdzievski 2023).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ..base import Array
from ..checks import check_finite, hash_files
from ..kinds import is_mlx_adapter
from ..plain_files import is_plain_file, read_json
from .safetensors_files import StoredWeights, read_index

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

# Settings that do not change how a finished adapter is merged.
_HARMLESS = frozenset(
    (
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_alpha",
        "lora_dropout",
        "megatron_core",
        "modules_to_save",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "rank_pattern",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "use_rslora",
    )
)
# Patterns that repeat a group, look around or back, or repeat much, can make the matcher try without end.
_REPEATED_GROUP = re.compile(r"\)\s*[*+?{]|\(\?|\\[0-9]")
_REPEAT = re.compile(r"(?<!\\)[*+{]")
_MOST_REPEATS, _LONGEST, _MODULE = 2, 2000, 120
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<part>[AB])(?:\.default)?\.weight")
_SAVED = re.compile(r"base_model\.model\.(?P<name>.+)")
_TEXT_PREFIX = re.compile(r"^(language_model\.model|model\.language_model|model\.text_model)\.")


@dataclass
class _Factors:
    a: StoredWeights | None = None
    b: StoredWeights | None = None
    scale: float = 0.0


@dataclass
class Adapter:
    """An adapter that fits a model.

    Attributes:
        directory: directory of its files.
        transposed: the model stores its matrices as ``(inputs, outputs)`` (``fan_in_fan_out``).
        factors: A ``(r, inputs)`` and B ``(outputs, r)`` by the name of the weight they change.
        replaced: parameters that were trained as a whole (``modules_to_save``, biases).
        base: name of the model that the adapter was made for, where it is stated.
    """

    directory: Path
    transposed: bool = False
    factors: dict[str, _Factors] = field(default_factory=dict)
    replaced: dict[str, StoredWeights] = field(default_factory=dict)
    base: str | None = None

    @property
    def changed(self) -> set[str]:
        """Names of the parameters that the adapter changes."""
        return set(self.factors) | set(self.replaced)

    def merge(self, name: str, array: Array) -> Array:
        """A parameter with the adapter merged in.

        Args:
            name: transformers name of the parameter.
            array: the model's values of it.

        Raises:
            InputError: the adapter's weights hold NaN or Inf.
        """
        label = str(self.directory)
        if name in self.replaced:
            array = self.replaced[name].read()
            check_finite(array, name, label)
        if name in self.factors:
            factors = self.factors[name]
            assert factors.a is not None  # both were found when the adapter was opened
            assert factors.b is not None
            delta = factors.b.read() @ factors.a.read()
            check_finite(delta, name, label)
            delta *= np.float32(factors.scale)
            array = array + (delta.T if self.transposed else delta)
        return array

    @property
    def files(self) -> tuple[Path, ...]:
        """The adapter's files."""
        return self.directory / CONFIG_FILE, self.directory / WEIGHTS_FILE

    def content_hash(self) -> str:
        """SHA-256 (hex) over the adapter's files."""
        return hash_files([*self.files])

    def warnings(self, model: str) -> tuple[str, ...]:
        """A note when the adapter was made for a model of another name than ``model``."""
        names = [name.rstrip("/").rpartition("/")[2].lower() for name in (self.base or "", model)]
        if self.base and names[0] != names[1]:
            return (f"The adapter {self.directory} was made for {self.base}; its shapes fit {model}, so it is merged.",)
        return ()


@dataclass(frozen=True)
class _Model:
    shapes: dict[str, tuple[int, ...]]
    outer: frozenset[str]
    tied: bool
    label: str


def open_adapter(
    directory: Path, shapes: dict[str, tuple[int, ...]], *, outer: frozenset[str], tied: bool, label: str
) -> Adapter:
    """Open the adapter in ``directory`` for a model; only headers are read.

    Args:
        directory: directory with adapter_config.json and adapter_model.safetensors.
        shapes: shapes of the model's parameters by transformers name.
        outer: names of the token embedding and the head, whether the model has both or not.
        tied: whether the model's head is its token embedding.
        label: the model's name, for messages.

    Raises:
        InputError: a file is missing or damaged, or the adapter cannot be merged into this model.
    """
    config = _read_config(directory)
    try:
        return _open(directory, config, _Model(shapes, outer, tied, label))
    except (TypeError, ValueError, AttributeError, KeyError, re.error, ZeroDivisionError) as error:
        raise InputError(f"{directory / CONFIG_FILE} makes no sense ({error}); fetch the adapter again.") from error


def _open(directory: Path, config: dict[str, Any], model: _Model) -> Adapter:
    stored = read_index([directory / WEIGHTS_FILE])
    adapter = Adapter(directory, bool(config.get("fan_in_fan_out")), base=config.get("base_model_name_or_path"))
    for key, weights in stored.items():
        match, saved = _KEY.fullmatch(key), _SAVED.fullmatch(key)
        if match:
            name = _plain(match["module"]) + ".weight"
            factors = adapter.factors.setdefault(name, _Factors(scale=_scale(config, match["module"])))
            if match["part"] == "A":
                factors.a = weights
            else:
                factors.b = weights
        elif saved and ".lora_" not in key:
            name = re.sub(r"\.modules_to_save(\.default)?\.", ".", saved["name"])
            adapter.replaced[_plain(name.replace(".base_layer.", "."))] = weights
        else:
            raise InputError(
                f"The adapter {directory} holds {key}, which cannot be merged here; merge it with peft "
                "(merge_and_unload) and give the merged model."
            )
    if not adapter.changed:
        raise InputError(f"The adapter {directory} holds no weights; give another.")
    _check_shapes(adapter, config, model)
    if model.tied and adapter.changed & model.outer:
        raise InputError(
            f"The adapter {directory} changes the embedding or the head of {model.label}, which are one matrix "
            "there and would be two after; merge it with peft (merge_and_unload) and give the merged model."
        )
    return adapter


def _check_shapes(adapter: Adapter, config: dict[str, Any], model: _Model) -> None:
    directory = adapter.directory
    for name in sorted(adapter.changed):
        if name not in model.shapes and name not in model.outer:
            raise InputError(
                f"The adapter {directory} changes {name}, which {model.label} does not have; give the model it "
                f"was made for ({adapter.base or 'it does not say which'})."
            )
        if name in adapter.factors:
            a, b = adapter.factors[name].a, adapter.factors[name].b
            if a is None or b is None or len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
                raise InputError(f"The adapter {directory} has no pair of matrices for {name}; fetch it again.")
            rank = _of_pattern(config.get("rank_pattern") or {}, name.removesuffix(".weight"), config["r"])
            if rank != a.shape[0]:
                raise InputError(
                    f"The adapter {directory} says rank {rank} for {name} and holds rank {a.shape[0]}; fetch it again."
                )
            shape = (b.shape[0], a.shape[1])
            _check_shape(adapter, name, shape[::-1] if adapter.transposed else shape, model)
        if name in adapter.replaced:
            _check_shape(adapter, name, adapter.replaced[name].shape, model)


def _check_shape(adapter: Adapter, name: str, shape: tuple[int, ...], model: _Model) -> None:
    expected = model.shapes.get(name)
    if expected is None or shape == expected:
        return
    if name in model.outer:
        raise InputError(
            f"The adapter {adapter.directory} resizes the vocabulary from {expected[0]} to {shape[0]} tokens; merge it "
            "with peft (resize_token_embeddings, merge_and_unload) and give the merged model."
        )
    raise InputError(
        f"The adapter {adapter.directory} has shape {shape} for {name}, and {model.label} has {expected}; give the "
        "model it was made for."
    )


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / CONFIG_FILE
    if is_mlx_adapter(directory):
        raise InputError(
            f"{directory} is an adapter of mlx-lm, not of PEFT, which is what --lora merges; merge it with "
            "mlx_lm.fuse and give the merged model."
        )
    try:
        config = read_json(path)
    except FileNotFoundError as error:
        raise InputError(f"{directory} holds no {CONFIG_FILE}; give the directory of a PEFT adapter.") from error
    if not is_plain_file(directory / WEIGHTS_FILE):
        raise InputError(f"{directory} holds no {WEIGHTS_FILE}; save the adapter as safetensors.")
    kind = config.get("peft_type")
    if kind != "LORA":
        raise InputError(
            f"The adapter {directory} is of the kind {kind}, and only LORA is merged; give the merged model."
        )
    refused = [name for name, value in config.items() if name not in _HARMLESS and value]
    if config.get("init_lora_weights") not in _PLAIN_STARTS:
        # PiSSA, OLoRA, LoftQ and others change the base weights too when they start.
        refused.append(f"init_lora_weights={config['init_lora_weights']}")
    if refused:
        raise InputError(
            f"The adapter {directory} uses {', '.join(refused)}, which is not merged here; merge it with peft "
            "(merge_and_unload) and give the merged model."
        )
    return config


def _scale(config: dict[str, Any], module: str) -> float:
    rank = _of_pattern(config.get("rank_pattern") or {}, module, config["r"])
    alpha = _of_pattern(config.get("alpha_pattern") or {}, module, config["lora_alpha"])
    return float(alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank)


def _of_pattern(patterns: dict[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that the end of a module's name matches (peft's ``get_pattern_key``).

    Raises:
        InputError: a pattern could take for ever.
    """
    for pattern, value in patterns.items():
        repeats = len(_REPEAT.findall(pattern))
        if len(pattern) > _LONGEST or repeats > _MOST_REPEATS or _REPEATED_GROUP.search(pattern):
            raise InputError(
                f"The adapter has the pattern {pattern[:80]!r} in its {CONFIG_FILE}, which could take for ever to "
                "match; merge the adapter with peft (merge_and_unload) and give the merged model."
            )
        if re.match(rf"(.*\.)?({pattern})$", module[-_MODULE:]):
            return value
    return default


def _plain(name: str) -> str:
    """The name that a parameter has in a model of text only."""
    return _TEXT_PREFIX.sub("model.", name).replace("language_model.lm_head.", "lm_head.")
