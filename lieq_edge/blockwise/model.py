"""A transformers causal LM whose blocks are brought into memory one at a time."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..sources.base import Array, Source
from ..system.memory import keep_freed_memory
from .layers import BelowHead, ExpertMatrices, block_list
from .outer import OuterWeights, missing, parameter_of
from .sixteen_bits import cast_once
from .threads import use_threads

# Blocks stay in memory if all of them take at most so many bytes in float32: a model of about 250M weights is then
# read and dequantised once, and the process stays below 2 GB.
KEEP_BYTES = 1_000_000_000
# Logits that are computed at once: 28 MB, which glibc takes from freed memory. At least so many rows, because with
# fewer reading the matrix would take longer than its products.
_LOGIT_FLOATS = 7 << 20
_FEWEST_LOGIT_ROWS = 64
# Tokens that ``advance`` runs through a block at once.
_BATCH_TOKENS = 2048
# Names of the norm after the last block.
_FINAL_NORMS = ("norm", "ln_f", "final_layernorm")

_Module = TypeVar("_Module", bound=nn.Module)


class BlockModel:
    """The model of a ``Source`` in float32 on the CPU, in evaluation mode, without gradients for its parameters.

    Embedding, final norm, head and rotary tables are in memory from the start; a block's parameters only within
    ``with model.block(i)``.

    Attributes:
        source: source of the weights.
        config: the transformers configuration.
        causal_lm: the transformers model, with the replacements of ``modules.replace_modules``; its blocks are on the
            meta device outside ``block`` and ``whole``.
        n_blocks: number of Transformer blocks.
        columns: columns of the widest matrix in the blocks.
        head_name: GGUF name of the matrix that computes the logits; in a tied model the token embedding.
        embedding_scale: factor of token embeddings (Gemma, Granite); 1 for most models.
    """

    def __init__(self, source: Source, *, threads: int | None = None, keep_blocks: bool | None = None) -> None:
        """Build the model.

        Args:
            source: the model to run.
            threads: CPU threads for torch; see ``use_threads``.
            keep_blocks: keep blocks in memory after they were read; None decides by ``KEEP_BYTES``.

        Raises:
            InputError: transformers does not know the architecture, or the weights do not match the configuration.
        """
        # Imports transformers, which takes seconds; results from the cache need this module, but no model.
        from .modules import empty_model, replace_modules

        keep_freed_memory()
        use_threads(threads)
        self.source = source
        self.causal_lm = empty_model(source.config())
        self._transposed = replace_modules(self.causal_lm)
        self.config = self.causal_lm.config
        self._inner: nn.Module = self.causal_lm.base_model
        self._blocks = block_list(self._inner, source.n_blocks)
        self._final_norm = next(getattr(self._inner, name) for name in _FINAL_NORMS if hasattr(self._inner, name))
        self.n_blocks = len(self._blocks)
        self._kwargs: dict[int, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {}
        self._loaded: set[int] = set()

        prefix = next(name for name, module in self.causal_lm.named_modules() if module is self._blocks) + "."
        self._block_tensors: list[dict[str, str]] = [{} for _ in range(self.n_blocks)]
        outer: dict[str, str] = {}
        count = self.columns = 0
        for spec in source.tensors():
            name = source.hf_name(spec.name)
            if name is None:
                continue
            if name.startswith(prefix):
                index, _, rest = name[len(prefix) :].partition(".")
                self._block_tensors[int(index)][rest] = spec.name
                count += math.prod(spec.shape)
                self.columns = max(self.columns, spec.shape[-1])
            else:
                outer[name] = spec.name
        self._keep = 4 * count <= KEEP_BYTES if keep_blocks is None else keep_blocks
        transposed = self._transposed

        # Not a method, because the object would be part of a cycle and stay in memory until it is collected.
        def read(name: str) -> Tensor:
            return _parameter(source, transposed, name, source.read(name))

        self._read = read
        self._outer_names = outer
        self._outer = OuterWeights(self.causal_lm, source, outer, prefix, read)
        self.head_name = self._outer.head_name
        self.embedding_scale = self._embedding_scale()

    def parameter(self, gguf_name: str, array: Array) -> Tensor:
        """The module's parameter if the GGUF tensor ``gguf_name`` is ``array``."""
        return _parameter(self.source, self._transposed, gguf_name, array)

    @property
    def blocks(self) -> nn.ModuleList:
        """The modules of the blocks; their parameters are in memory within ``block`` and ``whole`` only."""
        return self._blocks

    def places(self) -> Iterator[tuple[str, nn.Module, str]]:
        """GGUF name, module and attribute of every parameter; a tied head is not listed."""
        for index, module in enumerate(self._blocks):
            for name, gguf_name in self._block_tensors[index].items():
                owner, _, attribute = name.rpartition(".")
                yield gguf_name, module.get_submodule(owner), attribute
        for name, gguf_name in self._outer_names.items():
            owner, _, attribute = name.rpartition(".")
            yield gguf_name, self.causal_lm.get_submodule(owner), attribute

    def _load_block(self, index: int) -> None:
        if index in self._loaded:
            return
        module = self._blocks[index]
        for name, parameter in list(module.named_parameters()):
            if name not in self._block_tensors[index]:
                raise missing(self.source, f"{name} of block {index}")
            owner_name, _, attribute = name.rpartition(".")
            value = parameter_of(self._read(self._block_tensors[index][name]), parameter, name, self.source)
            setattr(module.get_submodule(owner_name), attribute, value)
        self._loaded.add(index)

    def _release_block(self, index: int) -> None:
        # Buffers stay, because they are small and are not in the source.
        for module in self._blocks[index].modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(parameter.to("meta"), requires_grad=False))
        self._loaded.discard(index)

    @contextlib.contextmanager
    def block(self, index: int) -> Iterator[nn.Module]:
        """The block's module with its parameters in memory; they are released at the end unless blocks are kept."""
        self._load_block(index)
        try:
            yield self._blocks[index]
        finally:
            if not self._keep:
                self._release_block(index)

    def stop_keeping(self) -> None:
        """Release all blocks; from now on each is read when it is needed."""
        self._keep = False
        for index in list(self._loaded):
            self._release_block(index)

    def release_outer(self, *, for_good: bool = False) -> None:
        """Release embedding and head until they are needed again.

        With ``for_good`` the head is read in pieces from now on, and no tokens can be embedded any more; this does
        nothing if the source cannot read single rows of it.
        """
        if for_good:
            self._outer.read_in_pieces()
        else:
            self._outer.release()

    @contextlib.contextmanager
    def whole(self) -> Iterator[Any]:
        """The transformers model with all blocks in memory (4 bytes per weight), as generating text needs."""
        self._outer.hold()
        try:
            for index in range(self.n_blocks):
                self._load_block(index)
            yield self.causal_lm
        finally:
            if not self._keep:
                for index in list(self._loaded):
                    self._release_block(index)

    def embed(self, tokens: Tensor) -> Tensor:
        """The input of the first block, ``(n, T, d)``, for token ids ``(n, T)``.

        These are the embeddings after everything that the model does before its blocks (scaling, learned positions).

        Raises:
            InputError: the windows are longer than the model's learned positions.
        """
        self._outer.hold()
        hidden: list[Tensor] = []

        def enter(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
            hidden.append(hidden_states)
            return hidden_states

        try:
            self._run_inner([enter] * self.n_blocks, input_ids=tokens)
        except IndexError as error:
            raise InputError(
                f"{self.source.label} has positions for {self.config.max_position_embeddings} tokens only, and a "
                f"window has {tokens.shape[1]}; take shorter windows."
            ) from error
        return hidden[0]

    def embeddings(self) -> list[nn.Embedding]:
        """The embedding tables that ``embed`` uses, first that of the tokens."""
        self._outer.hold()
        tokens = self.causal_lm.get_input_embeddings()
        others = [m for m in self._inner.children() if isinstance(m, nn.Embedding) and m is not tokens]
        return [tokens, *others]

    @contextlib.contextmanager
    def with_embeddings(self, weights: list[Tensor]) -> Iterator[None]:
        """A context in which ``embeddings()`` have other weights."""
        tables = self.embeddings()
        originals = [table.weight for table in tables]
        try:
            for table, weight in zip(tables, weights, strict=True):
                table.weight = nn.Parameter(weight, requires_grad=False)
            yield
        finally:
            for table, weight in zip(tables, originals, strict=True):
                table.weight = weight

    def _embedding_scale(self) -> float:
        # Measured, because families scale in different places. Differences between tokens at the same position do not
        # depend on learned positions, which are added.
        table = self.embeddings()[0].weight[:64]
        with torch.no_grad():
            inputs = self.embed(torch.arange(len(table))[:, None])[:, 0].diff(dim=0).flatten().double()
        embeddings = table.diff(dim=0).flatten().double()
        return float(inputs @ embeddings / (embeddings @ embeddings)) if embeddings.any() else 1.0

    def run_block(self, module: nn.Module, index: int, hidden: Tensor) -> Tensor:
        """Output ``(n, T, d)`` of block ``index`` for hidden states ``(n, T, d)``, differentiable in these."""
        args, kwargs = self._block_arguments(hidden.shape[1])[index]
        out = module(hidden, *args, **kwargs)
        result: Tensor = out[0] if isinstance(out, tuple) else out
        return result

    def advance(
        self,
        module: nn.Module,
        index: int,
        hidden: Tensor,
        within: Callable[[slice], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> None:
        """Replace hidden states by the block's output, in place and a few sequences at a time.

        Args:
            module, index: the block.
            hidden: ``(n, T, d)``.
            within: makes a context in which the block runs, from the slice of sequences.
        """
        with cast_once(module):
            for batch in self.batches(hidden.shape):
                with within(batch):
                    hidden[batch] = self.run_block(module, index, hidden[batch])

    def batches(self, shape: tuple[int, ...]) -> list[slice]:
        """Slices of a few of the n sequences of shape ``(n, T, ...)``."""
        step = max(1, _BATCH_TOKENS // shape[1])
        return [slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step)]

    def linears(self, module: nn.Module, index: int) -> dict[str, nn.Linear]:
        """The linear layers of block ``index`` by the GGUF name of their weight, in the source's order."""
        return self._owners(module, index, nn.Linear)

    def experts(self, module: nn.Module, index: int) -> dict[str, ExpertMatrices]:
        """The projections of the experts of block ``index``, by GGUF name; empty for most models."""
        return self._owners(module, index, ExpertMatrices)

    def _owners(self, module: nn.Module, index: int, kind: type[_Module]) -> dict[str, _Module]:
        owners = {}
        for name, gguf_name in self._block_tensors[index].items():
            owner_name, _, attribute = name.rpartition(".")
            owner = module.get_submodule(owner_name)
            if attribute == "weight" and isinstance(owner, kind):
                owners[gguf_name] = owner
        return owners

    def final_norm(self, hidden: Tensor) -> Tensor:
        """The head's input ``(..., d)`` for the last block's output ``(..., d)``."""
        result: Tensor = self._final_norm(hidden)
        return result

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits ``(..., vocabulary)`` for the last block's output ``(..., d)``, all at once."""
        return self.head(hidden)[1]

    def head(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The output of the head's matrix for the last block's output, and the logits.

        They are the same tensor unless the model scales or caps its logits (Granite, Gemma 2).

        Args:
            hidden: ``(..., d)``.

        Returns:
            Two tensors ``(..., vocabulary)``.
        """
        self._outer.hold()
        normed = self.final_norm(hidden).reshape(1, -1, hidden.shape[-1])
        outputs: list[Tensor] = []

        def record(_: nn.Module, __: Any, out: Tensor) -> Tensor:
            # The model continues with a view of the first output, so that gradients reach it.
            outputs.append(out.view(*hidden.shape[:-1], -1))
            outputs.append(outputs[0].view_as(out))
            return outputs[1]

        hook = self.causal_lm.get_output_embeddings().register_forward_hook(record)
        output = BelowHead(normed)
        self._inner.forward = lambda *_, **__: output
        try:
            logits: Tensor = self.causal_lm(inputs_embeds=normed, use_cache=False).logits
        finally:
            del self._inner.forward
            hook.remove()
        return outputs[0], outputs[0] if logits is outputs[1] else logits.view_as(outputs[0])

    def logit_chunks(self, hidden: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Logits for the last block's output ``(N, d)`` in pieces that take little memory: ``(rows, logits)``."""
        for rows in self.logit_rows(hidden.shape[0]):
            yield rows, self.logits(hidden[rows])

    def logit_rows(self, count: int) -> list[slice]:
        """Slices of ``count`` tokens, so small that their logits take little memory."""
        step = max(_FEWEST_LOGIT_ROWS, _LOGIT_FLOATS // self.causal_lm.get_output_embeddings().weight.shape[0])
        return [slice(start, min(start + step, count)) for start in range(0, count, step)]

    def token_losses(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Negative log-likelihood in nats of each next token.

        Args:
            hidden: the last block's output, ``(n, T, d)``.
            tokens: token ids ``(n, T)``.

        Returns:
            ``(n, T - 1)``; position t is the loss of token t + 1.
        """
        n, length = tokens.shape
        flat = hidden[:, :-1].reshape(n * (length - 1), -1)
        targets = tokens[:, 1:].reshape(-1)
        losses = [
            nn.functional.cross_entropy(logits, targets[rows], reduction="none")
            for rows, logits in self.logit_chunks(flat)
        ]
        return torch.cat(losses).view(n, length - 1)

    def _block_arguments(self, length: int) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        """Arguments of each block beside the hidden states, for sequences of ``length`` tokens.

        They are recorded from a run of the inner model, so that masks, positions and per-layer arguments are right for
        any decoder; made with one sequence, they broadcast over any number.
        """
        if length in self._kwargs:
            return self._kwargs[length]
        recorded: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        hidden = torch.zeros(1, length, self.causal_lm.get_input_embeddings().weight.shape[1])

        def record(_: Any, *args: Any, **kwargs: Any) -> Tensor:
            recorded.append((args, kwargs))
            # A full tensor, because versions of transformers in which blocks return tuples take [0] of it.
            return hidden

        with torch.no_grad():
            self._run_inner([record] * self.n_blocks, inputs_embeds=hidden)
        # Only one length is kept, because a mask of many tokens is large.
        self._kwargs = {length: recorded}
        return recorded

    def _run_inner(self, blocks: list[Callable[..., Tensor]], **inputs: Tensor) -> None:
        """Run the model below its head with functions in place of its blocks, and without its final norm."""
        functions = dict(zip(self._blocks, blocks, strict=True))
        functions[self._final_norm] = lambda hidden: hidden
        for module, function in functions.items():
            module.forward = function
        try:
            self._inner(**inputs, use_cache=False)
        finally:
            for module in functions:
                del module.forward


def _parameter(source: Source, transposed: Collection[str], gguf_name: str, array: Array) -> Tensor:
    value = source.to_hf(gguf_name, array)
    tensor = torch.from_numpy(value if value.flags.writeable else value.copy())
    return (tensor.T if source.hf_name(gguf_name) in transposed else tensor).contiguous()
