"""Accuracy of files on tasks of EleutherAI's lm-evaluation-harness, item by item against the original."""
