"""What ``inspect`` prints for people."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ..gguf.inspect import FileReport
from .printing import Printer

_LONGEST_LINE = 200


def show(report: FileReport, printer: Printer) -> None:
    """Print a report as lines and tables."""

    def line(text: str) -> None:
        printer.line(text if len(text) <= _LONGEST_LINE else f"{text[:_LONGEST_LINE]} ...")

    title = f"{report.name} ({report.architecture})" if report.name else report.architecture
    line(
        f"{title}: {report.file_bytes / 1e6:.1f} MB, {report.parameters / 1e6:.1f} M weights, "
        f"{report.file_bpw:.3f} bits a weight"
    )
    if report.block_bpw is not None:
        line(f"  block weights: {report.block_bpw:.3f} bits a weight")
    for name, kind in report.others.items():
        line(f"  {name}: {kind}")
    if report.tokenizer is not None:
        token = report.tokenizer
        template = "with" if token.chat_template else "without"
        line(
            f"  tokenizer: {token.model}{f'/{token.pre}' if token.pre else ''}, {token.tokens} tokens, "
            f"{template} chat template"
        )
    printer.table(
        "Types",
        [("type", False), ("tensors", True), ("weights", True), ("MB", True), ("bits a weight", True)],
        [
            [item.type, str(item.tensors), f"{item.parameters:,}", f"{item.nbytes / 1e6:.2f}", f"{item.bpw:.3f}"]
            for item in report.types
        ],
    )
    printer.table(
        "Blocks",
        [("block", True), ("bits a weight", True), ("types", False)],
        [[str(block.index), f"{block.bpw:.3f}", _describe(block.types)] for block in report.blocks],
    )
    for key, value in report.lieq.items():
        printer.line(f"lieq.{key}: {_short(value)}")
    for sentence in (*report.warnings, *report.notes):
        line(f"Note: {sentence}")


def _describe(types: dict[str, str]) -> str:
    """The commonest type and, by name, what differs from it: ``Q2_K; attn_v Q4_K``."""
    usual = Counter(types.values()).most_common(1)[0][0]
    different: dict[str, list[str]] = {}
    for name, kind in types.items():
        if kind != usual:
            different.setdefault(kind, []).append(name)
    return "; ".join([usual, *(f"{', '.join(names)} {kind}" for kind, names in different.items())])


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(f"{item:.4g}" if isinstance(item, float) else str(item) for item in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
