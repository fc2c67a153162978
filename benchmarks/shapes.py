"""Write a model of a real model's shape with random weights as a Hugging Face directory, for measuring time and memory.

    python -m benchmarks.shapes qwen3-0.6b DIR

Configuration, names and shapes of the tensors are those of the published model; the weights are bfloat16, drawn from
N(0, 0.02), norms are 1. They are drawn a few million at a time straight into the files, so that memory stays small
whatever the size. The tokenizer is a small byte-level BPE trained on Python's documentation; ids beyond its vocabulary
have no token, as the last ids of the published models.
"""

from __future__ import annotations

import functools
import json
import shutil
import sys
import tempfile
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.harness import command_line, exit_code
from benchmarks.internals import available_threads, check_space, stage, stdlib_text
from lieq_edge import InputError

SHARD_BYTES = 2_000_000_000
"""A safetensors file takes tensors until it would exceed this."""

# Weights that are drawn at a time: 16 MB of float32.
_CHUNK = 1 << 22
_BPE_TOKENS = 4096
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder; the head is the token embedding.

    Attributes:
        family: ``qwen3`` (norms of queries and keys) or ``qwen2`` (biases of queries, keys and values).
        hidden: columns of the residual stream.
        intermediate: width of the MLP.
        blocks: number of blocks.
        heads: number of query heads, and of key and value heads.
        head_dim: columns of a head.
        vocabulary: rows of the token embedding.
        context: positions that the configuration names.
        window_layers: the configuration's ``max_window_layers``, which has no effect without sliding windows.
    """

    family: str
    hidden: int
    intermediate: int
    blocks: int
    heads: tuple[int, int]
    head_dim: int = 128
    vocabulary: int = 151936
    context: int = 40960
    window_layers: int = 28


SHAPES: dict[str, Shape] = {
    "qwen3-0.6b": Shape("qwen3", 1024, 3072, 28, (16, 8)),
    "qwen3-1.7b": Shape("qwen3", 2048, 6144, 28, (16, 8)),
    "qwen3-4b": Shape("qwen3", 2560, 9728, 36, (32, 8), window_layers=36),
    "qwen2.5-1.5b": Shape("qwen2", 1536, 8960, 28, (12, 2), context=32768, window_layers=21),
    # For trying the tools: seconds where the others take minutes.
    "tiny-a": Shape("qwen3", 256, 512, 4, (4, 2), 64, 8192, 2048),
    "tiny-b": Shape("qwen2", 256, 768, 6, (4, 2), 64, 8192, 2048),
    "tiny-c": Shape("qwen3", 512, 1024, 8, (8, 4), 64, 8192, 2048),
}


def parameters(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors by transformers' name, in the order of the model."""
    hidden, inner = shape.hidden, shape.intermediate
    queries, keys = (count * shape.head_dim for count in shape.heads)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape.vocabulary, hidden)}
    for index in range(shape.blocks):
        block: dict[str, tuple[int, ...]] = {"input_layernorm.weight": (hidden,)}
        for name, rows in (("q", queries), ("k", keys), ("v", keys)):
            block[f"self_attn.{name}_proj.weight"] = (rows, hidden)
            if shape.family == "qwen2":
                block[f"self_attn.{name}_proj.bias"] = (rows,)
        if shape.family == "qwen3":
            block |= dict.fromkeys(("self_attn.q_norm.weight", "self_attn.k_norm.weight"), (shape.head_dim,))
        block |= {
            "self_attn.o_proj.weight": (hidden, queries),
            "post_attention_layernorm.weight": (hidden,),
            "mlp.gate_proj.weight": (inner, hidden),
            "mlp.up_proj.weight": (inner, hidden),
            "mlp.down_proj.weight": (hidden, inner),
        }
        shapes |= {f"model.layers.{index}.{name}": size for name, size in block.items()}
    return shapes | {"model.norm.weight": (hidden,)}


def count_parameters(shape: Shape) -> int:
    """Weights of the model, the embedding included."""
    return sum(prod(size) for size in parameters(shape).values())


def configuration(shape: Shape) -> dict[str, Any]:
    """config.json as it is published, but for the ids of special tokens, which are the small tokenizer's."""
    ids = special_ids(_BPE_TOKENS)
    config = {
        "architectures": [f"{shape.family.capitalize()}ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": shape.context,
        "max_window_layers": shape.window_layers,
        "model_type": shape.family,
        "num_attention_heads": shape.heads[0],
        "num_hidden_layers": shape.blocks,
        "num_key_value_heads": shape.heads[1],
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": shape.vocabulary,
    }
    if shape.family == "qwen3":
        config |= {"attention_bias": False, "head_dim": shape.head_dim, "rope_scaling": None, "sliding_window": None}
    return config


def build(shape: Shape, out: Path, *, seed: int = 0, shard_bytes: int = SHARD_BYTES) -> None:
    """Write a model; the directory appears complete or not at all.

    Args:
        shape: sizes of the model.
        out: directory to make; must not exist.
        seed: seed of the weights, which do not depend on the number of cores.
        shard_bytes: size of a safetensors file.

    Raises:
        InputError: ``out`` exists, or the disk has too little space.
    """
    if out.exists():
        raise InputError(f"{out} exists; choose another directory.")
    out.parent.mkdir(parents=True, exist_ok=True)
    check_space(out.parent, 2 * count_parameters(shape))
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        for name, text in tokenizer_files().items():
            (temporary / name).write_text(text, encoding="utf-8")
        _write_weights(shape, temporary, seed, shard_bytes)
        (temporary / "config.json").write_text(json.dumps(configuration(shape), indent=2) + "\n", encoding="utf-8")
        temporary.chmod(0o755)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_weights(shape: Shape, folder: Path, seed: int, shard_bytes: int) -> None:
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    size = 0
    for name, dims in parameters(shape).items():
        count = 2 * prod(dims)
        if size and size + count > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = dims
        size += count
    where: dict[str, str] = {}
    workers = available_threads()
    with ThreadPoolExecutor(workers) as pool, stage("Drawing weights", len(parameters(shape))) as advance:
        for number, shard in enumerate(shards, 1):
            single = len(shards) == 1
            file = "model.safetensors" if single else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            with (folder / file).open("wb") as stream:
                stream.write(_header(shard))
                for name, dims in shard.items():
                    for part in _draw(name, dims, seed, pool, 2 * workers):
                        stream.write(part.data)
                    advance()
            where |= dict.fromkeys(shard, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": 2 * count_parameters(shape)}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _header(shard: dict[str, tuple[int, ...]]) -> bytes:
    """Bytes before the data of a safetensors file: the header's length, and the tensors' places as JSON."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, dims in shard.items():
        start, end = end, end + 2 * prod(dims)
        header[name] = {"dtype": "BF16", "shape": list(dims), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _draw(
    name: str, dims: tuple[int, ...], seed: int, pool: ThreadPoolExecutor, ahead: int
) -> Iterator[npt.NDArray[np.uint16]]:
    """A tensor's bfloat16 bits, piece by piece; at most ``ahead`` pieces are in memory."""
    count = prod(dims)
    if name.endswith("norm.weight"):
        yield _to_bfloat16(np.ones(count, np.float32))
        return
    sizes = [min(_CHUNK, count - start) for start in range(0, count, _CHUNK)]

    def draw(index: int) -> npt.NDArray[np.uint16]:
        rng = np.random.Generator(np.random.SFC64([seed, zlib.crc32(name.encode()), index]))
        values = rng.standard_normal(sizes[index], np.float32)
        values *= np.float32(0.02)
        return _to_bfloat16(values)

    pending: deque[Future[npt.NDArray[np.uint16]]] = deque()
    for index in range(len(sizes)):
        pending.append(pool.submit(draw, index))
        if len(pending) >= ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _to_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Values rounded to nearest, except ties, which random numbers hardly have; ``values`` are overwritten."""
    bits = values.view(np.uint32)
    bits += 0x8000
    # The upper half of each number.
    return np.ascontiguousarray(bits.view(np.uint16)[1 if sys.byteorder == "little" else 0 :: 2])


def special_ids(tokens: int) -> dict[str, int]:
    """Ids of the special tokens of ``tokenizer_files``."""
    return {text: tokens + index for index, text in enumerate(_SPECIAL)}


@functools.cache
def tokenizer_files(tokens: int = _BPE_TOKENS) -> dict[str, str]:
    """tokenizer.json and its settings: Qwen's way to split, so many ``tokens`` before three special ones."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_SPLIT), "isolated"), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = BpeTrainer(vocab_size=tokens, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    text, _ = stdlib_text("calibration", 300_000)
    tokenizer.train_from_iterator([text], trainer)
    if tokenizer.get_vocab_size() != tokens:
        raise InputError(f"Python's documentation gave only {tokenizer.get_vocab_size()} tokens; install all of it.")
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in _SPECIAL])
    settings = {
        "add_bos_token": False,
        "bos_token": None,
        "chat_template": _TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "model_max_length": 32768,
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "Qwen2Tokenizer",
    }
    return {"tokenizer.json": tokenizer.to_str(), "tokenizer_config.json": json.dumps(settings, indent=2) + "\n"}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line(__doc__)
    parser.add_argument("shape", choices=list(SHAPES), help="model whose shape to take")
    parser.add_argument("out", type=Path, help="directory to make")
    parser.add_argument("--blocks", type=int, help="number of blocks; that of the model when left out")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights")
    args = parser.parse_args(arguments)
    shape = SHAPES[args.shape]
    if args.blocks is not None:
        shape = replace(shape, blocks=args.blocks)

    def write() -> None:
        build(shape, args.out, seed=args.seed)
        print(f"{args.out}: {count_parameters(shape) / 1e6:.0f} million weights")

    return exit_code(write)


if __name__ == "__main__":
    sys.exit(main())
