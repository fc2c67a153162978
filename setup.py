"""Packages of the distribution: those that lie here, and recipes/ as ``lieq_edge/recipes``.

pyproject.toml can either find packages or name places for them, not both. Everything else stands there.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["lieq_edge*"]), "lieq_edge.recipes"],
    package_dir={"lieq_edge.recipes": "recipes"},
)
