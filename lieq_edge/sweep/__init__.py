"""Sweeps: many files of several models, made by processes of this machine or of a Dask cluster."""
