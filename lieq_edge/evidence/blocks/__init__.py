"""Diagnostics of blocks, and the metrics that score blocks by them."""
