"""Numerics of error feedback into ggml's block formats."""
