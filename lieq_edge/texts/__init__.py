"""Calibration, probe, saliency and validation texts."""
