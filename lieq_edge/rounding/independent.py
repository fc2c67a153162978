"""Round a block by what its linears receive in the original: nothing is run, and each block is by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..allocate.plan import TensorPlan
from ..llama.encoders import Packed
from ..system.memory import WIDE, give_back_memory
from .group import Prepared, prepare_matrices, round_prepared

if TYPE_CHECKING:
    from ..blockwise.workers import Workers
    from ..evidence.loss.hessians import KeptMoments
    from ..evidence.loss.predictions import Losses
    from ..gguf.names import InputGroup
    from ..sources.base import Source


def round_block(
    source: Source,
    index: int,
    plans: Mapping[str, TensorPlan],
    moments: KeptMoments,
    losses: Losses,
    workers: Workers,
) -> dict[str, Packed]:
    """The matrices of block ``index`` that have an H, by GGUF name.

    Args:
        source: of the weights.
        index: the block.
        plans: the types, by name.
        moments: of all blocks.
        losses: how the types that were chosen are to be rounded.
        workers: where that is done.

    Raises:
        InputError: H is gone from the cache.
    """
    found = moments.get(index)

    def prepare(readers: InputGroup) -> dict[str, Prepared]:
        types = {name: plans[name].type for name in readers}
        choices = {name: losses[name][kind] for name, kind in types.items()}
        matrices = {name: source.read(name) for name in readers}
        return prepare_matrices(matrices, types, choices, found.pop(readers).matrix())

    # Side by side, unless H and its factor are large.
    columns = {readers: len(one.diagonal) for readers, one in found.items()}
    narrow = [readers for readers in found if columns[readers] < WIDE]
    packed: dict[str, Packed] = {}
    for group in [narrow, *([readers] for readers in found if columns[readers] >= WIDE)]:
        if not group:
            continue
        widest = max(columns[readers] for readers in group)
        if widest >= WIDE:
            give_back_memory()
        with workers.for_columns(widest):
            prepared = {name: one for part in workers.map(prepare, group) for name, one in part.items()}
        packed |= {name: own for name, (own, _) in round_prepared(prepared, workers, keep_values=False).items()}
    return packed
