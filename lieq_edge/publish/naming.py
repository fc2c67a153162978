"""Names of files by llama.cpp's convention: ``<BaseName>-<SizeLabel>-<FineTune>-<Version>-<Encoding>.gguf``.

The hub's pages and ``ollama run hf.co/...:Q4_K_M`` find the encoding in the name, where it has to come last.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from math import prod

import gguf
from gguf import Keys, LlamaFileType

from ..gguf.container import KeyValue

PRESET_BITS: dict[str, float] = {
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

ENCODINGS = frozenset(entry.name.removeprefix("MOSTLY_") for entry in LlamaFileType)
"""Encodings that llama.cpp has names for."""

_UNFIT = re.compile(r"[^\w.+-]+", re.ASCII)
_ENCODED = re.compile(r"[-.](UD-)?(I?Q\d\w*|T?Q\d_\d|B?F(16|32)|MXFP4\w*)$", re.IGNORECASE)
# Names of the system are limited to 255 bytes, and a number of parts may come behind.
_LONGEST = 200


def default_file_name(
    source_metadata: Iterable[KeyValue], model: str, shapes: Sequence[tuple[int, ...]], label: str
) -> str:
    """The name of a file, e.g. ``Qwen3-0.6B-Q4_K_M.gguf``.

    Args:
        source_metadata: key-values of the model; ``general.basename`` and the like count, else the parts of its name.
        model: the user's name for the model.
        shapes: shapes of its tensors.
        label: preset that the file is named after; it stands last, where programs look for it.
    """
    texts = {kv.key: kv.value for kv in source_metadata if isinstance(kv.value, str) and kv.value.strip()}
    name = _model_name(texts.get(Keys.General.NAME) or model)
    _, _, basename, finetune, version, stated = gguf.Metadata.get_model_id_components(name, sum(map(prod, shapes)))
    stem = gguf.naming_convention(
        name,
        texts.get(Keys.General.BASENAME) or basename,
        texts.get(Keys.General.FINETUNE) or finetune,
        texts.get(Keys.General.VERSION) or version,
        # Without a base name the whole name stands for it, with the size that it may state.
        texts.get(Keys.General.SIZE_LABEL) or stated or size_label(shapes),
        output_type=None,
    )
    stem = _UNFIT.sub("-", stem).strip("-. ")[:_LONGEST] or "model"
    return f"{stem}-{label}.gguf"


def size_label(shapes: Iterable[tuple[int, ...]]) -> str:
    """``135M``, ``1.7B``: the number of weights of tensors, as llama.cpp writes it."""
    label: str = gguf.size_label(sum(map(prod, shapes)), 0, 0, 0)
    return label


def _model_name(name: str) -> str:
    """The last part of a path or hub id, without the ending and encoding of a file, in one word."""
    last = re.split(r"[/\\]", name.strip().rstrip("/\\"))[-1]
    return _ENCODED.sub("", re.sub(r"\.gguf$", "", last, flags=re.IGNORECASE)).replace(" ", "-") or "model"
