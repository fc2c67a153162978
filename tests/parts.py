"""Models in several GGUF files, as llama-gguf-split writes them."""

from __future__ import annotations

from pathlib import Path

from gguf import GGUFValueType

from lieq_edge.gguf.container import KeyValue, write_container
from lieq_edge.gguf.header import read_header, type_name
from lieq_edge.gguf.storage import storage_type

PARTS = 3


def split(whole: Path, folder: Path, *, parts: int = PARTS, announced: int | None = None) -> list[Path]:
    """Cut a GGUF file: all keys and no tensor in the first part, then the tensors in turn."""
    header, data = read_header(whole), whole.read_bytes()
    total = len(header.tensors) if announced is None else announced
    architecture = header.get("general.architecture")
    paths = []
    for number in range(parts):
        mine = [t for i, t in enumerate(header.tensors) if number > 0 and i * (parts - 1) // total == number - 1]
        own = [kv for kv in header.metadata if number == 0 or kv.key == "general.architecture"]
        keys = [
            KeyValue("split.no", number, int(GGUFValueType.UINT16)),
            KeyValue("split.count", parts, int(GGUFValueType.UINT16)),
            KeyValue("split.tensors.count", total, int(GGUFValueType.INT32)),
        ]
        path = folder / f"model-{number + 1:05d}-of-{parts:05d}.gguf"
        entries = [(t.name, t.shape, storage_type(type_name(t.type))) for t in mine]
        content = (data[t.offset : t.offset + t.nbytes] for t in mine)
        write_container(path, architecture, [*own, *keys], entries, content)
        paths.append(path)
    return paths
