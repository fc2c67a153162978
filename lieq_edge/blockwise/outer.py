"""The weights outside a model's blocks. Embedding and head, which are large, can be released and read again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..sources.base import Source
from .sixteen_bits import DTYPES, keep_sixteen_bits, read_as_needed, suits

# Rows that are checked for finite values at a time.
_ROWS = 4096


class OuterWeights:
    """Embedding, final norm and head of a transformers model.

    Attributes:
        head_name: GGUF name of the matrix that makes the logits; a tied model's is its token embedding.
    """

    def __init__(
        self, model: Any, source: Source, names: dict[str, str], blocks_prefix: str, read: Callable[[str], Tensor]
    ) -> None:
        """Read all of them, and tie a head without weights to the embedding.

        Args:
            model: the transformers model.
            source: source of the weights.
            names: GGUF names by the model's parameter names.
            blocks_prefix: prefix of the parameter names of blocks.
            read: reads a parameter by its GGUF name, in float32.

        Raises:
            InputError: weights are missing, have another shape, or are not finite.
        """
        self._source = source
        self._read = read
        self._head, self._embedding = model.get_output_embeddings(), model.get_input_embeddings()
        self._released = False
        tied = model.config.tie_word_embeddings
        stored = {spec.name: spec.stored for spec in source.tensors()}
        self._kinds: dict[str, torch.dtype | None] = {}
        owners: dict[nn.Module, str] = {}
        for name, parameter in list(model.named_parameters(remove_duplicate=False)):
            if name.startswith(blocks_prefix):
                continue
            owner_name, _, attribute = name.rpartition(".")
            owner = model.get_submodule(owner_name)
            if name in names:
                kind = DTYPES.get(stored[names[name]])
                large = owner in (self._head, self._embedding) and suits(owner) and (suits(self._head) or not tied)
                self._kinds[names[name]] = kind if large else None
                value = parameter_of(self._value(names[name]), parameter, name, source)
                if value.dtype != torch.float32:
                    keep_sixteen_bits(owner)
                setattr(owner, attribute, value)
                owners[owner] = names[name]
            elif owner is not self._head or not tied:
                raise missing(source, name)
        if self._head not in owners:
            owners[self._head] = owners[self._embedding]
            self._head.weight = self._embedding.weight
            if self._head.weight.dtype != torch.float32:
                keep_sixteen_bits(self._head)
        self._owners = {self._embedding: owners[self._embedding], self._head: owners[self._head]}
        self.head_name = owners[self._head]

    def _value(self, name: str) -> Tensor:
        """A parameter, in its 16 bits if it stays in them; read directly in these if the source can."""
        kind = self._kinds[name]
        if kind is None:
            return self._read(name)
        value = stored_rows(self._source, name, slice(0, None), kind)
        # A sum is not finite if one of its terms is not; then ``read`` raises a sentence. In pieces, because they are
        # cast to float32.
        if value is not None and all(
            bool(torch.isfinite(part.sum(dtype=torch.float32))) for part in value.split(_ROWS)
        ):
            return value
        return self._read(name).to(kind)

    def release(self) -> None:
        """Release embedding and head until ``hold``."""
        self._released = True
        for module in self._owners:
            module.weight = nn.Parameter(module.weight.to("meta"), requires_grad=False)

    def hold(self) -> None:
        """Read embedding and head again if they were released."""
        if not self._released:
            return
        self._released = False
        values = {name: self._value(name) for name in set(self._owners.values())}
        for module, name in self._owners.items():
            module.weight = nn.Parameter(values[name], requires_grad=False)

    def read_in_pieces(self) -> None:
        """Release both for good; the head then reads rows of its matrix when it needs them, for float32 passes only.

        Does nothing if the source cannot read single rows in 16 bits.
        """
        name, kind = self.head_name, self._kinds[self.head_name]
        if kind is None or stored_rows(self._source, name, slice(0, 1), kind) is None:
            return

        def read(rows: slice) -> Tensor:
            value = stored_rows(self._source, name, rows, kind)
            assert value is not None
            return value

        self.release()
        self._released = False
        read_as_needed(self._head, read)


def stored_rows(source: Source, name: str, rows: slice, kind: torch.dtype) -> Tensor | None:
    """Rows of embedding or head in the 16 bits of ``kind``, in which they are stored, ``(rows, columns)``.

    None where the source cannot read single rows.

    Raises:
        InputError: the file ends before they do.
    """
    bits = source.read_rows(name, rows)
    return None if bits is None else torch.from_numpy(bits).view(kind)


def parameter_of(value: Tensor, expected: Tensor, name: str, source: Source) -> nn.Parameter:
    """``value`` as the parameter ``name``.

    Raises:
        InputError: its shape is not that of ``expected``.
    """
    if value.shape != expected.shape:
        raise InputError(
            f"{name} of {source.label} has shape {tuple(value.shape)} where its configuration asks for "
            f"{tuple(expected.shape)}; the files do not belong together."
        )
    return nn.Parameter(value, requires_grad=False)


def missing(source: Source, name: str) -> InputError:
    """The error to raise if the source has no weights for a parameter."""
    return InputError(f"{source.label} has no weights for {name}; the model is incomplete.")
