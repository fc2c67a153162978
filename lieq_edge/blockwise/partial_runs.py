"""Run blocks no further than a linear, and from where attention and MLP have come before or behind their last linear.

What a linear receives is wanted several times, behind other linears that were rounded meanwhile.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .model import BlockModel

# Inputs that take more bytes are made again each time.
_LARGEST = 1 << 28


@dataclass(frozen=True)
class _End:
    """A module that gives the output of its last linear as it is, alone or as the first of ``count`` results."""

    owner: nn.Module
    linear: nn.Linear
    count: int | None

    def output(self, x: Tensor) -> Any:
        out = self.linear(x)
        return out if self.count is None else (out, *[None] * (self.count - 1))


@dataclass
class _Kept:
    """What the last linear of a module receives, or, once it was run, what it gives."""

    value: Tensor
    is_output: bool = False


class StoredInputs:
    """Inputs of linears that modules of a block end in, for several runs of the block.

    Once all is rounded that a module runs before its last linear, what that receives stays as it is: further runs
    enter the module there. With the linear rounded too, the first of them leaves the output in the place of the input.
    """

    def __init__(self, sequences: int) -> None:
        """For runs of so many sequences in all."""
        self._sequences = sequences
        self._ends: dict[str, _End] = {}
        self._kept: dict[str, dict[int, _Kept]] = {}

    @contextlib.contextmanager
    def finding_ends(self, module: nn.Module, linears: dict[str, nn.Linear]) -> Iterator[None]:
        """Look which of ``linears``, by name, modules end in, while the block ``module`` is run."""
        owners = {path: owner for path, owner in module.named_modules() if path}
        outputs: dict[nn.Module, Tensor] = {}
        hooks = []

        def keep(linear: nn.Module, _: Any, out: Tensor) -> None:
            outputs[linear] = out

        def compare(owner: nn.Module, out: Any, name: str) -> None:
            results = out if isinstance(out, tuple) else (out,)
            is_end = results[0] is outputs.pop(linears[name], None) and all(value is None for value in results[1:])
            self._ends.pop(name, None)
            if is_end:
                self._ends[name] = _End(owner, linears[name], len(out) if isinstance(out, tuple) else None)

        names = {linear: name for name, linear in linears.items()}
        for path, linear in owners.items():
            name, owner = names.get(linear), owners.get(path.rpartition(".")[0])
            if name is not None and owner is not None:
                hooks.append(linear.register_forward_hook(keep))
                hooks.append(owner.register_forward_hook(lambda owner, _, out, name=name: compare(owner, out, name)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def keep(self, name: str, batch: slice, x: Tensor) -> None:
        """Keep the input ``(b, T, columns)`` of a linear for the sequences ``batch``, unless all would be too large.

        The linear must not change between later runs.
        """
        if name in self._ends and x.nbytes // len(x) * self._sequences <= _LARGEST:
            self._kept.setdefault(name, {})[batch.start] = _Kept(x)

    @contextlib.contextmanager
    def used(self, batch: slice) -> Iterator[None]:
        """Runs of the sequences ``batch`` enter modules where their inputs are kept."""
        entered = [(self._ends[name], kept[batch.start]) for name, kept in self._kept.items() if batch.start in kept]
        for end, kept in entered:
            end.owner.forward = lambda *_, end=end, kept=kept, **__: end.output(kept.value)
            linear: Any = end.linear
            linear.forward = functools.partial(_output, end.linear, kept)
        try:
            yield
        finally:
            for end, _ in entered:
                del end.owner.forward, end.linear.forward


def _output(linear: nn.Linear, kept: _Kept, x: Tensor) -> Tensor:
    if not kept.is_output:
        kept.value, kept.is_output = nn.functional.linear(x, linear.weight, linear.bias), True
    return kept.value


@contextlib.contextmanager
def seeing_inputs(linears: Mapping[str, nn.Linear]) -> Iterator[dict[str, Tensor]]:
    """The inputs of ``linears``, by name, while a block is run: the same tensor for those that share one."""
    seen: dict[str, Tensor] = {}

    def see(args: tuple[Tensor, ...], name: str) -> None:
        seen[name] = args[0]

    hooks = [
        linear.register_forward_pre_hook(lambda _, args, name=name: see(args, name)) for name, linear in linears.items()
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def input_of(
    model: BlockModel,
    module: nn.Module,
    index: int,
    hidden: Tensor,
    name: str,
    ran: Mapping[str, Callable[[Tensor], None]],
) -> Tensor:
    """Run sequences through a block as far as one of its linears, which it does not run any more.

    Args:
        model, module, index: the block.
        hidden: its input ``(b, T, d)``.
        name: GGUF name of the linear.
        ran: are called with the outputs ``(b, T, rows)`` of linears that run before, by GGUF name.

    Returns:
        The linear's input ``(b, T, columns)``.
    """
    reached: list[Tensor] = []

    def stop(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        reached.append(args[0])
        raise _Reached

    linears = model.linears(module, index)
    hooks = [linears[name].register_forward_pre_hook(stop)]
    for other, tell in ran.items():
        hooks.append(linears[other].register_forward_hook(lambda _, __, out, tell=tell: tell(out)))
    try:
        with contextlib.suppress(_Reached):
            model.run_block(module, index, hidden)
    finally:
        for hook in hooks:
            hook.remove()
    return reached[0]


class _Reached(Exception):
    """A run of a block has come as far as was wanted."""
