"""Run a model in PyTorch with one block in memory at a time."""
