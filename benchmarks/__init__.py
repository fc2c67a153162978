"""Measurements for the documentation; README.md lists the commands, and each file has its command on top."""
