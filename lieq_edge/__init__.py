"""lieq-edge: mixed-precision GGUF files of small language models."""

__version__ = "0.1.0"
