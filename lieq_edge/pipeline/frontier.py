"""Size against quality of several files of one model, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from ..settings import Settings
from ..system.files import atomic_path
from .report import ExportReport
from .validation import require_reference


def check_plot(path: Path | None) -> None:
    """Refuse a name that promises another format than PNG, before the work.

    Args:
        path: picture to write; None for none.

    Raises:
        InputError: the name ends otherwise.
    """
    if path is not None and path.suffix.lower() not in ("", ".png"):
        raise InputError(f"--plot writes a PNG, and {path} ends in {path.suffix}; take a name that ends in .png.")


def check_scored(settings: Settings) -> None:
    """Refuse a picture of files that are not compared with the original; to call before any work.

    Raises:
        InputError: the sentence names the flag.
    """
    require_reference(settings, "--plot", "draws distances from")


def plot_frontier(reports: Sequence[ExportReport], path: Path, *, replace: bool = True) -> None:
    """Draw the size of each file against its KL divergence as a PNG; it appears whole or not at all.

    Args:
        reports: reports of exports that were scored against the original.
        path: file to write.
        replace: True replaces an existing file.

    Raises:
        InputError: no file was compared with the original.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = sorted(
        (report.file_bytes / 1e6, report.validation.kld, report.budget)
        for report in reports
        if report.validation is not None and report.validation.kld is not None
    )
    if not points:
        raise InputError("There is nothing to draw: no file was compared with the original.")
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.plot([size for size, *_ in points], [kld for _, kld, _ in points], color="#2f6f9f", marker="o")
    for size, divergence, budget in points:
        axis.annotate(budget, (size, divergence), textcoords="offset points", xytext=(6, 6), fontsize=9)
    axis.set_yscale("log")
    axis.set_xlabel("file, MB")
    axis.set_ylabel("KL divergence from the original, nats a token")
    axis.set_title(reports[0].model, fontsize=10)
    axis.grid(color="0.9", which="both")
    axis.spines[["top", "right"]].set_visible(False)
    with atomic_path(path, replace=replace) as temporary:
        # No date or software version in the file: the same measurements give the same picture.
        figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})
