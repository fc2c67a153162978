"""English documentation from Python's standard library: text that every machine has.

Modules are parsed, never imported. The text depends on the version of Python, so its name contains the version.
"""

from __future__ import annotations

import ast
import hashlib
import platform
import sysconfig
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

# Documents are assigned to parts by hash, in eighths, so that no part is measured on text of another.
PARTS: dict[str, tuple[int, ...]] = {
    "probe": (0,),
    "saliency": (1,),
    "validation": (2, 3),
    "calibration": (4, 5, 6, 7),
}
# Characters of a document.
_LONGEST = 6000
_SHORTEST = 400


def stdlib_text(part: str, characters: int, seed: int = 0) -> tuple[str, str]:
    """Documentation of Python: entries of ``pydoc_data.topics`` and docstrings of modules, in a seeded order.

    Args:
        part: one of ``PARTS``; parts share no document.
        characters: approximate length; the text is shorter if the part is.
        seed: seed of the order.

    Returns:
        The text and its name.
    """
    documents = [(name, read) for name, read in _documents() if _part_of(name) in PARTS[part]]
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
    return "\n\n".join(pieces), f"Python {_version()} documentation ({part}, seed {seed})"


def stdlib_code(characters: int) -> tuple[str, str]:
    """Source code of Python's standard library, for whole modules of the part ``probe``.

    Args:
        characters: approximate length.

    Returns:
        The text and its name.
    """
    pieces: list[str] = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        if _part_of(f"module {path.stem}") in PARTS["probe"] and _parse(path) is not None:
            pieces.append(path.read_text(encoding="utf-8")[:_LONGEST])
            if sum(map(len, pieces)) >= characters:
                break
    return "\n\n".join(pieces), f"Python {_version()} source code"


def _part_of(name: str) -> int:
    """The eighth that a document belongs to."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 8


def _version() -> str:
    return ".".join(platform.python_version_tuple()[:2])


def _documents() -> Iterator[tuple[str, Callable[[], str]]]:
    """Names of all documents and a function that reads each, so that only chosen modules are parsed."""
    folder = Path(sysconfig.get_path("stdlib"))
    # Topics quote one another; only the first keeps a paragraph, because parts must not share it.
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
    """All docstrings of a module; empty if it cannot be parsed."""
    tree = _parse(path)
    if tree is None:
        return ""
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, owners))
    return "\n\n".join(text for text in docstrings if text)


def _parse(path: Path) -> ast.Module | None:
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, SyntaxError):
        return None
