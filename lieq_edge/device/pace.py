"""How fast a device runs a model, from the types of its matrices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..gguf.container import ARCHITECTURE_KEY
from ..gguf.header import type_name
from ..gguf.names import EMBEDDING, HEAD, block_of
from ..gguf.splits import read_model
from ..gguf.storage import storage_type
from ..gguf.types import TYPES
from .profile import Profile, TypeCost
from .repack import repacked_types


class Matrix(NamedTuple):
    """A tensor of a model: GGUF name, shape in numpy order, ggml type."""

    name: str
    shape: tuple[int, ...]
    type: str


@dataclass(frozen=True)
class Pace:
    """Predicted speed.

    Attributes:
        prefill: tokens a second of a prompt.
        decode: tokens a second of an answer, at an empty context.
        interpolated: types of the model that the profile does not have, whose time is interpolated by their bits.
        estimated: the profile's numbers of some of the types are estimates.
    """

    prefill: float
    decode: float
    interpolated: tuple[str, ...]
    estimated: bool


@dataclass(frozen=True)
class Work:
    """The weights that a token is multiplied with.

    Attributes:
        tied: the embedding is the head as well.
        used: share of the experts of a block that a token goes through; 1 without experts.
        blocks: number of blocks.
        width: columns of the residual stream.
    """

    tied: bool
    used: float
    blocks: int
    width: int = 0

    def weights(self, name: str, shape: tuple[int, ...]) -> float:
        """Weights of a tensor that a token of an answer is multiplied with; of a table of rows none."""
        if len(shape) < 2 or (block_of(name) is None and name != HEAD and not (self.tied and name == EMBEDDING)):
            return 0.0
        return prod(shape) * (self.used if len(shape) == 3 else 1.0)


def work_of(shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, object], architecture: str) -> Work:
    """The work of a model, from the shapes of its tensors and its key-values."""
    blocks = {block for name in shapes if (block := block_of(name)) is not None}
    experts, used = (metadata.get(f"{architecture}.expert_{key}") for key in ("count", "used_count"))
    share = used / experts if isinstance(used, int) and isinstance(experts, int) and experts > 0 else 1.0
    width = shapes[EMBEDDING][-1] if EMBEDDING in shapes else 0
    return Work(tied=HEAD not in shapes, used=min(share, 1.0), blocks=len(blocks), width=width)


def read_work(path: Path) -> tuple[list[Matrix], Work]:
    """The tensors of a GGUF file, and the work of its model.

    Args:
        path: the file, or the first of several parts.

    Raises:
        InputError: a part is missing or damaged.
    """
    header = read_model(path).header
    metadata = {kv.key: kv.value for kv in header.metadata}
    tensors = [Matrix(tensor.name, tensor.shape, type_name(tensor.type)) for tensor in header.tensors]
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    return tensors, work_of(shapes, metadata, str(metadata.get(ARCHITECTURE_KEY)))


def cost_of(profile: Profile, type_name: str) -> TypeCost:
    """The time of a weight of a type; of one that the profile lacks, interpolated by bits a weight.

    Types with another layout and types without one follow lines of their own. Beyond the known types, prompts keep the
    time of the nearest one, and the time of an answer is proportional to the bits.
    """
    known = profile.types.get(type_name)
    if known is not None:
        return known
    repacked = repacked_types(profile.instructions)
    alike = {name: cost for name, cost in profile.types.items() if (name in repacked) == (type_name in repacked)}
    points = sorted(
        (TYPES[name].bpw, cost.prefill, cost.decode, cost.row_prefill, cost.row_decode)
        for name, cost in (alike or profile.types).items()
    )
    bits, prefill, decode, *by_row = (np.array(column) for column in zip(*points, strict=True))
    wanted = storage_type(type_name).bpw
    nearest = float(np.clip(wanted, bits[0], bits[-1]))
    return TypeCost(
        prefill=float(np.interp(wanted, bits, prefill)),
        decode=float(np.interp(wanted, bits, decode)) * wanted / nearest,
        row_prefill=float(np.interp(wanted, bits, by_row[0])),
        row_decode=float(np.interp(wanted, bits, by_row[1])),
        source="interpolated by bits a weight",
        estimated=True,
    )


def decode_seconds(profile: Profile, matrix: Matrix, work: Work) -> float:
    """Seconds that a token of an answer spends in a tensor."""
    weights = work.weights(matrix.name, matrix.shape)
    return 1e-9 * cost_of(profile, matrix.type).of(weights, matrix.shape[-1])[1] if weights else 0.0


def block_seconds(profile: Profile, work: Work) -> float:
    """Seconds that a token of an answer spends in everything but the matrices."""
    return 1e-9 * work.blocks * profile.block.of(work.width)[1]


def predict_pace(profile: Profile, tensors: Iterable[Matrix], work: Work) -> Pace:
    """The speed of a model on a device, with the profile's threads."""
    prefill, decode = (1e-9 * work.blocks * each for each in profile.block.of(work.width))
    interpolated, estimated = dict[str, None](), False
    for matrix in tensors:
        weights = work.weights(matrix.name, matrix.shape)
        if not weights:
            continue
        cost = cost_of(profile, matrix.type)
        of_prompt, of_answer = cost.of(weights, matrix.shape[-1])
        decode += 1e-9 * of_answer
        if block_of(matrix.name) is not None:  # of a prompt only the last token goes through the head
            prefill += 1e-9 * of_prompt
        if matrix.type not in profile.types:
            # Routers and the like are small, and stay in full precision everywhere.
            if matrix.type != "F32":
                interpolated[matrix.type] = None
        else:
            estimated = estimated or cost.estimated
    return Pace(
        1 / prefill if prefill else float("inf"),
        1 / decode if decode else float("inf"),
        tuple(interpolated),
        estimated,
    )
