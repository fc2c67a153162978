"""The layer profile as a picture."""

from __future__ import annotations

from pathlib import Path

from ...system.files import atomic_path
from .records import Diagnostics

_PANELS = (
    ("delta_ppl", "ΔPPL", "ΔPPL without the block", "#b5443a"),
    ("compactness_gain", "Δr", "compactness gain Δr", "#2f6f9f"),
    ("energy_gain", "ΔE", "top-k energy gain ΔE", "#3d8b5a"),
)


def plot_layers(diagnostics: Diagnostics, path: Path, *, replace: bool = True) -> None:
    """Draw the measurements of each block as a PNG, one panel a measure; it appears whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [panel for panel in _PANELS if any(getattr(b, panel[0]) is not None for b in diagnostics.blocks)]
    count = len(diagnostics.blocks)
    width = min(18.0, max(6.0, 0.28 * count + 2))
    figure = Figure(figsize=(width, 1.0 + 2.1 * max(1, len(panels))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(max(1, len(panels)), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (field, _, label, color) in zip(axes, panels, strict=False):
        values = [getattr(block, field) for block in diagnostics.blocks]
        axis.bar(range(count), values, color=color, width=0.75)
        # Single blocks (often the first) can matter a thousand times as much as the others.
        if field == "delta_ppl":
            axis.set_yscale("symlog", linthresh=1.0)
        axis.axhline(0, color="black", linewidth=0.8)
        axis.grid(axis="y", color="0.9")
        axis.set_axisbelow(True)
        axis.set_ylabel(label)
        axis.spines[["top", "right"]].set_visible(False)
    step = max(1, count // 16)
    axes[-1].set_xticks(range(0, count, step))
    axes[-1].set_xlim(-0.6, count - 0.4)
    axes[-1].set_xlabel("block")
    symbols = {field: symbol for field, symbol, _, _ in _PANELS}
    rhos = [f"{symbols.get(field, field)} {rho:.2f}" for field, rho in diagnostics.correlations.items()]
    note = f"Spearman correlation with |ΔPPL|: {', '.join(rhos)}" if rhos else ""
    axes[0].set_title(f"{diagnostics.model}\n{note}".strip(), fontsize=10)
    figure.align_ylabels(axes)
    with atomic_path(path, replace=replace) as temporary:
        # No date or software version in the file: the same measurements give the same picture.
        figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})
