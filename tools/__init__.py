"""For people who work on the project."""
