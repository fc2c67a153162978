"""English documentation out of Python's own standard library: text that every machine has.

Modules are parsed, never imported. The text depends on the version of Python, so its name says the version.
"""

from __future__ import annotations

import ast
import hashlib
import platform
import sysconfig
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

# Documents go to a part by their hash, in eighths: what is measured on is never what was calibrated on.
PARTS: dict[str, tuple[int, ...]] = {
    "probe": (0,),
    "saliency": (1,),
    "validation": (2, 3),
    "calibration": (4, 5, 6, 7),
}
_LONGEST = 6000
_SHORTEST = 400


def stdlib_text(part: str, characters: int, seed: int = 0) -> tuple[str, str]:
    """Documentation of Python: entries of ``pydoc_data.topics`` and docstrings of modules, in a seeded order.

    Args:
        part: one of ``PARTS``; parts share no document.
        characters: about so many; fewer when the part has no more.
        seed: of the order.

    Returns:
        The text and its name.
    """
    documents = [
        (name, read)
        for name, read in _documents()
        if int(hashlib.sha256(name.encode()).hexdigest(), 16) % 8 in PARTS[part]
    ]
    documents.sort(key=lambda document: hashlib.sha256(f"{seed}:{document[0]}".encode()).digest())
    pieces: list[str] = []
    length = 0
    for _, read in documents:
        piece = read()[:_LONGEST].strip()
        if len(piece) >= _SHORTEST:
            pieces.append(piece)
            length += len(piece) + 2
        if length >= characters:
            break
    version = ".".join(platform.python_version_tuple()[:2])
    return "\n\n".join(pieces), f"Python {version} documentation ({part}, seed {seed})"


def _documents() -> Iterator[tuple[str, Callable[[], str]]]:
    """Names of all documents and how to read each; parsing a module waits until it is wanted."""
    folder = Path(sysconfig.get_path("stdlib"))
    # Topics quote one another: a paragraph belongs to the first that has it, or parts would share it.
    seen: set[str] = set()
    for name, text in sorted(_topics(folder / "pydoc_data" / "topics.py").items()):
        paragraphs = [part for part in text.split("\n\n") if part.strip() not in seen]
        seen.update(part.strip() for part in paragraphs)
        yield f"topic {name}", partial(str, "\n\n".join(paragraphs))
    for path in sorted(folder.glob("*.py")):
        yield f"module {path.stem}", partial(_docstrings, path)


def _topics(path: Path) -> dict[str, str]:
    tree = _parse(path)
    for node in tree.body if tree else []:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            topics: dict[str, str] = ast.literal_eval(node.value)
            return topics
    return {}


def _docstrings(path: Path) -> str:
    """All docstrings of a module, longest paragraphs of prose that source code has."""
    tree = _parse(path)
    if tree is None:
        return ""
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, owners))
    return "\n\n".join(text for text in found if text)


def _parse(path: Path) -> ast.Module | None:
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, SyntaxError):
        return None
