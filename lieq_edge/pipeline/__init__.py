"""The flow: resolve, gather, allocate, write."""
