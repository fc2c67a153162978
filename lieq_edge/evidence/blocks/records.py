"""Records of measurements: one for each block, and the tensors that allocation needs."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from importlib import metadata
from typing import Annotated

from pydantic import AfterValidator, Field

from ...gguf.container import metadata_bytes
from ...gguf.names import TensorName
from ...gguf.types import TYPES, is_matrix
from ...sources.base import Source
from ...texts.info import TextInfo

_INPUTS = {
    "transformers": "Geometry: of what the projections receive in transformers.",
    "llama.cpp": "Geometry: of what the projections receive in llama.cpp's graph.",
    "white": "Geometry: of the weights alone (white inputs).",
}


def _known_type(name: str) -> str:
    if name not in TYPES:
        raise ValueError(f"there is no type {name[:40]!r}")
    return name


def _known_inputs(name: str) -> str:
    if name not in _INPUTS:
        raise ValueError(f"it is one of {', '.join(_INPUTS)}")
    return name


# Bounds of what a saved file may hold; what was just measured is not checked against them.
Finite = Annotated[float, Field(allow_inf_nan=False)]
Size = Annotated[int, Field(ge=1, le=1 << 40)]
Name = Annotated[str, Field(min_length=1, max_length=1000)]


@dataclass(frozen=True)
class TensorInfo:
    """A tensor.

    Attributes:
        name: GGUF name.
        shape: shape in numpy order.
        kept: type, if the stored bytes are copied; else None.
    """

    name: Name
    shape: Annotated[tuple[Size, ...], Field(min_length=1, max_length=4)]
    kept: Annotated[str, AfterValidator(_known_type)] | None = None


@dataclass(frozen=True)
class BlockDiagnostics:
    """Measurements of one block; None where a measurement was not made.

    Attributes:
        index: number of the block, from 0.
        delta_ppl: dPPL_l = PPL(without the block) - PPL (LieQ, Eqs 1-2).
        compactness_gain: dr_l, mean over projections and heads (Eqs 3-6, 8).
        energy_gain: dE_l, top-k energy gain (Eq 7), same mean.
        projections: dr of each projection, mean over its heads.
        measured: numbers of metrics that measure the weights themselves, by the metric's name.
    """

    index: int
    delta_ppl: Finite | None = None
    compactness_gain: Finite | None = None
    energy_gain: Finite | None = None
    projections: dict[str, Finite] = field(default_factory=dict)
    measured: dict[str, Finite] = field(default_factory=dict)

    def value(self, field: str) -> float | None:
        """A measurement by the name of its field, or of the metric that made it; None where it was not made."""
        measurement: float | None = self.measured.get(field, getattr(self, field, None))
        return measurement


@dataclass(frozen=True)
class Diagnostics:
    """All measurements of a model, enough to plan any budget without the model at hand.

    Attributes:
        metadata_bytes: bytes that the model's own key-values take in a GGUF file.
        base_ppl: perplexity of the whole model on the saliency text, None when not measured.
        projections: ``qkv`` or ``all``.
        baseline: ``projection`` or ``network`` (how the untrained counterpart is made).
        seeds: seeds of the untrained counterpart.
        inputs: source of the inputs for the geometry: ``transformers``, ``llama.cpp``, or ``white`` inputs, which give
            the geometry of the weights alone; None if it was not measured.
        correlations: Spearman's rho of each measured proxy with |dPPL|.
        versions: versions of Python and of the packages that measured.
    """

    model: str
    architecture: str
    model_hash: str
    metadata_bytes: Annotated[int, Field(ge=0, le=1 << 40)]
    tensors: Annotated[tuple[TensorInfo, ...], Field(max_length=1 << 16)]
    blocks: Annotated[tuple[BlockDiagnostics, ...], Field(max_length=4096)]
    probe: TextInfo | None
    saliency_text: TextInfo | None
    base_ppl: Finite | None
    projections: str
    baseline: str
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=1 << 63)], ...], Field(max_length=1000)]
    correlations: dict[str, Finite] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    inputs: Annotated[str, AfterValidator(_known_inputs)] | None = None

    def __post_init__(self) -> None:
        """Refuse records that belong to no model, e.g. from an edited file.

        Raises:
            ValueError: the blocks are not numbered 0, 1, ..., a shape is empty, or a block has no matrix.
        """
        if not self.blocks or [block.index for block in self.blocks] != list(range(len(self.blocks))):
            raise ValueError("the blocks are not numbered from 0 on")
        for tensor in self.tensors:
            if not tensor.shape or min(tensor.shape) < 1:
                raise ValueError(f"{tensor.name} has the shape {tensor.shape}")
        if len({tensor.name for tensor in self.tensors}) < len(self.tensors):
            raise ValueError("a tensor occurs twice")
        matrices = (TensorName.parse(t.name) for t in self.tensors if is_matrix(t.name, t.shape))
        if {name.block for name in matrices} - {None} != {block.index for block in self.blocks}:
            raise ValueError("the tensors are not those of the blocks")


def describe(source: Source) -> Diagnostics:
    """The record of a model without measurements: tensors and sizes. Needs no PyTorch."""
    return Diagnostics(
        model=source.label,
        architecture=source.architecture,
        model_hash=source.content_hash,
        metadata_bytes=metadata_bytes(source.metadata()),
        tensors=tuple(TensorInfo(t.name, t.shape, t.stored if t.kept else None) for t in source.tensors()),
        blocks=tuple(BlockDiagnostics(index) for index in range(source.n_blocks)),
        probe=None,
        saliency_text=None,
        base_ppl=None,
        projections="qkv",
        baseline="projection",
        seeds=(),
        versions={
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("lieq-edge", "numpy", "torch", "transformers")},
        },
    )


def describe_inputs(inputs: str) -> str:
    """A sentence on ``Diagnostics.inputs``."""
    return _INPUTS[inputs]
