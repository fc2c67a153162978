"""Plan how token sequences with common beginnings go through a model, so that each common token is computed once.

The sequences are sorted, which puts those with the longest common beginnings side by side, and go through the model in
batches. Within a batch they form a tree: a token that several of them begin with belongs to all of them. Between
batches llama.cpp keeps what the next one begins with. Pure: nothing here knows llama.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Tokens = Sequence[int]


@dataclass(frozen=True)
class Scored:
    """A text whose end is to be scored.

    Attributes:
        tokens: ids of the context and of the continuation after it.
        first: place of the continuation's first token, at least 1.
    """

    tokens: tuple[int, ...]
    first: int


@dataclass(frozen=True)
class Move:
    """A change of llama.cpp's memory before a step.

    Attributes:
        kind: ``clear`` forgets everything; ``keep`` forgets all sequences but one; ``copy`` lets another sequence begin
            with some tokens of one; ``cut`` forgets what lies behind some tokens of one.
        sequence: number of the sequence.
        target: number of the other sequence, for ``copy``.
        length: number of tokens, for ``copy`` and ``cut``.
    """

    kind: str
    sequence: int = 0
    target: int = 0
    length: int = 0


@dataclass(frozen=True)
class Target:
    """A token whose probability is asked for.

    Attributes:
        row: number of the text.
        token: its id.
    """

    row: int
    token: int


@dataclass(frozen=True)
class Step:
    """Tokens that go through the model at once.

    Attributes:
        moves: changes of the memory before it.
        tokens: ids, ``n`` of them.
        positions: place of each in its sequence.
        owners: sequences that each belongs to.
        targets: by the index of a token, what is to follow it.
    """

    moves: tuple[Move, ...]
    tokens: list[int]
    positions: list[int]
    owners: list[list[int]]
    targets: dict[int, list[Target]]


@dataclass
class _Path:
    """Tokens that one or more texts read: all but their last one.

    Attributes:
        tokens: the ids.
        wanted: by position, what is to follow it.
    """

    tokens: tuple[int, ...]
    wanted: dict[int, list[Target]]

    @property
    def lowest(self) -> int:
        """First position whose prediction is wanted."""
        return min(self.wanted)


class _Batch:
    """Paths that go through the model together, and the tree of their tokens."""

    def __init__(self) -> None:
        self.paths: list[_Path] = []
        self.kept: list[int] = []
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.owners: list[list[int]] = []
        self.targets: dict[int, list[Target]] = {}
        self._chain: dict[int, int] = {}

    def add(self, path: _Path, kept: int, shared: int) -> None:
        """Add a path.

        Args:
            path: the path.
            kept: number of its tokens that are in memory already.
            shared: number of its tokens that it has in common with the path before it.
        """
        number = len(self.paths)
        chain = {place: index for place, index in self._chain.items() if kept <= place < shared}
        for index in chain.values():
            self.owners[index].append(number)
        for place in range(max(kept, shared if number else 0), len(path.tokens)):
            chain[place] = len(self.tokens)
            self.tokens.append(path.tokens[place])
            self.positions.append(place)
            self.owners.append([number])
        for place, targets in path.wanted.items():
            self.targets.setdefault(chain[place], []).extend(targets)
        self.paths.append(path)
        self.kept.append(kept)
        self._chain = chain

    def steps(self, moves: tuple[Move, ...], most: int) -> Iterator[Step]:
        """The tokens in pieces of at most ``most``; a piece has more than one only where there is one path."""
        for start in range(0, len(self.tokens), most):
            part = slice(start, start + most)
            targets = {index - start: wanted for index, wanted in self.targets.items() if start <= index < start + most}
            yield Step(moves, self.tokens[part], self.positions[part], self.owners[part], targets)
            moves = ()


def plan_steps(rows: Sequence[Scored], *, most: int, sequences: int, share: bool = True) -> Iterator[Step]:
    """The steps that give the probability of every scored token.

    A step may need the memory of the steps before it. The first begins with an empty one.

    Args:
        rows: the texts.
        most: most tokens of a step.
        sequences: most sequences side by side.
        share: common beginnings are computed once; else every text goes through the model alone.
    """
    paths = _paths(rows)
    before: tuple[int, ...] = ()
    last = 0
    place = 0
    while place < len(paths):
        batch = _Batch()
        kept = min(common_tokens(before, paths[place].tokens), paths[place].lowest) if share else 0
        batch.add(paths[place], kept, 0)
        while share and place + len(batch.paths) < len(paths) and len(batch.paths) < sequences:
            path = paths[place + len(batch.paths)]
            shared = common_tokens(batch.paths[-1].tokens, path.tokens)
            kept = min(batch.kept[-1], shared)
            new = len(path.tokens) - shared
            if path.lowest < kept or len(batch.tokens) + new > most:
                break
            batch.add(path, kept, shared)
        yield from batch.steps(_moves(last, batch.kept), most)
        before, last = batch.paths[-1].tokens, len(batch.paths) - 1
        place += len(batch.paths)


def shared_tokens(rows: Sequence[Scored]) -> int:
    """Tokens that go through the model if each text shares what it has in common with the one before it."""
    count = 0
    before: tuple[int, ...] = ()
    for row in rows:
        count += len(row.tokens) - 1 - min(common_tokens(before, row.tokens), len(row.tokens) - 1)
        before = row.tokens
    return count


def _paths(rows: Sequence[Scored]) -> list[_Path]:
    """The different paths of the texts in sorted order; texts that differ in the last token only have the same one."""
    paths: dict[tuple[int, ...], _Path] = {}
    for number, row in enumerate(rows):
        read = row.tokens[:-1]
        if row.first > len(read):  # nothing is scored
            continue
        path = paths.setdefault(read, _Path(read, {}))
        for place in range(row.first - 1, len(read)):
            path.wanted.setdefault(place, []).append(Target(number, row.tokens[place + 1]))
    return [paths[tokens] for tokens in sorted(paths)]


def common_tokens(first: Tokens, second: Tokens) -> int:
    """Number of tokens that both begin with."""
    count = 0
    for left, right in zip(first, second, strict=False):
        if left != right:
            break
        count += 1
    return count


def _moves(last: int, kept: Sequence[int]) -> tuple[Move, ...]:
    """Let the sequences of a batch begin with what they have in common with sequence ``last`` of the one before."""
    if kept[0] == 0:
        return (Move("clear"),)
    moves = [Move("keep", last)]
    moves += [Move("copy", last, number, length) for number, length in enumerate(kept) if number != last and length]
    return (*moves, Move("cut", last, length=kept[last] if last < len(kept) else 0))
