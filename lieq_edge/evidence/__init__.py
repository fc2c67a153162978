"""Measurements of a model: blocks, importance, loss."""
