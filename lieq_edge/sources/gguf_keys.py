"""Find the keys of a GGUF file that the description of its family leaves out."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Iterable
from typing import Any

from gguf import GGUFWriter, Keys

from ..errors import InputError
from ..gguf.container import KeyValue
from .families import Dims, Family

_UNUSED = (
    Keys.LLM.VOCAB_SIZE,
    Keys.LLM.TENSOR_DATA_LAYOUT,
    Keys.LLM.POOLING_TYPE,
    Keys.Rope.SCALING_FINETUNED,
    # Where a family's graph has windows, the family asks for them.
    Keys.Attention.SLIDING_WINDOW,
    Keys.Attention.LAYERNORM_EPS,
    Keys.Attention.LAYERNORM_RMS_EPS,
)
"""Keys that change nothing in the graphs of the families, unless a family asks for one."""


def check_keys(
    metadata: Iterable[KeyValue], asked: Collection[str], family: Family, config: dict[str, Any], dims: Dims, label: str
) -> None:
    """Make sure that a description of a model takes all settings of its GGUF file in.

    Args:
        metadata: key-values of the file.
        asked: keys that the family has asked for, with ``{arch}`` in the place of the architecture.
        family: the family.
        config: the transformers configuration that the family has made of them.
        dims: its sizes.
        label: the model's name, for messages.

    Raises:
        InputError: the file has a key that llama.cpp reads, that the family did not ask for, and that it would not
            write with this value for this configuration.
    """
    architecture = family.architecture
    writer = GGUFWriter(None, architecture)
    family.write(config, dims, writer)
    written = {key: entry.value for key, entry in writer.kv_data[0].items()}
    settled = {key.format(arch=architecture) for key in (*asked, *_UNUSED)}
    for kv in metadata:
        if kv.key in _known(architecture) and kv.key not in settled and not _same(kv.value, written.get(kv.key)):
            raise InputError(
                f"{label} has the key {kv.key}, which transformers' {family.title} lacks; choose another model."
            )


@functools.cache
def _known(architecture: str) -> frozenset[str]:
    """Keys of models of an architecture that the gguf package knows."""
    groups = [value for value in vars(Keys).values() if isinstance(value, type)]
    patterns = [text for group in groups for text in vars(group).values() if isinstance(text, str)]
    return frozenset(text.replace("{arch}", architecture) for text in patterns if text.startswith("{arch}."))


def _same(value: Any, other: Any) -> bool:
    if isinstance(value, list) and len(set(value)) == 1:
        value = value[0]
    if isinstance(value, float) and isinstance(other, (int, float)):
        return math.isclose(value, other, rel_tol=1e-6)
    return bool(value == other)
