"""The picture of size against KL divergence: where the points, ticks and names lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .numbers import number

_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 16, 44
# Size of a letter of the names, and the longest name that is shown whole.
_LETTER, _LINE, _LONGEST = 6.4, 14, 26


@dataclass(frozen=True)
class Point:
    """A file in the picture.

    Attributes:
        name: name for people.
        megabytes: size.
        kld: mean KL divergence from the original, nats; more than 0.
        ours: it was written by the export.
        series: number of the files that it belongs to; those of a number have a colour, and a line if they are ours.
    """

    name: str
    megabytes: float
    kld: float
    ours: bool
    series: int = 0


@dataclass(frozen=True)
class Mark:
    """A point with its place, and the place of its name. ``anchor`` is SVG's ``text-anchor``."""

    point: Point
    x: float
    y: float
    label: str
    label_x: float
    label_y: float
    anchor: str


@dataclass(frozen=True)
class Tick:
    """A tick of an axis: its place and its text."""

    place: float
    text: str


@dataclass(frozen=True)
class Frontier:
    """The picture, in pixels from the upper left corner.

    Attributes:
        width, height: of the picture.
        left, right, top, bottom: edges of the area of the points.
        across: ticks of the size, MB.
        up: ticks of the divergence, nats.
        marks: points, the smallest file first.
        lines: number of a series, and its own files as SVG's ``points``; none for fewer than two files.
        description: what the picture shows, in words.
    """

    width: int
    height: int
    left: float
    right: float
    top: float
    bottom: float
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    marks: tuple[Mark, ...]
    lines: tuple[tuple[int, str], ...]
    description: str


def frontier(points: Sequence[Point], width: int, height: int) -> Frontier:
    """Lay the picture out.

    Args:
        points: at least one file.
        width: pixels.
        height: pixels.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator

    points = sorted(points, key=lambda point: (point.megabytes, point.name))
    left, right, top, bottom = _LEFT, width - _RIGHT, _TOP, height - _BOTTOM
    low, high = _widened([point.megabytes for point in points], 0.12)
    below, above = _widened([math.log10(point.kld) for point in points], 0.15)

    def x(megabytes: float) -> float:
        return round(left + (right - left) * (megabytes - low) / (high - low), 1)

    def y(kld: float) -> float:
        return round(bottom - (bottom - top) * (math.log10(kld) - below) / (above - below), 1)

    sizes = MaxNLocator(nbins=max(3, width // 110)).tick_values(low, high)
    across = tuple(Tick(x(size), f"{size:g}") for size in sizes if low <= size <= high)
    lowest, highest = 10**below, 10**above
    levels = LogLocator(subs=(1.0, 2.0, 5.0)).tick_values(lowest, highest)
    up = tuple(Tick(y(level), f"{level:g}") for level in levels if lowest <= level <= highest)
    marks = _labelled([(point, x(point.megabytes), y(point.kld)) for point in points], left, right, top, bottom)
    return Frontier(
        width=width,
        height=height,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        across=across,
        up=up,
        marks=marks,
        lines=_lines(marks),
        description="; ".join(f"{p.name}: {p.megabytes:.1f} MB, {number(p.kld)} nats" for p in points) + ".",
    )


def _lines(marks: Sequence[Mark]) -> tuple[tuple[int, str], ...]:
    """The line through our own files of each series."""
    series: dict[int, list[str]] = {}
    for mark in marks:
        if mark.point.ours:
            series.setdefault(mark.point.series, []).append(f"{mark.x},{mark.y}")
    return tuple((number, " ".join(places)) for number, places in sorted(series.items()) if len(places) > 1)


def _widened(values: Sequence[float], share: float) -> tuple[float, float]:
    """Least and greatest value with some space beside them."""
    low, high = min(values), max(values)
    space = share * (high - low) or 0.1 * abs(high) or 1.0
    return low - space, high + space


_Box = tuple[float, float, float, float]


def _labelled(
    places: Sequence[tuple[Point, float, float]], left: float, right: float, top: float, bottom: float
) -> tuple[Mark, ...]:
    """Put each name where it covers nothing, as far as that is possible."""
    taken: list[_Box] = [(x - 7, y - 7, x + 7, y + 7) for _, x, y in places]
    marks = []
    for point, x, y in places:
        name = point.name if len(point.name) <= _LONGEST else point.name[: _LONGEST - 1] + "…"
        length = _LETTER * len(name)
        candidates = [
            (x + 11, y + 4, "start"),
            (x - 11, y + 4, "end"),
            (x, y - 12, "middle"),
            (x, y + 21, "middle"),
            (x + 11, y - 10, "start"),
            (x - 11, y + 18, "end"),
            (x + 11, y + 18, "start"),
            (x - 11, y - 10, "end"),
        ]
        boxes = [_box(*candidate, length) for candidate in candidates]
        inside = [
            (box, candidate)
            for box, candidate in zip(boxes, candidates, strict=True)
            if box[0] >= left and box[2] <= right and box[1] >= top - _LINE and box[3] <= bottom
        ] or list(zip(boxes, candidates, strict=True))[1::-1]
        box, chosen = min(inside, key=lambda pair: sum(_overlap(pair[0], other) for other in taken))
        taken.append(box)
        marks.append(Mark(point, x, y, name, *chosen))
    return tuple(marks)


def _box(x: float, y: float, anchor: str, length: float) -> _Box:
    start = {"start": x, "end": x - length, "middle": x - length / 2}[anchor]
    return start, y - _LINE + 3, start + length, y + 3


def _overlap(a: _Box, b: _Box) -> float:
    """Area that two boxes share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
