"""Importance of the input columns of each matrix."""
