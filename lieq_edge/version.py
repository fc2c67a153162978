"""The version of lieq-edge, as in pyproject.toml."""

__version__ = "0.1.0"
