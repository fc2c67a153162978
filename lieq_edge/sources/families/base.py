"""The base of all families: one decoder with rotary attention and a gated MLP.

A family is one file beside this one: a subclass of ``Family`` that overrides what is special, listed in
``families/__init__.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import gguf
import numpy as np
from gguf import MODEL_ARCH_NAMES, GGUFWriter, Keys

from ...errors import InputError
from ...gguf.names import EMBEDDING, HEAD, block_tensor
from ..base import Array
from ..kinds import check_quantisation
from ..rope import (
    Get,
    Rope,
    check_rope,
    llama3_factors,
    rope_of_config,
    rope_of_factors,
    rope_of_keys,
    shortest,
    write_rope,
)
from ..weights.safetensors_files import StoredWeights

_LARGEST = 2**31 - 1  # ggml counts in signed 32-bit numbers

ROPE_FACTORS = "rope_freqs.weight"
ROPE_LONG = "rope_factors_long.weight"
ROPE_SHORT = "rope_factors_short.weight"
COMPUTED = frozenset({ROPE_FACTORS, ROPE_LONG, ROPE_SHORT})
"""GGUF tensors that are not parameters of transformers: they are computed from the configuration."""


@dataclass(frozen=True)
class Dims:
    """Sizes of a model, from its transformers configuration."""

    hidden: int
    intermediate: int
    blocks: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    tied: bool
    attention_bias: bool
    mlp_bias: bool


class Family:
    """One model family between transformers and GGUF; subclasses override what is special.

    Attributes:
        name: ``model_type`` of transformers.
        title: usual name, for messages.
        class_name: class of transformers.
        arch: gguf's enum.
        reads_gguf: GGUF files of this architecture are read as this family; true for one of several families that
            share an architecture.
        activations: names of transformers for the one activation that llama.cpp's graph has.
        norm_offset: number that llama.cpp's graph wants added to the weights of norms.
        computed_names: names of ``COMPUTED`` that a GGUF file of the family may hold.
        gguf_stems: GGUF names within a block (without suffix) by transformers' where gguf's table is not right.
        default_head_dim: size of a head where the configuration gives none; None is hidden / heads.
        free_head_dim: llama.cpp's graph takes any head size.
        reads_rope_factors: llama.cpp's graph reads ``rope_freqs.weight``.
        rope_kinds: transformers' rope scalings that can be carried over.
        partial_rope: a part of a head may be left unrotated.
        defaults: defaults of transformers that are not the usual ones.
        eps_name: the configuration's name of the number that norms add to the variance.
        eps_key: GGUF's key of that number.
        default_eps: its default.
        ignored_suffixes: endings of names of tensors that checkpoints may hold beside the parameters.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    class_name: ClassVar[str]
    arch: ClassVar[gguf.MODEL_ARCH]
    reads_gguf: ClassVar[bool] = True
    activations: ClassVar[tuple[str, ...]] = ("silu", "swish")
    norm_offset: ClassVar[float] = 0.0
    gguf_stems: ClassVar[dict[str, str]] = {}
    computed_names: ClassVar[frozenset[str]] = frozenset({ROPE_FACTORS})
    default_head_dim: ClassVar[int | None] = None
    free_head_dim: ClassVar[bool] = True
    reads_rope_factors: ClassVar[bool] = False
    rope_kinds: ClassVar[tuple[str, ...]] = ("default", "linear", "yarn", "dynamic")
    partial_rope: ClassVar[bool] = False
    defaults: ClassVar[dict[str, Any]] = {}
    eps_name: ClassVar[str] = "rms_norm_eps"
    eps_key: ClassVar[str] = Keys.Attention.LAYERNORM_RMS_EPS
    default_eps: ClassVar[float] = 1e-6
    ignored_suffixes: ClassVar[tuple[str, ...]] = ()

    @property
    def architecture(self) -> str:
        """GGUF's ``general.architecture``."""
        return str(MODEL_ARCH_NAMES[self.arch])

    @property
    def body_name(self) -> str:
        """transformers' class of the model without its head."""
        return self.class_name.replace("ForCausalLM", "Model").replace("LMHeadModel", "Model")

    def complete(self, config: dict[str, Any]) -> dict[str, Any]:
        """A configuration with ``defaults`` where it says nothing."""
        return {**config, **{key: value for key, value in self.defaults.items() if config.get(key) is None}}

    def stored(self, tensors: Mapping[str, StoredWeights]) -> dict[str, StoredWeights]:
        """Tensors of a checkpoint under the names of ``parameters``."""
        return dict(tensors)

    def dims(self, config: dict[str, Any], label: str) -> Dims:
        """Sizes from a configuration.

        Raises:
            InputError: a size is missing or makes no sense.
        """

        def size(key: str, default: int | None = None) -> int:
            value = config.get(key)
            value = default if value is None else value
            if not isinstance(value, int) or value <= 0:
                raise InputError(f"The configuration of {label} has no valid {key} ({value!r}); complete config.json.")
            if value > _LARGEST:
                raise InputError(
                    f"The configuration of {label} asks for {key} = {value}, and its weights are smaller; the files do "
                    "not belong together."
                )
            return value

        hidden, heads = size("hidden_size"), size("num_attention_heads")
        dims = Dims(
            hidden=hidden,
            intermediate=size("intermediate_size"),
            blocks=size("num_hidden_layers"),
            heads=heads,
            kv_heads=size("num_key_value_heads", heads),
            head_dim=size("head_dim", self.default_head_dim or hidden // heads),
            vocab=size("vocab_size"),
            context=size("max_position_embeddings"),
            tied=bool(config.get("tie_word_embeddings", False)),
            attention_bias=bool(config.get("attention_bias", False)),
            mlp_bias=bool(config.get("mlp_bias", False)),
        )
        if dims.heads % dims.kv_heads:
            raise InputError(
                f"{label} has {heads} attention heads for {dims.kv_heads} key-value heads; fix its configuration."
            )
        if not self.free_head_dim and dims.heads * dims.head_dim != hidden:
            raise InputError(
                f"{label} has heads of {dims.head_dim}, and llama.cpp runs {self.title} only with hidden size / "
                f"heads = {hidden // heads}; choose another model."
            )
        return dims

    def check(self, config: dict[str, Any], label: str) -> None:
        """Refuse settings that llama.cpp's graph of the family does not compute.

        Raises:
            InputError: an activation, a rope scaling or a quantisation that cannot be carried over.
        """
        activation = self.activation(config)
        if activation not in self.activations:
            raise InputError(
                f"{label} uses the activation {activation!r}, and llama.cpp runs {self.title} with "
                f"{self.activations[0]} only; choose another model."
            )
        check_quantisation(config, label)
        check_rope(self.rope(config), label, self.rope_kinds, partial=self.partial_rope)

    def activation(self, config: dict[str, Any]) -> str:
        """Transformers' name of the activation of the MLP."""
        return str(config.get("hidden_act") or self.activations[0])

    def rope(self, config: dict[str, Any]) -> Rope:
        """The rotary embedding of a configuration."""
        return rope_of_config(config)

    def parameters(self, dims: Dims) -> dict[str, tuple[int, ...]]:
        """Names and shapes of all transformers parameters, in the order in which they are written."""
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (dims.vocab, dims.hidden)}
        for i in range(dims.blocks):
            for name, shape in self.block_parameters(dims).items():
                shapes[f"model.layers.{i}.{name}"] = shape
        shapes["model.norm.weight"] = (dims.hidden,)
        if not dims.tied:
            shapes["lm_head.weight"] = (dims.vocab, dims.hidden)
        return shapes

    def block_parameters(self, dims: Dims) -> dict[str, tuple[int, ...]]:
        """Names (within a block) and shapes of one block's parameters."""
        query, key = dims.heads * dims.head_dim, dims.kv_heads * dims.head_dim
        attention = {"q": (query, dims.hidden), "k": (key, dims.hidden), "v": (key, dims.hidden)}
        attention["o"] = (dims.hidden, query)
        mlp = {"gate": (dims.intermediate, dims.hidden), "up": (dims.intermediate, dims.hidden)}
        mlp["down"] = (dims.hidden, dims.intermediate)
        shapes: dict[str, tuple[int, ...]] = {"input_layernorm.weight": (dims.hidden,)}
        for name, shape in attention.items():
            shapes[f"self_attn.{name}_proj.weight"] = shape
            if self.has_bias(name, dims):
                shapes[f"self_attn.{name}_proj.bias"] = shape[:1]
        shapes["post_attention_layernorm.weight"] = (dims.hidden,)
        for name, shape in mlp.items():
            shapes[f"mlp.{name}_proj.weight"] = shape
            if dims.mlp_bias:
                shapes[f"mlp.{name}_proj.bias"] = shape[:1]
        return shapes

    def has_bias(self, projection: str, dims: Dims) -> bool:
        """Whether the attention projection ``q``, ``k``, ``v`` or ``o`` has a bias."""
        return dims.attention_bias

    def gguf_names(self, dims: Dims) -> dict[str, str]:
        """GGUF name to transformers name of all parameters, in the order in which they are written."""
        table = gguf.get_tensor_name_map(self.arch, dims.blocks)
        names = {}
        for hf_name in self.parameters(dims):
            name = self._special_name(hf_name) or table.get_name(hf_name, try_suffixes=(".weight", ".bias"))
            assert name is not None, hf_name
            names[name] = hf_name
        return names

    def _special_name(self, hf_name: str) -> str | None:
        prefix, _, rest = hf_name.partition(".layers.")
        index, _, rest = rest.partition(".")
        stem, _, suffix = rest.rpartition(".")
        return block_tensor(int(index), self.gguf_stems[stem], suffix) if prefix and stem in self.gguf_stems else None

    def write(self, config: dict[str, Any], dims: Dims, writer: GGUFWriter) -> None:
        """Write the hyper-parameters as llama.cpp's converter does (``TextModel.set_gguf_parameters``)."""
        writer.add_block_count(dims.blocks)
        writer.add_context_length(dims.context)
        writer.add_embedding_length(dims.hidden)
        writer.add_feed_forward_length(dims.intermediate)
        writer.add_head_count(dims.heads)
        writer.add_head_count_kv(dims.kv_heads)
        write_rope(self.rope(config), dims.context, writer)
        writer.add_float32(self.eps_key.format(arch=writer.arch), float(config.get(self.eps_name, self.default_eps)))
        if config.get("head_dim") is not None or self.default_head_dim is not None:
            writer.add_key_length(dims.head_dim)
            writer.add_value_length(dims.head_dim)

    def computed(self, config: dict[str, Any], dims: Dims) -> dict[str, Array]:
        """The tensors of ``COMPUTED`` that the model needs, e.g. ``rope_freqs.weight`` ``(head_dim / 2,)``."""
        rope = self.rope(config)
        return {ROPE_FACTORS: llama3_factors(rope, dims.head_dim)} if rope.kind == "llama3" else {}

    def config_of_keys(
        self, get: Get, shapes: dict[str, tuple[int, ...]], computed: Mapping[str, Array], label: str
    ) -> dict[str, Any]:
        """The transformers configuration of a GGUF file.

        Args:
            get: gives the file's keys.
            shapes: shapes of its tensors, by name.
            computed: its tensors of ``COMPUTED``, by name.
            label: the model's name, for messages.

        Raises:
            InputError: a key or the token embedding is missing.
        """
        need = self.needed(get, shapes, label)
        heads, context = need(Keys.Attention.HEAD_COUNT), need(Keys.LLM.CONTEXT_LENGTH)
        rope = rope_of_keys(get, context)
        if ROPE_FACTORS in computed and self.reads_rope_factors:
            rope = rope_of_factors(computed[ROPE_FACTORS], rope.theta, context)
        config: dict[str, Any] = {
            "architectures": [self.class_name],
            "model_type": self.name,
            "vocab_size": shapes[EMBEDDING][0],
            "hidden_size": need(Keys.LLM.EMBEDDING_LENGTH),
            "intermediate_size": need(Keys.LLM.FEED_FORWARD_LENGTH),
            "num_hidden_layers": need(Keys.LLM.BLOCK_COUNT),
            "num_attention_heads": heads,
            "num_key_value_heads": need(Keys.Attention.HEAD_COUNT_KV) if get(Keys.Attention.HEAD_COUNT_KV) else heads,
            "hidden_act": self.activations[0],
            "max_position_embeddings": context,
            self.eps_name: shortest(need(self.eps_key)),
            "tie_word_embeddings": HEAD not in shapes,
            "bos_token_id": get(Keys.Tokenizer.BOS_ID),
            "eos_token_id": get(Keys.Tokenizer.EOS_ID),
            "pad_token_id": None,
            **rope.to_config(),
        }
        if (head_dim := get(Keys.Attention.KEY_LENGTH)) is not None:
            config["head_dim"] = head_dim
            if get(Keys.Attention.VALUE_LENGTH) not in (None, head_dim):
                raise InputError(
                    f"{label} has keys and values of different lengths, which {self.title} lacks; choose another model."
                )
        elif self.default_head_dim is not None:
            config["head_dim"] = config["hidden_size"] // heads
        self.add_biases(config, set(shapes))
        return config

    def needed(self, get: Get, shapes: dict[str, tuple[int, ...]], label: str) -> Get:
        """``get`` that raises InputError where a number is missing, and at once without a token embedding."""
        if EMBEDDING not in shapes:
            raise InputError(f"{label} holds no token embedding; give a file with the whole model.")

        def need(key: str) -> Any:
            value = get(key)
            if isinstance(value, list) and len(set(value)) == 1:
                value = value[0]
            if not isinstance(value, (int, float)):
                raise InputError(
                    f"{label} has no usable key {key.format(arch=self.architecture)}; convert the model to GGUF again."
                )
            return value

        return need

    def add_biases(self, config: dict[str, Any], names: set[str]) -> None:
        """Say in ``config`` which biases a GGUF file with tensors ``names`` has."""
        config["attention_bias"] = block_tensor(0, "attn_q", "bias") in names

    def gguf_shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the GGUF tensor ``name`` whose transformers parameter has ``shape``."""
        return shape

    def to_gguf(self, name: str, array: Array, dims: Dims) -> Array:
        """Lay out the transformers parameter of GGUF name ``name`` as llama.cpp's graph wants it."""
        return array + np.float32(self.norm_offset) if self.norm_offset and _is_norm(name) else array

    def to_hf(self, name: str, array: Array, dims: Dims) -> Array:
        """Undo ``to_gguf``."""
        return array - np.float32(self.norm_offset) if self.norm_offset and _is_norm(name) else array

    def warnings(self, config: dict[str, Any], label: str) -> Sequence[str]:
        """Notes about parts of the model that llama.cpp leaves out."""
        notes = []
        if self.rope(config).kind == "dynamic":
            notes.append(f"{label} stretches rope beyond its context (dynamic scaling); the GGUF file does not.")
        if config.get("rope_scaling") and config.get("rope_parameters") not in (None, config["rope_scaling"]):
            notes.append(
                f"config.json of {label} has rope_scaling beside rope_parameters; transformers reads rope_scaling, and "
                "so does the written file."
            )
        if config.get("use_sliding_window"):
            notes.append(f"{label} uses a sliding window in some blocks; llama.cpp attends to the whole context.")
        return notes


def _is_norm(gguf_name: str) -> bool:
    return gguf_name.endswith("norm.weight")


def window_note(config: dict[str, Any], window: int | None, label: str) -> list[str]:
    """A warning when attention reaches back ``window`` tokens only, and llama.cpp's graph has no such limit."""
    if not window or window >= config["max_position_embeddings"]:
        return []
    return [
        f"{label} attends to the last {window} tokens only, and llama.cpp to all: texts longer than that go on "
        "differently."
    ]
