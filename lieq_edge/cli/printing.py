"""Lines and tables on the terminal: whatever is printed is text. Names of models, tensors and files come
from others, and neither markup nor control characters in them take effect.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from ..system.terminal import clean

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

# Piped output has no width of its own; 80 columns would cut the tables.
_PIPED_WIDTH = 140


class Printer:
    """Prints to a stream; characters that it cannot encode are replaced."""

    def __init__(self, stream: TextIO | None = None, *, width: int | None = None) -> None:
        """Prepare for printing.

        Args:
            stream: place to print to, None for stdout.
            width: columns, None for those of the terminal.
        """
        from rich.console import Console

        target = sys.stdout if stream is None else stream
        if target is None:  # as it is where the caller has closed it
            target = io.StringIO()
        if width is None and not target.isatty():
            width = _PIPED_WIDTH
        self._encoding = getattr(target, "encoding", None) or "utf-8"
        self._console = Console(file=target, width=width, markup=False, highlight=False, emoji=False)

    def line(self, text: str) -> None:
        """Print a line, folded to the width."""
        self._console.print(self._plain(text))

    def table(self, title: str, columns: Sequence[tuple[str, bool]], rows: Sequence[Sequence[str]]) -> None:
        """Print a table.

        Args:
            title: title above it.
            columns: header of each column, and whether it is aligned to the right.
            rows: cells of each row.
        """
        from rich.table import Table

        table: Table = Table(title=self._plain(title))
        for header, right in columns:
            table.add_column(self._plain(header), justify="right" if right else "left")
        for row in rows:
            table.add_row(*(self._plain(cell) for cell in row))
        self._console.print(table)

    def _plain(self, text: str) -> Text:
        from rich.text import Text

        return Text(clean(text).encode(self._encoding, "replace").decode(self._encoding))
