"""Devices: their memory, which types llama.cpp is fast with on them, and what fits."""
