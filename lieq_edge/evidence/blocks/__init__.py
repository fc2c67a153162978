"""Diagnostics of blocks, and the metrics that are made of them."""
