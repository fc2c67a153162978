"""A page for the browser about finished files: one HTML file that needs nothing else."""

from __future__ import annotations

from .answers import Answer as Answer
from .write import write_page as write_page
