"""Tuning of what a file leaves in float: scales, norms and biases, by the original's predictions."""
