"""``python -m lieq_edge``."""

from .cli import main

main()
