"""Loss weights: how much the loss depends on each token and output of each linear layer, from one backward pass.

The loss is the model's own: labels are sampled from its predictions, so that the mean of squared gradients is the
diagonal of the true Fisher matrix. For a linear layer z = W x with g_t = dL/dz_t, an error E of the weights raises the
loss by about ``1/2 sum_t (g_t . E x_t)^2``. Of g two vectors a layer are recorded: its mean square at each token,
``w_t = mean_c g_{t,c}^2``, and its energy at each output channel, ``a_c = sum_t g_{t,c}^2``.

Layers that read the same input for the same purpose (query and key; gate and up) count as one that has all their
outputs, and share one w and one H. The value stays by itself: its gradient is ten times as large as those of query and
key, and at other tokens.

Two tokens of a sequence that act on the loss of a third do not act independently: the sum above leaves out the part of
``(sum_t g_t . E x_t)^2`` beyond the sum of squares. For random errors the two are compared, linear by linear; their
ratio is the linear's *coherence*. It is about two for values, which many later tokens read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ...blockwise.mixture import Routed, mixture_of
from ...blockwise.model import BlockModel
from ...blockwise.precision import fast_products
from ...blockwise.residual import ResidualStream
from ...blockwise.sixteen_bits import cast_once
from ...errors import InputError
from ...gguf.names import InputGroup, block_of
from ...store import Entry, Run, Steps
from ...system.memory import give_back_memory
from ...system.progress import stage
from .coherence import Coherence, Erring
from .expert_weights import ExpertGradients

# Part of the name of matrices that share their w with no other of the same input.
_APART = ".attn_v."
# Hidden floats that go through a block at once; its graph holds about twenty floats for each.
_BATCH_FLOATS = 1 << 21


class Listener(Protocol):
    """Receives the inputs of the linears of a block, a few sequences at a time, while gradients pass through it."""

    def add(self, batch: slice, received: dict[InputGroup, tuple[Tensor, Tensor]]) -> None:
        """Receive inputs ``(b, T, columns)`` of the sequences ``batch``, and their w_t ``(b, T)``, by input group."""

    def add_routed(self, routed: Routed, weights: dict[InputGroup, Tensor]) -> None:
        """The same of experts: their tokens, and w_t ``(b, T)`` for a visit with weight 1."""

    def done(self, channels: dict[str, Tensor]) -> Any:
        """Finish after all sequences; ``channels`` are a_c of each linear times its coherence.

        Returns:
            Results as JSON values, which ``measure_loss_weights`` gives to its caller.
        """


Listen = Callable[[nn.Module, int], Listener]
"""Makes the listener of a block from its module and index; the module's weights are in memory until ``done``."""


@dataclass(frozen=True)
class LossWeights:
    """Squared gradients of the loss (nats) at the outputs of linear layers.

    Attributes:
        tokens: w_t, float32 ``(n, T)``, by the linears that share it, those of a block in the order in which it runs;
            then those of experts, for a visit with weight 1 (``expert_weights``).
        channels: a_c divided by its mean over those linears, float32 ``(outputs,)``, by GGUF tensor name; of experts
            ``(experts, outputs)``.
        embedding: mean squared gradient at a token's embedding, for all its uses in a sequence together, summed over
            the sequences, ``(vocabulary,)``.
        embedding_columns: the same gradients' energy by column, divided by its mean, ``(d,)``.
    """

    tokens: dict[InputGroup, Tensor]
    channels: dict[str, Tensor]
    embedding: Tensor
    embedding_columns: Tensor

    def readers(self, block: int) -> list[InputGroup]:
        """The input groups of a block, in the order in which it runs them."""
        return [names for names in self.tokens if block_of(names[0]) == block]


def measure_loss_weights(
    model: BlockModel,
    tokens: Tensor,
    *,
    seed: int = 0,
    listen: Listen | None = None,
    results: dict[int, Any] | None = None,
    bfloat16: bool | None = None,
    run: Run | None = None,
    original: ResidualStream | None = None,
) -> tuple[LossWeights, Tensor]:
    """Run token windows forward and backward through the model, block by block.

    The forward pass stores the input of each block, from which the block runs again in the backward pass.

    Args:
        model: model in full precision.
        tokens: token ids, ``(n, T)``.
        seed: seed of the sampled labels.
        listen: function that makes the listener of each block, the last block first; None listens to none.
        results: dictionary that receives the results of the listeners, by block.
        bfloat16: see ``fast_products``.
        run: run for these arguments only, to store finished blocks and to resume.
        original: residual stream that stores the inputs of blocks for others too; None drops each input after use.

    Returns:
        Weights of all linears of blocks, of head and embedding; and the last block's output, ``(n, T, d)``.

    Raises:
        InputError: a gradient is NaN or Inf.
    """
    run = run or Run(None)
    results = {} if results is None else results
    count = model.n_blocks
    collector = _Collector(model, tokens, listen)
    inputs = original or ResidualStream(model, tokens, run)
    # The head is the step before the last block's.
    steps = Steps(run, range(count, -1, -1))
    with stage("Measuring loss weights", 3 * count) as advance, fast_products(bfloat16):
        for index, entry in steps.results():
            collector.restore(entry)
            if index < count:
                results[index] = entry.record["result"]
        hidden = inputs.forward(advance)  # at once when resumed, unless its states are gone
        if steps.state is not None:
            gradient = torch.from_numpy(steps.state.arrays["gradient"]).clone()
            for _ in range(2 * (count - len(steps.remaining))):
                advance()
        for index in steps.remaining:
            if index == count:
                with cast_once(model.causal_lm.get_output_embeddings()):
                    gradient = collector.head(hidden, torch.Generator().manual_seed(seed))
                model.release_outer()
            else:
                give_back_memory(model.columns)
                with model.block(index) as module:
                    entered, last_writer = inputs.take(index), inputs.last_writer(index)
                    results[index] = collector.block(module, index, entered, gradient, last_writer)
                    del entered
                advance()
                advance()
            steps.finish(index, collector.entry(results.get(index)), {"gradient": gradient.numpy()})
            if index < count and original is None:
                inputs.drop(index)
        collector.embedding(gradient)
    return collector.result(), hidden


class _Collector:
    """Sums of squared gradients while sequences go backward."""

    def __init__(self, model: BlockModel, tokens: Tensor, listen: Listen | None) -> None:
        self.model = model
        self.ids = tokens
        self.listen = listen
        vocabulary, width = model.causal_lm.get_input_embeddings().weight.shape
        self.tokens: dict[InputGroup, Tensor] = {}
        self.channels: dict[str, Tensor] = {}
        self.uses = torch.zeros(vocabulary, dtype=torch.float64)
        self.columns = torch.zeros(width, dtype=torch.float64)
        self._readers: list[InputGroup] = []

    def entry(self, result: Any) -> Entry:
        """The sums that the last step added, and the result of its listener."""
        arrays = {f"tokens {names[0]}": self.tokens[names].numpy() for names in self._readers}
        arrays |= {f"channels {name}": self.channels[name].numpy() for names in self._readers for name in names}
        return Entry(arrays, {"readers": self._readers, "result": result})

    def restore(self, entry: Entry) -> None:
        """Add the sums of a step of an interrupted run."""
        for names in map(tuple, entry.record["readers"]):
            self.tokens[names] = torch.from_numpy(entry.arrays[f"tokens {names[0]}"]).clone()
            for name in names:
                self.channels[name] = torch.from_numpy(entry.arrays[f"channels {name}"]).clone()

    def head(self, hidden: Tensor, generator: torch.Generator) -> Tensor:
        """Gradient of the summed loss at the last block's output ``hidden``, both ``(n, T, d)``."""
        self._readers = [(self.model.head_name,)]
        flat = hidden.flatten(0, 1)
        gradient = torch.empty_like(flat)
        weights = torch.empty(flat.shape[0])
        energy = torch.zeros(self.model.causal_lm.get_output_embeddings().weight.shape[0], dtype=torch.float64)
        for rows in self.model.logit_rows(flat.shape[0]):
            piece = flat[rows].detach().requires_grad_()
            products, logits = self.model.head(piece)
            if products is not logits:
                products.retain_grad()
            slope = torch.softmax(logits.detach().float(), dim=-1)
            labels = sample_labels(slope, generator)
            # d(cross entropy)/d(logits) = softmax - one-hot.
            slope.scatter_add_(1, labels, torch.full_like(labels, -1.0, dtype=slope.dtype))
            logits.backward(slope.to(logits.dtype))
            assert piece.grad is not None
            gradient[rows] = piece.grad
            # The gradient at the output of the matrix, from which the loss weights of the head are made.
            at_products = slope if products is logits else products.grad
            assert at_products is not None
            squares = at_products.float().square_()
            weights[rows] = squares.mean(-1)
            energy += squares.sum(0)
        self.tokens[self._readers[0]] = weights.view(hidden.shape[:2])
        self.channels[self.model.head_name] = energy
        return gradient.view_as(hidden)

    def block(
        self, module: nn.Module, index: int, hidden: Tensor, gradient: Tensor, last_writer: str | None = None
    ) -> Any:
        """Replace the gradient at a block's output by the one at its input, a few sequences at a time.

        Args:
            module, index: module and number of the block.
            hidden: input of the block, ``(n, T, d)``.
            gradient: gradient at its output, ``(n, T, d)``, which is replaced.
            last_writer: see ``ResidualStream.last_writer``; that matrix is not run forward.

        Returns:
            Result of the listener; None without one.
        """
        listener = self.listen(module, index) if self.listen is not None else None
        linears = self.model.linears(module, index)
        rows = {name: linear.out_features for name, linear in linears.items()} if listener is not None else {}
        coherence = {name: Coherence(count) for name, count in rows.items()}
        inputs: list[tuple[list[str], Tensor]] = []
        sums: dict[str, Tensor] = {}
        received: dict[InputGroup, tuple[Tensor, Tensor]] = {}

        erring: list[Erring] = []
        mixture = mixture_of(self.model, module, index)
        experts = ExpertGradients(mixture, self.ids.shape[1], coherent=listener is not None) if mixture else None

        def watch(name: str, x: Tensor, out: Tensor) -> None:
            if not inputs or inputs[-1][1] is not x or _APART in name or _APART in inputs[-1][0][0]:
                inputs.append(([], x))
            inputs[-1][0].append(name)
            if not erring or erring[-1].x is not x:
                erring.append(Erring(x))
            out.register_hook(lambda slope, erring=erring[-1]: collect(name, erring, slope))

        def collect(name: str, erring: Erring, slope: Tensor) -> None:
            if name in coherence:
                coherence[name].add(erring.outputs, slope)
            # In the gradient's own precision, because that moves fewer bytes; the sums are made in float32, and their
            # rounding to bfloat16 adds less error than the gradient has.
            squares = slope.square()
            sums[name] = squares.sum(-1).float()
            energy = squares.flatten(0, -2).sum(0).double()
            self.channels[name] = self.channels[name] + energy if name in self.channels else energy

        hooks = [
            linear.register_forward_hook(lambda _, args, out, name=name: watch(name, args[0], out))
            for name, linear in linears.items()
        ]
        step = max(1, _BATCH_FLOATS // (hidden.shape[1] * hidden.shape[2]))
        try:
            watching = experts.watching() if experts else contextlib.nullcontext()
            with cast_once(module), _unread(linears.get(last_writer or "")), watching:
                for start in range(0, hidden.shape[0], step):
                    batch = slice(start, min(start + step, hidden.shape[0]))
                    piece = hidden[batch].detach().requires_grad_()
                    self.model.run_block(module, index, piece).backward(gradient[batch])
                    assert piece.grad is not None
                    gradient[batch] = piece.grad
                    plain: Tensor | None = None
                    for place, (names, x) in enumerate(inputs):
                        # One tensor for all with the same input, so that products with it are made once.
                        if plain is None or x is not inputs[place - 1][1]:
                            plain = x.detach()
                        outputs = sum(linears[name].out_features for name in names)
                        weights = torch.stack([sums[name] for name in names]).sum(0) / outputs
                        received[tuple(names)] = plain, weights
                        self.tokens.setdefault(tuple(names), torch.zeros(self.ids.shape))[batch] = weights
                    inputs.clear()
                    erring.clear()
                    if listener is not None:
                        listener.add(batch, received)
                    if experts is not None:
                        routed, shared = experts.take()
                        for group, visited in shared.items():
                            self.tokens.setdefault(group, torch.zeros(self.ids.shape))[batch] = visited
                        if listener is not None:
                            listener.add_routed(routed, shared)
        finally:
            for hook in hooks:
                hook.remove()
        self._readers = list(received)
        if experts is not None:
            self._readers += experts.groups
            self.channels |= experts.channels()
            coherence |= experts.coherence
        if listener is None:
            return None
        channels = self._relative_channels(self._readers)
        return listener.done({name: energy * coherence[name].ratio for name, energy in channels.items()})

    def embedding(self, gradient: Tensor) -> None:
        """Add gradients at the first block's input, ``(n, T, d)``, by the token of each."""
        for ids, slope in zip(self.ids, gradient, strict=True):
            used, which = ids.unique(return_inverse=True)
            together = slope.new_zeros(len(used), slope.shape[-1]).index_add_(0, which, slope)
            squares = (together * self.model.embedding_scale).square().double()
            self.uses[used] += squares.mean(-1)
            self.columns += squares.sum(0)

    def _relative_channels(self, readers: Iterable[InputGroup]) -> dict[str, Tensor]:
        """Energies over their mean in linears that share w."""
        channels: dict[str, Tensor] = {}
        for names in readers:
            if self.channels[names[0]].ndim == 2:  # of experts, relative already
                channels |= {name: self.channels[name].float() for name in names}
                continue
            together = _relative(torch.cat([self.channels[name] for name in names]))
            channels |= zip(names, together.split([len(self.channels[name]) for name in names]), strict=True)
        return channels

    def result(self) -> LossWeights:
        """All sums, scaled; raises InputError if one is NaN or Inf."""
        for names, weights in self.tokens.items():
            if not bool(torch.isfinite(weights).all()):
                raise InputError(
                    f"The gradients at {names[0]} are NaN or Inf on the calibration text; the model is damaged."
                )
        return LossWeights(
            tokens=self.tokens,
            channels=self._relative_channels(self.tokens),
            embedding=self.uses.float(),
            embedding_columns=_relative(self.columns),
        )


@contextlib.contextmanager
def _unread(linear: nn.Linear | None) -> Iterator[None]:
    """Let a linear give zeros, and its usual gradients, because its output is only added and never read."""
    if linear is None:
        yield
        return
    module: Any = linear
    module.forward = lambda x: _BackwardOnly.apply(x, linear.weight)
    try:
        yield
    finally:
        del module.forward


class _BackwardOnly(torch.autograd.Function):
    """Zeros in the place of ``x W^T``, with its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return weight.new_zeros(*x.shape[:-1], len(weight))

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        return slopes[0].to(weight.dtype) @ weight, None


def sample_labels(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """One index ``(n, 1)`` from each row of ``(n, choices)``: where the running sum passes a number drawn evenly.

    ``torch.multinomial`` draws a number for each choice, which takes longer than the head itself.
    """
    sums = probabilities.cumsum(-1)
    drawn = torch.rand(len(sums), 1, generator=generator) * sums[:, -1:]
    return torch.searchsorted(sums, drawn, right=True).clamp_(max=sums.shape[-1] - 1)


def _relative(energy: Tensor) -> Tensor:
    """``energy`` over its mean, as float32; ones where there is none."""
    mean = energy.mean()
    return (energy / mean).float() if mean > 0 else torch.ones(energy.shape)
