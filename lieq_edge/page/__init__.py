"""A page for the browser about finished files."""
