"""A written file as a model whose scales, norms and biases can be trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..blockwise.model import BlockModel
from ..blockwise.sixteen_bits import cast_once
from ..gguf.blocks import LAYOUTS
from ..llama.encoders import dequantize
from ..sources.base import Source
from .matrix import TunedLinear
from .teacher import Predictions, divergence
from .vectors import TunedVector

Read = Callable[[str], tuple[str, npt.NDArray[np.uint8]]]
"""Type and bytes of a tensor of the file; of a matrix uint8 ``(rows, bytes of a row)``."""

# Bytes of the graphs that are kept between the passes forward and backward; other blocks are run twice.
_GRAPH_BYTES = 1_500_000_000
# Bytes of a graph for each input and output of a linear, at each token.
_FLOAT_BYTES = 4


class Student:
    """The model of a file.

    Attributes:
        matrices: linears with quantised matrices, by GGUF name.
        vectors: norms and biases, by GGUF name.
    """

    def __init__(self, source: Source, read: Read, *, threads: int | None = None) -> None:
        """Build the model.

        Args:
            source: original of the file, in its layout.
            read: reads tensors of the file.
            threads: number of CPU threads; None takes all cores.
        """
        self.matrices: dict[str, TunedLinear] = {}
        self.vectors: dict[str, TunedVector] = {}
        self._model = BlockModel(source, threads=threads, keep_blocks=True)
        self._widths = [self._replace_linears(read, index) for index in range(self._model.n_blocks)]
        shapes = {spec.name: spec.shape for spec in source.tensors()}
        with self._model.whole():
            for name, owner, attribute in list(self._model.places()):
                if name not in self.matrices:
                    self._set(read, name, shapes[name], owner, attribute)

    def _replace_linears(self, read: Read, index: int) -> int:
        """Put trained linears into a block; inputs and outputs of all linears together."""
        module = self._model.blocks[index]
        linears = self._model.linears(module, index)
        places = {linear: name for name, linear in module.named_modules()}
        for name, linear in linears.items():
            kind, packed = read(name)
            order = self._order(name, linear)
            if kind not in LAYOUTS or order is None:
                continue
            self.matrices[name] = TunedLinear(packed, kind, order, linear.bias)
            parent, _, attribute = places[linear].rpartition(".")
            setattr(module.get_submodule(parent), attribute, self.matrices[name])
        return sum(linear.in_features + linear.out_features for linear in linears.values())

    def _order(self, name: str, linear: nn.Linear) -> npt.NDArray[np.intp] | None:
        """The file's row that is each row of a module; None if the layouts differ in another way."""
        numbers = np.arange(linear.out_features, dtype=np.float32)[:, None]
        try:
            given = self._model.parameter(name, np.repeat(numbers, linear.in_features, axis=1)).numpy()
        except ValueError:  # a square that is transposed has another shape
            return None
        order = given[:, 0].astype(np.intp)
        whole = given.shape == (linear.out_features, linear.in_features) and bool((given == order[:, None]).all())
        return order if whole and np.array_equal(np.sort(order), numbers[:, 0]) else None

    def _set(self, read: Read, name: str, shape: tuple[int, ...], owner: nn.Module, attribute: str) -> None:
        """Give a parameter that is no trained matrix the file's values; vectors are trained."""
        kind, packed = read(name)
        parameter = owner.get_parameter(attribute)
        if kind == "F32" and len(shape) == 1 and parameter.dim() == 1:
            values = packed.reshape(-1).view(np.float32)
            self.vectors[name] = TunedVector(self._model.parameter, name, values, owner, attribute)
            return
        matrix = dequantize(packed, kind, (shape[0], shape[-1])) if len(shape) == 2 else packed.view(np.float32)
        value = self._model.parameter(name, np.ascontiguousarray(matrix).reshape(shape)).to(parameter.dtype)
        causal_lm = self._model.causal_lm
        embedding, head = causal_lm.get_input_embeddings(), causal_lm.get_output_embeddings()
        tied = owner is embedding and head.weight is embedding.weight
        setattr(owner, attribute, nn.Parameter(value, requires_grad=False))
        if tied:
            head.weight = embedding.weight

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Trained tensors by name: the GGUF name and, of matrices, the field."""
        for name, matrix in self.matrices.items():
            for field, parameter in matrix.fields.parameters.items():
                yield f"{name} {field}", parameter
        for name, vector in self.vectors.items():
            yield f"{name} vector", vector.change

    def slopes(self) -> Iterator[tuple[str, Tensor]]:
        """Gradients since the last call, by the names of ``parameters``."""
        for name, matrix in self.matrices.items():
            for field in list(matrix.slopes):
                yield f"{name} {field}", matrix.slopes.pop(field)
        for name, vector in self.vectors.items():
            slope = vector.take_slope()
            if slope is not None:
                yield f"{name} vector", slope

    def changed(self) -> None:
        """Take note that parameters have changed."""
        for matrix in self.matrices.values():
            matrix.changed()

    def loss(self, predictions: Predictions, *, train: bool) -> float:
        """Mean KL divergence from the original's predictions, in nats a token; ``train`` also adds to the slopes."""
        for vector in self.vectors.values():
            vector.put(trained=train)
        with torch.no_grad():
            hidden = self._model.embed(torch.from_numpy(predictions.tokens)).float()
        n_blocks = self._model.n_blocks
        entered: list[Tensor] = []
        graphs: dict[int, tuple[Tensor, Tensor]] = {}
        first_kept = self._first_kept(hidden.shape[0] * hidden.shape[1]) if train else n_blocks
        for index in range(n_blocks):
            entered.append(hidden if train else hidden[:0])
            with torch.set_grad_enabled(index >= first_kept):
                piece = hidden.detach().requires_grad_(index >= first_kept)
                out = self._run(index, piece)
            if index >= first_kept:
                graphs[index] = piece, out
            hidden = out.detach().float()
        total, gradient = self._head(hidden, predictions, train=train)
        for index in reversed(range(n_blocks if train else 0)):
            if index in graphs:
                piece, out = graphs.pop(index)
            else:
                piece = entered[index].detach().requires_grad_()
                with torch.enable_grad():
                    out = self._run(index, piece)
            out.backward(gradient.to(out.dtype))
            assert piece.grad is not None
            gradient = piece.grad
            entered.pop()
        return total

    def _run(self, index: int, hidden: Tensor) -> Tensor:
        return self._model.run_block(self._model.blocks[index], index, hidden)

    def _first_kept(self, tokens: int) -> int:
        """The first block whose graph is kept until the pass backward."""
        left = _GRAPH_BYTES
        for index in reversed(range(len(self._widths))):
            left -= self._widths[index] * _FLOAT_BYTES * tokens
            if left < 0:
                return index + 1
        return 0

    def _head(self, hidden: Tensor, predictions: Predictions, *, train: bool) -> tuple[float, Tensor]:
        """Mean divergence, and its gradient at the last block's output ``hidden`` ``(n, T, d)``."""
        flat = hidden.flatten(0, 1)
        ids = torch.from_numpy(predictions.ids).flatten(0, 1).long()
        logs = torch.from_numpy(predictions.logs).flatten(0, 1).float()
        total, gradient = 0.0, torch.empty_like(flat)
        with cast_once(self._model.causal_lm.get_output_embeddings()), torch.set_grad_enabled(train):
            for rows in self._model.logit_rows(len(flat)):
                piece = flat[rows].detach().requires_grad_(train)
                logits = self._model.logits(piece)
                losses, slope = divergence(logits.detach().float(), ids[rows], logs[rows], slope=train)
                total += float(losses.double().sum())
                if slope is not None:
                    logits.backward((slope / len(flat)).to(logits.dtype))
                    assert piece.grad is not None
                    gradient[rows] = piece.grad
        return total / len(flat), gradient.view_as(hidden)
