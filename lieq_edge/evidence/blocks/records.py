"""What was measured of a model: one record a block, and all that allocation needs to know of its tensors."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...gguf.types import is_matrix
from ...texts.info import TextInfo as TextInfo


@dataclass(frozen=True)
class TensorInfo:
    """A tensor by GGUF name with its shape in numpy order; ``kept`` is its type when it is written as it is stored."""

    name: str
    shape: tuple[int, ...]
    kept: str | None = None


@dataclass(frozen=True)
class BlockDiagnostics:
    """Measurements of one block; None where a measurement was not made.

    Attributes:
        index: 0-based.
        delta_ppl: dPPL_l = PPL(without the block) - PPL (LieQ, Eqs 1-2).
        compactness_gain: dr_l, mean over projections and heads (Eqs 3-6, 8).
        energy_gain: dE_l, top-k energy gain (Eq 7), same mean.
        projections: dr of each projection, mean over its heads.
    """

    index: int
    delta_ppl: float | None = None
    compactness_gain: float | None = None
    energy_gain: float | None = None
    projections: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Diagnostics:
    """All measurements of a model, enough to plan any budget without the model at hand.

    Attributes:
        metadata_bytes: bytes that the model's own key-values take in a GGUF file.
        base_ppl: perplexity of the whole model on the saliency text, None when not measured.
        projections: ``qkv`` or ``all``.
        baseline: ``projection`` or ``network`` (how the untrained counterpart is made).
        seeds: seeds of the untrained counterpart.
        inputs: whose inputs the projections had for the geometry: those of ``transformers``, of ``llama.cpp``, or
            ``white`` ones, which is the geometry of the weights alone; None when it was not measured.
        correlations: Spearman rho of each proxy with |dPPL|, for those measured.
        versions: of the packages that measured.
    """

    model: str
    architecture: str
    model_hash: str
    metadata_bytes: int
    tensors: tuple[TensorInfo, ...]
    blocks: tuple[BlockDiagnostics, ...]
    probe: TextInfo | None
    saliency_text: TextInfo | None
    base_ppl: float | None
    projections: str
    baseline: str
    seeds: tuple[int, ...]
    correlations: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    inputs: str | None = None

    def __post_init__(self) -> None:
        """Refuse what is of no model, e.g. a file that was edited.

        Raises:
            ValueError: the blocks are not numbered 0, 1, ..., a shape is empty, or a block has no matrix.
        """
        if not self.blocks or [block.index for block in self.blocks] != list(range(len(self.blocks))):
            raise ValueError("the blocks are not numbered from 0 on")
        for tensor in self.tensors:
            if not tensor.shape or min(tensor.shape) < 1:
                raise ValueError(f"{tensor.name} has the shape {tensor.shape}")
        matrices = (t.name.split(".") for t in self.tensors if t.name.startswith("blk.") and is_matrix(t.name, t.shape))
        if {parts[1] for parts in matrices} != {str(block.index) for block in self.blocks}:
            raise ValueError("the tensors are not those of the blocks")
