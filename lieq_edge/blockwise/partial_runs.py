"""Run blocks up to a linear, starting from stored inputs of the last linears of attention and MLP.

Rounding needs the input of a linear several times, each after other linears were rounded.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .model import BlockModel

# Inputs of more bytes are not stored, but computed each time.
_LARGEST = 1 << 28


@dataclass(frozen=True)
class _End:
    """A module that returns the output of its last linear unchanged, alone or as the first of ``count`` results."""

    owner: nn.Module
    linear: nn.Linear
    count: int | None

    def output(self, x: Tensor) -> Any:
        out = self.linear(x)
        return out if self.count is None else (out, *[None] * (self.count - 1))


@dataclass
class _StoredValue:
    """The input of the last linear of a module or, after its first run, its output."""

    value: Tensor
    is_output: bool = False


class StoredInputs:
    """Inputs of the linears at the end of a block's modules, for several runs of the block.

    When everything before the last linear of a module is rounded, the input of that linear no longer changes, and
    further runs enter the module there. When the linear is rounded too, the first of them replaces the input by the
    output.
    """

    def __init__(self, sequences: int) -> None:
        """Start without inputs, for runs of so many sequences in total."""
        self._sequences = sequences
        self._ends: dict[str, _End] = {}
        self._values: dict[str, dict[int, _StoredValue]] = {}

    @contextlib.contextmanager
    def finding_ends(self, module: nn.Module, linears: dict[str, nn.Linear]) -> Iterator[None]:
        """A context in which a run of a block shows which of ``linears``, by name, are at the end of its modules."""
        owners = {path: owner for path, owner in module.named_modules() if path}
        outputs: dict[nn.Module, Tensor] = {}
        hooks = []

        def record(linear: nn.Module, _: Any, out: Tensor) -> None:
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
                hooks.append(linear.register_forward_hook(record))
                hooks.append(owner.register_forward_hook(lambda owner, _, out, name=name: compare(owner, out, name)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def keep(self, name: str, batch: slice, x: Tensor) -> None:
        """Store the input of a linear, unless those of all sequences would be too large.

        The linear must not change between later runs.

        Args:
            name: name of the linear.
            batch: sequences of the input.
            x: input ``(b, T, columns)``.
        """
        if name in self._ends and x.nbytes // len(x) * self._sequences <= _LARGEST:
            self._values.setdefault(name, {})[batch.start] = _StoredValue(x)

    @contextlib.contextmanager
    def used(self, batch: slice) -> Iterator[None]:
        """A context in which runs of the sequences ``batch`` enter modules at their stored inputs."""
        entered = [
            (self._ends[name], by_start[batch.start])
            for name, by_start in self._values.items()
            if batch.start in by_start
        ]
        for end, stored in entered:
            end.owner.forward = lambda *_, end=end, stored=stored, **__: end.output(stored.value)
            linear: Any = end.linear
            linear.forward = functools.partial(_output, end.linear, stored)
        try:
            yield
        finally:
            for end, _ in entered:
                del end.owner.forward, end.linear.forward


def _output(linear: nn.Linear, stored: _StoredValue, x: Tensor) -> Tensor:
    if not stored.is_output:
        stored.value, stored.is_output = nn.functional.linear(x, linear.weight, linear.bias), True
    return stored.value


@contextlib.contextmanager
def seeing_inputs(linears: Mapping[str, nn.Linear]) -> Iterator[dict[str, Tensor]]:
    """A context in which a run of a block records the inputs of ``linears``, by name; shared inputs are one tensor."""
    inputs: dict[str, Tensor] = {}

    def record(args: tuple[Tensor, ...], name: str) -> None:
        inputs[name] = args[0]

    hooks = [
        linear.register_forward_pre_hook(lambda _, args, name=name: record(args, name))
        for name, linear in linears.items()
    ]
    try:
        yield inputs
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
    """Run sequences through a block up to one of its linears, which is not run.

    Args:
        model, module, index: the block.
        hidden: its input ``(b, T, d)``.
        name: GGUF name of the linear.
        ran: functions that receive the outputs ``(b, T, rows)`` of linears that run before, by GGUF name.

    Returns:
        The linear's input ``(b, T, columns)``.
    """
    reached: list[Tensor] = []

    def stop(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        reached.append(args[0])
        raise Reached

    linears = model.linears(module, index)
    hooks = [linears[name].register_forward_pre_hook(stop)]
    for other, receive in ran.items():
        hooks.append(linears[other].register_forward_hook(lambda _, __, out, receive=receive: receive(out)))
    try:
        with contextlib.suppress(Reached):
            model.run_block(module, index, hidden)
    finally:
        for hook in hooks:
            hook.remove()
    return reached[0]


class Reached(Exception):
    """Ends a run of a block at the requested module."""
