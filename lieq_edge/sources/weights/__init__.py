"""Where weights are stored, and adapters that are merged into them."""
