"""Write a model with wider rows and exactly the same outputs, so that 256-wide blocks fit it.

    python -m tools.widen SmolLM2-135M-Instruct.Q4_1.gguf wide --hidden 768 --dither 0

OUT is a Hugging Face directory, or one GGUF file when it ends in .gguf.

The residual stream is widened by zeros. Every matrix that reads it gets zero columns, every matrix that writes it
zero rows. RMSNorm divides by the root of a mean over D instead of d entries, so its weights are multiplied by
sqrt(d / D) and its epsilon by d / D. Where the heads fill the residual stream, heads of zeros are added, whose output
is zero. A wider MLP gets zero gates.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from lieq_edge.errors import InputError
from lieq_edge.gguf.header import read_header
from lieq_edge.sources.base import Array, KeyValue, Source, TensorSpec
from lieq_edge.sources.families import family_of_config
from lieq_edge.sources.tokenizers.battery import BATTERY
from lieq_edge.system.files import check_output, check_space
from lieq_edge.system.progress import set_quiet, stage
from tools.dither import Dithered
from tools.wrapped import Wrapped

_TOKENIZER_FILES = ("token*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*")


@dataclass(frozen=True)
class Sizes:
    """Sizes that widening changes: residual stream, MLP, query and key-value heads; the size of a head stays."""

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int

    @property
    def group(self) -> int:
        """Query heads that share a key-value head."""
        return self.heads // self.kv_heads


def widened_sizes(old: Sizes, hidden: int, intermediate: int | None = None) -> Sizes:
    """Sizes of the wide model.

    Raises:
        InputError: the target is narrower, or no number of heads fills it.
    """
    intermediate = intermediate or old.intermediate
    if hidden < old.hidden or intermediate < old.intermediate:
        raise InputError(
            f"A model of {old.hidden} and {old.intermediate} cannot be widened to {hidden} and {intermediate}; "
            "give larger sizes."
        )
    new = replace(old, hidden=hidden, intermediate=intermediate)
    if old.heads * old.head_dim != old.hidden:
        return new
    heads, rest = divmod(hidden, old.head_dim)
    if rest == 0 and heads % old.group == 0:
        return replace(new, heads=heads, kv_heads=heads // old.group)
    if rest == 0 and heads % old.kv_heads == 0:
        return replace(new, heads=heads)
    raise InputError(
        f"Heads of {old.head_dim} in groups of {old.group} do not fill a residual stream of {hidden}; "
        f"give a multiple of {old.head_dim * old.group} or of {old.head_dim * old.kv_heads}."
    )


class Widened(Wrapped):
    """A source whose matrices are wider; see the top of this file."""

    def __init__(self, base: Source, hidden: int, intermediate: int | None = None) -> None:
        config = base.config()
        self._family = family_of_config(config, base.label)
        dims = self._family.dims(config, base.label)
        self.old = Sizes(dims.hidden, dims.intermediate, dims.heads, dims.kv_heads, dims.head_dim)
        self.new = new = widened_sizes(self.old, hidden, intermediate)
        super().__init__(base, f"widened to {new.hidden}, MLP {new.intermediate}")

    def read(self, name: str) -> Array:
        return widen(name, super().read(name), self.old, self.new)

    def tensors(self) -> list[TensorSpec]:
        return [
            replace(spec, shape=widened_shape(spec.name, spec.shape, self.old, self.new)) for spec in super().tensors()
        ]

    def config(self) -> dict[str, Any]:
        new = self.new
        config = super().config() | {
            "hidden_size": new.hidden,
            "intermediate_size": new.intermediate,
            "num_attention_heads": new.heads,
            "num_key_value_heads": new.kv_heads,
            "head_dim": new.head_dim,
        }
        return config | {"rms_norm_eps": config["rms_norm_eps"] * self.old.hidden / new.hidden}

    def metadata(self) -> list[KeyValue]:
        new = self.new
        prefix = f"{self.architecture}."
        changed = {
            f"{prefix}embedding_length": new.hidden,
            f"{prefix}feed_forward_length": new.intermediate,
            f"{prefix}attention.head_count": new.heads,
            f"{prefix}attention.head_count_kv": new.kv_heads,
            f"{prefix}attention.layer_norm_rms_epsilon": self.config()["rms_norm_eps"],
        }
        return [replace(kv, value=changed.get(kv.key, kv.value)) for kv in super().metadata()]

    def to_hf(self, name: str, array: Array) -> Array:
        if self.new == self.old:
            return super().to_hf(name, array)
        return self._family.to_hf(name, array, self._family.dims(self.config(), self.label))


def widen(name: str, array: Array, old: Sizes, new: Sizes) -> Array:
    """The wide form of the tensor with GGUF name ``name``, whatever the order of rows within a head."""
    where = tuple(_place(kind, old, new) for kind in _axes(name, array.ndim))
    wide = np.zeros(widened_shape(name, array.shape, old, new), np.float32)
    wide[where] = array
    if _axes(name, array.ndim) == ("hidden",) and name.endswith("_norm.weight"):
        wide *= np.float32(np.sqrt(old.hidden / new.hidden))
    return wide


def widened_shape(name: str, shape: tuple[int, ...], old: Sizes, new: Sizes) -> tuple[int, ...]:
    """Shape of the result of ``widen`` for a tensor of ``shape``."""
    sizes = {
        "hidden": new.hidden,
        "intermediate": new.intermediate,
        "queries": new.heads * new.head_dim,
        "keys": new.kv_heads * new.head_dim,
    }
    return tuple(sizes.get(kind, size) for kind, size in zip(_axes(name, len(shape)), shape, strict=True))


_AXES = {
    "token_embd": ("", "hidden"),
    "output": ("", "hidden"),
    "output_norm": ("hidden",),
    "attn_norm": ("hidden",),
    "ffn_norm": ("hidden",),
    "attn_q": ("queries", "hidden"),
    "attn_k": ("keys", "hidden"),
    "attn_v": ("keys", "hidden"),
    "attn_output": ("hidden", "queries"),
    "ffn_gate": ("intermediate", "hidden"),
    "ffn_up": ("intermediate", "hidden"),
    "ffn_down": ("hidden", "intermediate"),
}
"""Kind of each axis of a tensor; a bias has only the first. Other tensors do not change."""


def _axes(name: str, count: int) -> tuple[str, ...]:
    return _AXES.get(name.split(".")[-2], ("",) * count)[:count]


def _place(kind: str, old: Sizes, new: Sizes) -> Any:
    """Places of the old entries along an axis; the others are zero."""
    if kind in ("hidden", "intermediate"):
        return slice(getattr(old, kind))
    if kind == "":
        return slice(None)
    heads = np.arange(old.kv_heads if kind == "keys" else old.heads)
    if kind == "queries":
        # A query head must stay with its key-value head, so new ones go to the end of each group.
        heads = heads // old.group * new.group + heads % old.group
    return (heads[:, None] * old.head_dim + np.arange(old.head_dim)).reshape(-1)


def save_directory(source: Source, out: Path, *, dtype: str = "float32", tokenizer: Path) -> None:
    """Write a source as a Hugging Face directory; it appears complete or not at all.

    Args:
        source: the model.
        out: directory to make; must not exist.
        dtype: ``float32`` or ``bfloat16`` for the matrices; vectors (norms, biases) are always float32.
        tokenizer: GGUF file or Hugging Face directory whose tokenizer to write.

    Raises:
        InputError: the tokenizer that transformers makes of a GGUF file differs from llama.cpp's.
    """
    count = sum(prod(spec.shape) for spec in source.tensors())
    check_space(out.parent, count * (2 if dtype == "bfloat16" else 4))
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        _save_tokenizer(source, tokenizer, temporary)
        _save_weights(source, dtype, temporary / "model.safetensors")
        config = source.config() | {"torch_dtype": dtype}
        (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        temporary.chmod(0o755)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _save_weights(source: Source, dtype: str, path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    kind = getattr(torch, dtype)
    weights: dict[str, Any] = {}
    names = [(spec.name, source.hf_name(spec.name)) for spec in source.tensors()]
    with stage("Widening", len(names)) as advance:
        for name, hf_name in names:
            if hf_name is not None:
                array = torch.from_numpy(np.ascontiguousarray(source.to_hf(name, source.read(name))))
                weights[hf_name] = array.to(kind) if array.ndim > 1 else array
            advance()
    save_file(weights, path, metadata={"format": "pt"})


def _save_tokenizer(source: Source, origin: Path, folder: Path) -> None:
    if origin.is_dir():
        for pattern in _TOKENIZER_FILES:
            for path in origin.glob(pattern):
                shutil.copy(path, folder / path.name)
        return
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(origin.parent, gguf_file=origin.name)
    if read_header(origin).get("tokenizer.ggml.pre") == "smollm":
        # transformers mistakes it for GPT-2's, which keeps digits together.
        digits = pre_tokenizers.Digits(individual_digits=True)
        words = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    for text in BATTERY:
        if tokenizer(text, add_special_tokens=False)["input_ids"] != source.tokenize(text):
            raise InputError(
                f"transformers and llama.cpp cut {text!r} differently with the tokenizer of {origin}; write .gguf."
            )
    tokenizer.save_pretrained(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="GGUF file or Hugging Face directory")
    parser.add_argument("out", type=Path, help="directory to make, or a .gguf file")
    parser.add_argument("--hidden", type=int, help="new hidden size; the old one when left out")
    parser.add_argument("--intermediate", type=int, help="new width of the MLP; the old one when left out")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--dither", type=int, metavar="SEED", help="seed of the noise that moves a quantised source off its grid"
    )
    parser.add_argument("--force", action="store_true", help="replace an existing .gguf file")
    args = parser.parse_args()
    set_quiet(False)
    from lieq_edge.sources import DEMO, demo_path, open_source
    from lieq_edge.sources.plain import write_plain

    try:
        check_output(args.out, force=args.force)
        base = open_source(args.model)
        origin = demo_path() if args.model == DEMO else Path(args.model)
        if not origin.exists():
            raise InputError(f"{args.model} is not on this disk; give a GGUF file or a Hugging Face directory.")
        if args.dither is not None and origin.is_dir():
            raise InputError(f"{origin} is not a GGUF file and has no grid to leave; widen it without --dither.")
        source: Source = base if args.dither is None else Dithered(base, origin, args.dither)
        source = Widened(source, args.hidden or int(base.config()["hidden_size"]), args.intermediate)
        if args.out.suffix == ".gguf":
            write_plain(args.out, source, {"float32": "F32", "bfloat16": "BF16"}[args.dtype])
        else:
            save_directory(source, args.out, dtype=args.dtype, tokenizer=origin)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{args.out}: {source.label}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
