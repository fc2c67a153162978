"""Texts to measure and to calibrate on."""
