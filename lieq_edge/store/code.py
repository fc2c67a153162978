"""Digests of the package's code: a result that another state of the code made is not used."""

from __future__ import annotations

import ast
import functools
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

_PACKAGE = Path(__file__).parent.parent
# They decide no result: the command line, sweeps, pages, and what goes along with a file.
_LEFT_OUT = ("cli/", "sweep/", "page/", "publish/")


@functools.cache
def source_digest(package: Path = _PACKAGE) -> str:
    """SHA-256 (hex) over the text of the code and Python's version: as long as it stays, so does ``code_digest``."""
    digest = hashlib.sha256(f"{sys.implementation.cache_tag}\0".encode())
    for name, content in _sources(package):
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


@functools.cache
def code_digest(package: Path = _PACKAGE) -> str:
    """SHA-256 (hex) over what the code does: comments, docstrings and formatting change nothing."""
    digest = hashlib.sha256()
    for name, content in _sources(package):
        digest.update(f"{name}\0{_structure(content)}\0".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _sources(package: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        if not name.startswith(_LEFT_OUT):
            yield name, path.read_bytes()


def _structure(source: bytes) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [statement for statement in body if not _is_text(statement)]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_text(statement: ast.AST) -> bool:
    """True for docstrings, and for the texts below an assignment that explain it."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
