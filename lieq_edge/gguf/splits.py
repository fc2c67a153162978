"""Models in several GGUF files, as ``llama-gguf-split`` writes them: ``name-00001-of-00003.gguf`` and so on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from gguf import Keys

from ..errors import InputError
from .header import Header, UnreadableError, read_header

_NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
_PREFIX = "split."


@dataclass(frozen=True)
class GgufModel:
    """A model in one GGUF file or several.

    Attributes:
        header: like the header of a single file: the tensors of all parts, without the ``split.*`` keys.
        paths: files of the parts in order; llama.cpp loads a model by the first one.
        places: index into ``paths`` of the file that holds each tensor, by tensor name.
    """

    header: Header
    paths: tuple[Path, ...]
    places: dict[str, int]


def read_model(path: Path) -> GgufModel:
    """Read the headers of the model in ``path``, or of which ``path`` is a part.

    Raises:
        UnreadableError: the file or a part is missing, cut off, or of another model.
        InputError: a header is damaged, or the names of the parts do not say their places.
    """
    header = read_header(path)
    count = _count(header)
    if count <= 1:
        return GgufModel(_whole([header]), (path,), {tensor.name: 0 for tensor in header.tensors})
    paths = _paths(path, count)
    headers = []
    for number, part in enumerate(paths):
        if not part.is_file():
            raise UnreadableError(
                f"{path} is one part of {count} and {part.name} is missing; put all parts into one folder."
            )
        read = read_header(part)
        if _count(read) != count or read.get(Keys.Split.LLM_KV_SPLIT_NO) != number:
            raise UnreadableError(f"{part} is not part {number + 1} of {count} of {path.name}; fetch the parts again.")
        headers.append(read)
    whole = _whole(headers)
    places = {tensor.name: number for number, part in enumerate(headers) for tensor in part.tensors}
    total = headers[0].get(Keys.Split.LLM_KV_SPLIT_TENSORS_COUNT, len(whole.tensors))
    if len(places) != len(whole.tensors) or total != len(places):
        raise InputError(
            f"The parts of {path} hold {len(whole.tensors)} tensors where {total} different ones are announced; "
            "fetch them again."
        )
    return GgufModel(whole, tuple(paths), places)


def first_part(path: Path) -> Path:
    """The file by which llama.cpp loads the model of which ``path`` is a part; any other path is returned unchanged."""
    match = _NAME.fullmatch(path.name)
    first = path.with_name(f"{match[1]}-00001-of-{match[3]}.gguf") if match else path
    return first if first.is_file() else path


def stored_bytes(path: Path) -> int:
    """Bytes of a GGUF file, with all parts of a model of which it is one; 0 where there is no file."""
    match = _NAME.fullmatch(path.name)
    parts = _named(path, match) if match else [path]
    return sum(part.stat().st_size for part in parts if part.is_file())


def _count(header: Header) -> int:
    value = header.get(Keys.Split.LLM_KV_SPLIT_COUNT)
    return value if isinstance(value, int) else 0


def _paths(path: Path, count: int) -> list[Path]:
    match = _NAME.fullmatch(path.name)
    if match is None or int(match[3]) != count:
        raise InputError(
            f"{path} is one part of {count}, and its name does not say which; name the parts "
            f"NAME-00001-of-{count:05d}.gguf and so on, as llama.cpp expects."
        )
    return _named(path, match)


def _named(path: Path, match: re.Match[str]) -> list[Path]:
    """Paths of all parts, by the name of one."""
    return [path.with_name(f"{match[1]}-{number:05d}-of-{match[3]}.gguf") for number in range(1, int(match[3]) + 1)]


def _whole(headers: list[Header]) -> Header:
    metadata = tuple(kv for kv in headers[0].metadata if not kv.key.startswith(_PREFIX))
    return Header(metadata, tuple(tensor for header in headers for tensor in header.tensors))
