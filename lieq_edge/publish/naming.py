"""Names of files by llama.cpp's convention: ``<BaseName>-<SizeLabel>-<FineTune>-<Version>-<Encoding>.gguf``.

The hub's pages and ``ollama run hf.co/...:Q4_K_M`` find the encoding in the name, where it has to come last.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Protocol

import gguf
from gguf import Keys

from ..gguf.container import KeyValue
from ..gguf.types import CODEBOOK_TYPES

K_PRESETS: dict[str, float] = {
    "Q2_K_S": 2.9697,
    "Q2_K": 3.1593,
    "Q3_K_S": 3.6429,
    "Q3_K_M": 3.9960,
    "Q3_K_L": 4.2979,
    "Q4_K_S": 4.6672,
    "Q4_K_M": 4.8944,
    "Q5_K_S": 5.5704,
    "Q5_K_M": 5.7036,
    "Q6_K": 6.5633,
    "Q8_0": 8.5008,
    "F16": 16.0005,
}
"""Bits a weight of llama.cpp's presets for Llama 3.1 8B (tools/quantize/README.md of llama.cpp): the K-quants."""

CODEBOOK_PRESETS: dict[str, float] = {
    "IQ1_S": 2.0042,
    "IQ1_M": 2.1460,
    "IQ2_XXS": 2.3824,
    "IQ2_XS": 2.5882,
    "IQ2_S": 2.7403,
    "IQ2_M": 2.9294,
    "IQ3_XXS": 3.2548,
    "IQ3_XS": 3.4977,
    "IQ3_S": 3.6606,
    "IQ3_M": 3.7628,
    "IQ4_XS": 4.4597,
    "Q5_K_S": 5.5704,
    "Q6_K": 6.5633,
    "Q8_0": 8.5008,
}
"""The same for files whose weights are mostly of codebook types."""

_UNFIT = re.compile(r"[^\w.+-]+", re.ASCII)
_ENCODED = re.compile(r"[-.](UD-)?(I?Q\d\w*|T?Q\d_\d|B?F(16|32)|MXFP4\w*)$", re.IGNORECASE)
# Names of the system are limited to 255 bytes, and a number of parts may come behind.
_LONGEST = 200


class PlannedTensor(Protocol):
    """What is asked of a tensor of a plan: its shape (the row length last) and its type."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def type(self) -> str: ...


class Planned(Protocol):
    """What is asked of a plan: the user's name for the model, bits a weight over all weights, and the tensors."""

    @property
    def model(self) -> str: ...

    @property
    def file_bpw(self) -> float: ...

    @property
    def tensors(self) -> Sequence[PlannedTensor]: ...


def default_file_name(
    source_metadata: Iterable[KeyValue], plan: Planned, presets: Mapping[str, float] | None = None
) -> str:
    """The name of a file, e.g. ``Qwen3-0.6B-Q4_K_M.gguf``.

    Args:
        source_metadata: key-values of the model; ``general.basename`` and the like count, else the parts of its name.
        plan: types and shapes of the tensors.
        presets: bits a weight that each preset takes for this very model, by name; else those of an 8B model count.
    """
    texts = {kv.key: kv.value for kv in source_metadata if isinstance(kv.value, str) and kv.value.strip()}
    label = size_label([tensor.shape for tensor in plan.tensors])
    name = _model_name(texts.get(Keys.General.NAME) or plan.model)
    total = sum(prod(tensor.shape) for tensor in plan.tensors)
    _, _, basename, finetune, version, stated = gguf.Metadata.get_model_id_components(name, total)
    stem = gguf.naming_convention(
        name,
        texts.get(Keys.General.BASENAME) or basename,
        texts.get(Keys.General.FINETUNE) or finetune,
        texts.get(Keys.General.VERSION) or version,
        # Without a base name the whole name stands for it, with the size that it may state.
        texts.get(Keys.General.SIZE_LABEL) or stated or label,
        output_type=None,
    )
    stem = _UNFIT.sub("-", stem).strip("-. ")[:_LONGEST] or "model"
    return f"{stem}-{nearest_preset(plan.file_bpw, main_type=_main_type(plan), presets=presets)}.gguf"


def nearest_preset(file_bpw: float, *, main_type: str = "Q4_K", presets: Mapping[str, float] | None = None) -> str:
    """llama.cpp's preset whose files have about as many bits a weight.

    Args:
        file_bpw: bits a weight over all weights.
        main_type: type of most weights; codebook types have presets of their own.
        presets: bits a weight by preset, for other models than the usual ones.
    """
    if presets is None:
        presets = CODEBOOK_PRESETS if main_type in CODEBOOK_TYPES else K_PRESETS
    return min(presets, key=lambda name: abs(presets[name] - file_bpw))


def size_label(shapes: Iterable[tuple[int, ...]]) -> str:
    """``135M``, ``1.7B``: the number of weights of tensors, as llama.cpp writes it."""
    label: str = gguf.size_label(sum(map(prod, shapes)), 0, 0, 0)
    return label


def _model_name(name: str) -> str:
    """The last part of a path or hub id, without the ending and encoding of a file, in one word."""
    last = re.split(r"[/\\]", name.strip().rstrip("/\\"))[-1]
    return _ENCODED.sub("", re.sub(r"\.gguf$", "", last, flags=re.IGNORECASE)).replace(" ", "-") or "model"


def _main_type(plan: Planned) -> str:
    weights: Counter[str] = Counter()
    for tensor in plan.tensors:
        weights[tensor.type] += prod(tensor.shape)
    return weights.most_common(1)[0][0] if weights else ""
