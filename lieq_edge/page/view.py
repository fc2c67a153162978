"""What a page shows: from reports and scores to tiles, rows and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from ..pipeline.report import ExportReport
from ..system.units import size_text
from ..validate.perplexity import Validation
from ..validate.scored import ScoredFile
from .answers import Answer
from .frontier import Frontier, Point, frontier
from .heat import HeatMap, RoleBytes, bytes_by_role, heat_map, loss_by_block
from .numbers import decimals, file_name, number, percent

# A wide picture and one for a phone: letters keep their size.
_WIDE, _NARROW = (860, 400), (360, 340)
# Divergences closer than this are equal: 2 %.
_EQUAL = 1.02
_EQUAL_SIZE = 0.005
# A rival that is so little smaller has to be closer too: presets never have exactly the same size.
_NEAR_SIZE = 0.05


@dataclass(frozen=True)
class Tile:
    """A number of the headline, its meaning, and a note below it."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Verdict:
    """A file against the one that a user would take instead.

    Attributes:
        text: one sentence.
        better: the file is the better choice; None where size or divergence speaks for each.
    """

    text: str
    better: bool | None


@dataclass(frozen=True)
class FileView:
    """A written file."""

    name: str
    report: ExportReport
    tiles: tuple[Tile, ...]
    verdict: Verdict | None
    heat: HeatMap | None
    roles: tuple[RoleBytes, ...]
    block_losses: tuple[float, ...]

    @property
    def predicts(self) -> bool:
        """Losses were predicted role by role."""
        return any(role.predicted_loss is not None for role in self.roles)


@dataclass(frozen=True)
class Row:
    """A file in the comparison.

    Attributes:
        name: name for people.
        ours: the export wrote it.
        file_bytes: size of the file.
        validation: scores of the file.
        prefill: tokens a second while a prompt is read.
        decode: tokens a second while text is written.
        best: it is closer to the original than every other file that is not larger.
    """

    name: str
    ours: bool
    file_bytes: int
    validation: Validation | None
    prefill: float | None = None
    decode: float | None = None
    best: bool = False

    @property
    def kld(self) -> float | None:
        """Mean KL divergence from the original, nats."""
        return None if self.validation is None else self.validation.kld


@dataclass(frozen=True)
class Bars:
    """Predicted and measured loss of a file, nats a token, and the lengths of their bars in percent."""

    name: str
    predicted: float
    measured: float
    error: float
    predicted_length: float
    measured_length: float


@dataclass(frozen=True)
class Page:
    """Everything that the template reads."""

    model: str
    architecture: str
    files: tuple[FileView, ...]
    rows: tuple[Row, ...]
    frontiers: tuple[Frontier, ...]
    bars: tuple[Bars, ...]
    answers: tuple[Answer, ...]
    command: str

    @property
    def has_speeds(self) -> bool:
        """Tokens a second were measured of some file."""
        return any(row.prefill is not None or row.decode is not None for row in self.rows)

    @property
    def has_distances(self) -> bool:
        """Some file was compared with the original."""
        return any(row.kld is not None for row in self.rows)


def make_view(
    reports: Sequence[ExportReport], compared: Sequence[ScoredFile], answers: Sequence[Answer], command: str
) -> Page:
    """The contents of a page.

    Args:
        reports: exports of one model, at least one.
        compared: scores of other files. One that has the name or path of a report's file adds its speeds to it.
        answers: prompts with the answers of the original and a file.
        command: command that wrote the files; empty if there is none to show.
    """
    reports = sorted(reports, key=lambda report: (report.file_bytes, report.out))
    rows = _rows(reports, compared)
    # Of a single file everything stands in the headline.
    several = len(rows) > 1
    points = [
        Point(row.name, row.file_bytes / 1e6, row.kld, row.ours) for row in rows if row.kld is not None and row.kld > 0
    ]
    return Page(
        model=file_name(reports[0].model),
        architecture=reports[0].architecture,
        files=tuple(_file_view(report, rows) for report in reports),
        rows=rows if several else (),
        frontiers=(frontier(points, *_WIDE), frontier(points, *_NARROW)) if len(points) > 1 else (),
        bars=_bars(reports),
        answers=tuple(answers),
        command=command.strip(),
    )


def _rows(reports: Sequence[ExportReport], compared: Sequence[ScoredFile]) -> tuple[Row, ...]:
    """Our files and the others, the smallest first."""
    rows, others = [], list(compared)
    for report in reports:
        same = next((other for other in others if other.name in (report.out, file_name(report.out))), None)
        if same is not None:
            others.remove(same)
        validation = report.validation or (None if same is None else same.validation)
        speeds = (None, None) if same is None else (same.prefill, same.decode)
        rows.append(Row(file_name(report.out), True, report.file_bytes, validation, *speeds))
    for other in others:
        rows.append(Row(other.name, False, other.file_bytes, other.validation, other.prefill, other.decode))
    marked = [replace(row, best=_is_best(row, rows)) for row in rows]
    return tuple(sorted(marked, key=lambda row: (row.file_bytes, not row.ours, row.name)))


def _is_best(row: Row, rows: Sequence[Row]) -> bool:
    kld = row.kld
    rivals = [other for other in rows if other is not row and other.kld is not None]
    return kld is not None and all(other.file_bytes > row.file_bytes or (other.kld or 0.0) > kld for other in rivals)


def _file_view(report: ExportReport, rows: Sequence[Row]) -> FileView:
    return FileView(
        name=file_name(report.out),
        report=report,
        tiles=_tiles(report),
        verdict=_verdict(report, rows),
        heat=heat_map(report.tensors),
        roles=bytes_by_role(report.tensors),
        block_losses=loss_by_block(report.tensors),
    )


def _tiles(report: ExportReport) -> tuple[Tile, ...]:
    weights = sum(prod(tensor.shape) for tensor in report.tensors)
    half = f"{percent(report.file_bytes / (2 * weights), 0)} of 16-bit weights" if weights else ""
    tiles = [
        Tile("Size", size_text(report.file_bytes), half),
        Tile("Bits a weight", decimals(report.file_bpw), f"{decimals(report.bpw)} in the blocks"),
    ]
    scores = report.validation
    if scores is None:
        return tuple(tiles)
    if scores.kld is not None:
        spread = f"median {number(scores.kld_p50)}, 99.9 % {number(scores.kld_p999)}"
        tiles.append(Tile("KL divergence, nats", number(scores.kld), spread if scores.kld_p50 is not None else ""))
    if scores.top1 is not None:
        tiles.append(Tile("Same next token", percent(scores.top1), "as the original"))
    original = "" if scores.reference_ppl is None else f"original {decimals(scores.reference_ppl)}"
    tiles.append(Tile("Perplexity", decimals(scores.ppl), original))
    return tuple(tiles)


def _verdict(report: ExportReport, rows: Sequence[Row]) -> Verdict | None:
    """The file against the one of the others that is nearest in size."""
    ours = None if report.validation is None else report.validation.kld
    others = [row for row in rows if not row.ours and row.kld]
    if not ours or not others:
        return None
    other = min(others, key=lambda row: (abs(row.file_bytes - report.file_bytes), row.name))
    assert other.kld is not None
    more = other.file_bytes / report.file_bytes - 1
    side = "larger" if more > 0 else "smaller"
    where = "of the same size" if abs(more) < _EQUAL_SIZE else f"{percent(abs(more))} {side}"
    ratio = other.kld / ours
    if 1 / _EQUAL <= ratio <= _EQUAL:
        return Verdict(f"{other.name} ({where}) diverges from the original as much.", None)
    text = f"{other.name} ({where}) diverges from the original {ratio:.2g} times as much."
    if ratio < 1 and more < _EQUAL_SIZE:
        return Verdict(f"{text} It is the better choice.", False)
    return Verdict(text, True if ratio > 1 and more > -_NEAR_SIZE else None)


def _bars(reports: Sequence[ExportReport]) -> tuple[Bars, ...]:
    """Predicted and measured loss of those files of which both are known."""
    known = [
        (file_name(report.out), report.predicted_loss, report.validation.kld, report.validation.kld_se or 0.0)
        for report in reports
        if report.predicted_loss is not None and report.validation is not None and report.validation.kld is not None
    ]
    longest = max((max(predicted, measured) for _, predicted, measured, _ in known), default=0.0)
    if longest <= 0:
        return ()
    return tuple(
        Bars(name, predicted, measured, error, 100 * max(predicted, 0.0) / longest, 100 * max(measured, 0.0) / longest)
        for name, predicted, measured, error in known
    )
