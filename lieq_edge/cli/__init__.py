"""The command line: parse, call the Python API, print. Heavy imports stay inside the commands."""

from .app import app
from .program import main

__all__ = ["app", "main"]
