"""Stage: allocate."""
