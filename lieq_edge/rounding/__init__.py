"""Rounding: from weights to the codes of a ggml type."""
