"""Damaged models: bytes of a file changed, and what opening and reading everything then gives."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lieq_edge.sources import open_source

_JUNK: tuple[Any, ...] = (
    None, True, 0, -1, 1, 2**31, 2**63, 2**70, 1e308, -0.5, float("nan"), "", "x", "\0", "\ud800", "é" * 40, [], {},
    [[]], {"": 0}, [None], [0, 1], ["a", "b"], {"a": {"b": 1}}, "<0x00>", 511, 512, "lieq", "{{", "\U0010ffff",
)  # fmt: skip


def read_everything(model: Path, **options: Any) -> None:
    """Open ``model`` and read all that a source offers."""
    source = open_source(str(model), **options)
    for spec in source.tensors():
        source.to_hf(spec.name, source.read(spec.name))
    source.metadata()
    source.config()
    source.detokenize(source.tokenize("Hello, wörld! 日本 12345\n\t<s><|eot_id|>", add_bos=True))
    assert len(source.content_hash) == 64


def damage_bytes(data: bytes, seed: int) -> bytes:
    """``data`` cut off, with a few bytes flipped, or with a stretch removed, doubled, zeroed or moved."""
    rng = random.Random(seed)
    # Headers come first and are the more interesting part.
    reach = len(data) if rng.random() < 0.5 else min(len(data), 4096)
    changed = bytearray(data)
    kind = rng.randrange(6)
    at, length = rng.randrange(reach), rng.choice((1, 4, 8, 64, 1000))
    if kind == 0:
        return data[: rng.randrange(reach)]
    if kind == 1:
        del changed[at : at + length]
    elif kind == 2:
        changed[at:at] = changed[at : at + length]
    elif kind == 3:
        changed[at : at + length] = bytes(len(changed[at : at + length]))
    else:
        for _ in range(rng.choice((1, 1, 2, 4, 16))):
            place = rng.randrange(reach)
            changed[place] = rng.choice((changed[place] ^ (1 << rng.randrange(8)), rng.randrange(256), 255))
    return bytes(changed)


def damage_json(data: bytes, seed: int) -> bytes:
    """A JSON document with one or two values replaced, removed or renamed, anywhere in it."""
    rng = random.Random(seed)
    document = json.loads(data)
    for _ in range(rng.choice((1, 1, 2))):
        _damage_value(document, rng)
    return json.dumps(document).encode("utf-8", "surrogatepass")


def _damage_value(document: Any, rng: random.Random) -> None:
    parent, key = None, None
    at = document
    while isinstance(at, (dict, list)) and at and (parent is None or rng.random() < 0.8):
        parent, key = at, rng.choice(list(at)) if isinstance(at, dict) else rng.randrange(len(at))
        at = parent[key]
    if parent is None:
        return
    action = rng.randrange(6)
    if action == 0:
        del parent[key]
    elif action == 1 and isinstance(parent, dict):
        parent[rng.choice(("", "x", "type", "0"))] = parent.pop(key)
    elif action == 2 and isinstance(at, int):
        parent[key] = at + rng.choice((-1, 1, 7))
    else:
        parent[key] = rng.choice(_JUNK)


DAMAGE: dict[str, tuple[Callable[[bytes, int], bytes], ...]] = {
    ".json": (damage_json, damage_json, damage_bytes),
    "": (damage_bytes,),
}


def damaged(path: Path, seed: int) -> bytes:
    """The content of ``path``, damaged as its kind of file invites."""
    ways = DAMAGE.get(path.suffix, DAMAGE[""])
    return ways[seed % len(ways)](path.read_bytes(), seed)
