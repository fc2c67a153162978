"""Tiny random models in Hugging Face directories, built in well under a second for tests.

Names and shapes of the weights are those that transformers itself saves for a configuration, so that the tests do not
depend on what the package believes a family to look like. A new family needs an entry in ``SETTINGS`` at most.
"""

from __future__ import annotations

import atexit
import copy
import functools
import io
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FAMILIES = ("llama", "qwen2", "qwen3")

_TANH = {"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh"}

SETTINGS: dict[str, dict[str, Any]] = {
    # Windows and caps so small that they bite.
    "mistral": {"sliding_window": None},
    "gemma": _TANH,
    "gemma2": {
        **_TANH,
        "query_pre_attn_scalar": 0,  # stands for the size of a head
        "sliding_window": 32,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 5.0,
    },
    "gemma3_text": {
        **_TANH,
        "query_pre_attn_scalar": 0,  # stands for the size of a head
        "sliding_window": 32,
        "sliding_window_pattern": 6,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
    },
    "phi3": {"original_max_position_embeddings": 256, "sliding_window": None, "pad_token_id": 0},
    "granite": {
        "embedding_multiplier": 0.5,
        "residual_multiplier": 0.8,
        "attention_multiplier": 0.2,
        "logits_scaling": 1.5,
    },
    # transformers has padding tokens of its own for these two.
    "smollm3": {"pad_token_id": 1},
    "olmo2": {"pad_token_id": 1, "tie_word_embeddings": False},
    "qwen3_moe": {
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 64,
        "norm_topk_prob": True,
    },
    "olmoe": {
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "num_key_value_heads": 4,
        "norm_topk_prob": False,
        "pad_token_id": 1,
        "tie_word_embeddings": False,
    },
    "granitemoe": {
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "embedding_multiplier": 0.5,
        "residual_multiplier": 0.8,
        "attention_multiplier": 0.2,
        "logits_scaling": 1.5,
    },
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None},
    "stablelm": {"tie_word_embeddings": False, "partial_rotary_factor": 0.25, "use_qkv_bias": True},
    "gpt2": {"hidden_act": "gelu_new", "num_key_value_heads": None, "rope_theta": None, "tie_word_embeddings": None},
}
"""Entries of config.json by ``model_type``, beside or instead of the common ones; None leaves one out."""

RENAMED: dict[str, dict[str, str]] = {
    "stablelm": {"rms_norm_eps": "layer_norm_eps"},
    "gpt2": {
        "hidden_size": "n_embd",
        "intermediate_size": "n_inner",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "n_positions",
        "hidden_act": "activation_function",
        "rms_norm_eps": "layer_norm_epsilon",
    },
}
"""What a ``model_type`` calls the common entries."""

_TOKENIZERS: dict[str, str] = {"gemma": "gemma", "gemma2": "gemma", "gemma3_text": "gemma"}
"""What ``tokenizer="auto"`` means by ``model_type``; byte-level BPE for others."""

_HEAD_DIM = ("qwen3", "gemma", "gemma2", "gemma3_text")
"""Families for which transformers has a size of heads of its own where the configuration says nothing."""

_STYLES = {
    **dict.fromkeys(("qwen2", "qwen3", "qwen3_moe", "stablelm"), "qwen"),
    "gpt2": "gpt2",
    "granite": "starcoder",
    "granitemoe": "starcoder",
}
"""Whose byte-level BPE a family has; Llama 3's for others."""

LLAMA3_ROPE: dict[str, Any] = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
"""Llama-3 rope scaling that bites within the first 64 positions."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

LLAMA3_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_REGEX = LLAMA3_REGEX.replace(r"\p{N}{1,3}", r"\p{N}")

LLAMA3_SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN_PLAIN = ("<tool_call>", "</tool_call>")

_SENTENCES = (
    "The quick brown fox jumps over the lazy dog, and it's 1234 miles from home.",
    "There isn't anything we'll do; they've said I'm wrong. You're right, he'd know.",
    "def measure(model, text):\n    for i in range(10):\n        total += model[i] * 3.14\n    return total",
    "Numbers run: 0 1 2 3 10 100 1000 20250 314159 2718281828.",
    "Straße, naïve café, Ελληνικά, Русский язык, 日本語の文章, 中文句子, हिन्दी, العربية.",
    "In the beginning there was a model, the model was small, and the model was good.",
    "   Indented text\tand tabs\n\n\nand several new lines   \n",
    "It is the information in the layers that the weights of the network carry forward.",
)


def sample_text(characters: int = 4000, seed: int = 0) -> str:
    """Text of about ``characters`` characters, mixed from fixed sentences in a seeded order."""
    rng = np.random.default_rng(seed)
    parts: list[str] = []
    while sum(map(len, parts)) < characters:
        parts.append(_SENTENCES[int(rng.integers(len(_SENTENCES)))])
        parts.append(" " if rng.random() < 0.7 else "\n")
    return "".join(parts)


def make_model(
    directory: Path,
    family: str = "llama",
    *,
    tied: bool = True,
    hidden: int = 64,
    intermediate: int = 128,
    blocks: int = 2,
    heads: tuple[int, int] = (4, 2),
    head_dim: int | None = None,
    vocab: int = 512,
    dtype: str = "float32",
    shards: int = 1,
    tokenizer: str = "auto",
    seed: int = 0,
    rope_scaling: dict[str, Any] | None = None,
    rope_theta: float = 10000.0,
    context: int = 512,
    config: dict[str, Any] | None = None,
    tensors: dict[str, npt.NDArray[np.float32]] | None = None,
) -> Path:
    """Write a random model with config, tokenizer, chat template and safetensors into ``directory``.

    Args:
        directory: made when missing.
        family: ``model_type`` of transformers.
        tied: the output head is the token embedding.
        hidden, intermediate, blocks: sizes; ``hidden`` 288 gives rows that no 256-wide block fits.
        heads: query heads and key/value heads.
        head_dim: size of a head, ``hidden / heads[0]`` by default.
        vocab: rows of the embedding, at least 384; Qwen models leave the last few without a token.
        dtype: ``float32``, ``float16`` or ``bfloat16``.
        shards: number of safetensors files.
        tokenizer: ``bpe``, ``sentencepiece`` (only tokenizer.model), ``sentencepiece-json`` (only tokenizer.json),
            ``gemma`` (both, no space put before a text) or ``auto``, what the family has.
        rope_scaling: e.g. ``LLAMA3_ROPE``.
        config: further entries of config.json.
        tensors: replace random parameters (by transformers name) or add to them.
    """
    directory.mkdir(parents=True, exist_ok=True)
    size = head_dim or hidden // heads[0]
    settings: dict[str, Any] = {
        "architectures": [_class_name(family)],
        "model_type": family,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "vocab_size": vocab,
        "hidden_act": "silu",
        "max_position_embeddings": context,
        "rms_norm_eps": 1e-5,
        "rope_theta": rope_theta,
        "tie_word_embeddings": tied,
        "initializer_range": 0.02,
        "torch_dtype": dtype,
    }
    if head_dim is not None or family in _HEAD_DIM:
        settings["head_dim"] = size
    if rope_scaling is not None:
        settings["rope_scaling"] = rope_scaling
    if tokenizer == "auto":
        tokenizer = _TOKENIZERS.get(family, "bpe")
    files = _tokenizer_files(_STYLES.get(family, "llama"), tokenizer, vocab)
    special = json.loads(files["tokenizer_config.json"])
    ids = {**_ids(files), None: None}
    settings |= {
        "bos_token_id": ids.get(special.get("bos_token")),
        "eos_token_id": ids.get(special["eos_token"]),
    }
    own = copy.deepcopy(SETTINGS.get(family, {}))
    if "query_pre_attn_scalar" in own:
        own["query_pre_attn_scalar"] = size
    settings = {key: value for key, value in {**settings, **own}.items() if own.get(key, "") is not None}
    names = RENAMED.get(family, {})
    settings = {names.get(key, key): value for key, value in settings.items()}
    settings |= config or {}
    for name, data in files.items():
        (directory / name).write_bytes(data)
    (directory / "config.json").write_text(json.dumps(settings, indent=1))
    weights = random_weights(settings, seed) | (tensors or {})
    _save(directory, weights, dtype, shards)
    return directory


_cached: dict[str, Path] = {}


def cached_model(family: str = "llama", **options: Any) -> Path:
    """The directory of ``make_model(..., family, **options)``, built once a session; leave it unchanged."""
    key = f"{family} {sorted(options.items())!r}"
    if key not in _cached:
        directory = Path(tempfile.mkdtemp(prefix="tiny-"))
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        _cached[key] = make_model(directory, family, **options)
    return _cached[key]


def _class_name(family: str) -> str:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return str(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[family])


def random_weights(config: dict[str, Any], seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    """Weights of a configuration as transformers saves them, by name; seeded.

    Logits have a deviation of about 2 and attention is peaked, so that a wrong graph shows in them. Norm weights lie
    around what transformers starts them with: 1, or 0 where the norm adds 1.
    """
    import torch
    from safetensors.numpy import load_file
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    # A copy, for transformers completes the dictionaries it is given.
    fields = copy.deepcopy({k: v for k, v in config.items() if k not in ("model_type", "torch_dtype", "dtype")})
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(), torch.no_grad():
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[config["model_type"]](**fields)).float()
        outer = (model.get_input_embeddings(), model.get_output_embeddings())
        # Where embeddings are scaled up (Gemma), the blocks would hardly count beside them: they are as much smaller,
        # and the last norm makes up for it in the logits.
        factor = float(getattr(outer[0], "embed_scale", 1.0))
        for name, parameter in model.named_parameters():
            owner = model.get_submodule(name.rpartition(".")[0])
            shape = tuple(parameter.shape)
            value = rng.standard_normal(shape)
            if parameter.ndim == 1:
                norm = name.endswith("weight")
                value = float(parameter.mean()) + 0.1 * value if norm else 0.5 * value
                value += (factor - 1) * (name == "model.norm.weight")
            else:
                # Conv1D keeps its matrix the other way round.
                inputs = shape[0] if type(owner).__name__ == "Conv1D" else shape[-1]
                scale = 2.0 / factor if owner in outer else _scale(name)
                value = value * scale / np.sqrt(inputs)
            parameter.copy_(torch.from_numpy(value.astype(np.float32)))
        with tempfile.TemporaryDirectory(prefix="tiny-") as folder:
            model.save_pretrained(folder)
            return dict(load_file(Path(folder) / "model.safetensors"))


def _scale(name: str) -> float:
    return 1.5 if name.split(".")[-2] in ("q_proj", "k_proj", "v_proj", "qkv_proj", "c_attn") else 1.0


def _save(directory: Path, weights: dict[str, npt.NDArray[np.float32]], dtype: str, shards: int) -> None:
    names = list(weights)
    groups = [names[i::shards] for i in range(shards)]
    where: dict[str, str] = {}
    for i, group in enumerate(groups, 1):
        file = "model.safetensors" if shards == 1 else f"model-{i:05d}-of-{shards:05d}.safetensors"
        _write_safetensors(directory / file, {name: weights[name] for name in group}, dtype)
        where |= dict.fromkeys(group, file)
    if shards > 1:
        index = {"metadata": {}, "weight_map": where}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def _write_safetensors(path: Path, arrays: dict[str, npt.NDArray[np.float32]], dtype: str) -> None:
    # By hand, for numpy has no bfloat16: length of the header, the header as JSON, the data.
    kind = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[dtype]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, array in arrays.items():
        encoded = _encode(array, dtype)
        offsets = [len(data), len(data) + len(encoded)]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": offsets}
        data += encoded
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def _encode(array: npt.NDArray[np.float32], dtype: str) -> bytes:
    if dtype == "bfloat16":
        bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).tobytes()
    return array.astype(dtype).tobytes()


def _ids(files: dict[str, bytes]) -> dict[Any, int]:
    if "tokenizer.json" in files:
        document = json.loads(files["tokenizer.json"])
        return {**document["model"]["vocab"], **{t["content"]: t["id"] for t in document["added_tokens"]}}
    return {"<unk>": 0, "<s>": 1, "</s>": 2}


@functools.cache
def _tokenizer_files(style: str, kind: str, vocab: int) -> dict[str, bytes]:
    if kind == "bpe":
        return _bpe_files(style, vocab)
    if kind == "gemma":
        return _gemma_files(vocab)
    files = _sentencepiece_files(vocab)
    return files if kind == "sentencepiece" else _to_tokenizer_json(files)


def _bpe_files(style: str, vocab: int) -> dict[str, bytes]:
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
    )
    from tokenizers.trainers import BpeTrainer

    llama, qwen = style == "llama", style == "qwen"
    special = LLAMA3_SPECIAL if llama else QWEN_SPECIAL
    plain = QWEN_PLAIN if qwen else ()
    unused = 7 if qwen else 0
    tokenizer = Tokenizer(models.BPE(ignore_merges=llama))
    if qwen:
        tokenizer.normalizer = normalizers.NFC()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not (llama or qwen))
    splits = {
        "llama": [pre_tokenizers.Split(Regex(LLAMA3_REGEX), "isolated")],
        "qwen": [pre_tokenizers.Split(Regex(QWEN2_REGEX), "isolated")],
        "starcoder": [pre_tokenizers.Digits(individual_digits=True)],
        "gpt2": [],
    }
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits[style], byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocab - len(special) - len(plain) - unused,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([sample_text(20000)], trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in plain])
    settings: dict[str, Any] = {
        "tokenizer_class": "Qwen2Tokenizer" if qwen else "PreTrainedTokenizerFast",
        "bos_token": special[0] if llama else None,
        "eos_token": special[-1],
        "pad_token": special[1] if llama else special[0],
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 512,
    }
    if llama:
        start = (special[0], tokenizer.token_to_id(special[0]))
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{special[0]} $A", pair=f"{special[0]} $A {special[0]}:1 $B:1", special_tokens=[start]
        )
    else:
        settings["add_bos_token"] = False
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return {
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": json.dumps(settings).encode(),
    }


def _sentencepiece_model(vocab: int, **options: Any) -> bytes:
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sample_text(20000).splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        num_threads=1,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


def _sentencepiece_files(vocab: int) -> dict[str, bytes]:
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "add_bos_token": True,
        "add_eos_token": False,
        "legacy": False,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
    }
    return {"tokenizer.model": _sentencepiece_model(vocab), "tokenizer_config.json": json.dumps(settings).encode()}


def _to_tokenizer_json(files: dict[str, bytes]) -> dict[str, bytes]:
    """A sentencepiece model as transformers' converter for Llama 2 saves it, without tokenizer.model."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    vocab, merges = _merges(files["tokenizer.model"])
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    special = [AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")]
    tokenizer.add_special_tokens(special)
    return {"tokenizer.json": tokenizer.to_str().encode(), "tokenizer_config.json": files["tokenizer_config.json"]}


def _merges(model: bytes) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a sentencepiece model, as transformers' converters derive them."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    vocab = {processor.id_to_piece(i): i for i in range(processor.vocab_size())}
    ranked = []
    for piece, index in vocab.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocab and right in vocab:
                ranked.append((-processor.get_score(index), index, -len(left), -len(right), left, right))
    return vocab, [entry[-2:] for entry in sorted(ranked)]


def _gemma_files(vocab: int) -> dict[str, bytes]:
    """Sentencepiece without a space before the text, and the tokenizer.json that Gemma has beside it."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    turns, plain = ["<start_of_turn>", "<end_of_turn>"], ["<unused0>"]
    plain += ["\n" * i for i in range(1, 9)] + ["▁" * i for i in range(2, 13)]
    model = _sentencepiece_model(
        vocab,
        add_dummy_prefix=False,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        user_defined_symbols=[*turns, *plain],
    )
    entries, merges = _merges(model)
    tokenizer = Tokenizer(models.BPE(entries, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    special = ["<pad>", "<eos>", "<bos>", "<unk>", *turns]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in plain])
    settings = {
        "tokenizer_class": "GemmaTokenizer",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "add_bos_token": True,
        "add_eos_token": False,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
    }
    return {
        "tokenizer.model": model,
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": json.dumps(settings).encode(),
    }


def short_settings(folder: Path) -> dict[str, Any]:
    """Settings of a short export, with a text in ``folder`` to calibrate and to score on."""
    text = folder / "text.txt"
    text.write_text(sample_text(20_000))
    return {
        "calibration": str(text),
        "calibration_tokens": 1024,
        "text": text,
        "context": 64,
        "chunks": 2,
        "threads": 1,
    }
