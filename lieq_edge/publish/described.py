"""What a model card and a Modelfile say of a GGUF file, from its metadata."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import Keys

from ..errors import InputError
from ..gguf.header import Header
from ..gguf.inspect import FileReport, inspect_file
from ..gguf.splits import GgufModel, first_part, read_model
from ..llama.template import ChatTemplate, chat_template
from ..system.files import user_path
from ..system.terminal import clean

_HUB_URL = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+?)(?:/(?:tree|blob)/.*)?/?")
# Tags that say what the card says elsewhere, and formats of the original's files.
_TAKEN = re.compile(
    r"gguf|base_model:.*|license:.*|region:.*|arxiv:.*|"
    r"safetensors|pytorch|tf|jax|onnx|mlx|openvino|coreml|transformers|transformers\.js",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Described:
    """A GGUF file, and what its general metadata says of the model.

    Attributes:
        model: its parts.
        report: its types, sizes and ``lieq.*`` values.
        template: its chat template, or None.
        license: name of the license, or None.
        license_name: name of a license that the hub has no name for.
        license_link: its address.
        languages: codes of languages.
        tags: further tags.
        base_model: hub id of the model that the file was made from, or None.
    """

    model: GgufModel
    report: FileReport
    template: ChatTemplate | None
    license: str | None
    license_name: str | None
    license_link: str | None
    languages: tuple[str, ...]
    tags: tuple[str, ...]
    base_model: str | None

    @property
    def path(self) -> Path:
        """The file, or the first of its parts."""
        return self.model.paths[0]

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.report.name or self.path.stem


def describe(path: str | Path) -> Described:
    """Read what a card says of ``path``, or of the model that it is a part of.

    Raises:
        InputError: the file is missing, damaged or not a GGUF file, or its name has characters that no command takes.
    """
    path = first_part(user_path(path))
    model, report = read_model(path), inspect_file(path)
    for part in model.paths:
        if clean(part.name) != part.name:
            raise InputError(f"The name of {part} has characters that cannot be printed; rename the file.")
    header = model.header
    return Described(
        model=model,
        report=report,
        template=chat_template(path),
        license=_text(header, Keys.General.LICENSE),
        license_name=_text(header, Keys.General.LICENSE_NAME),
        license_link=_text(header, Keys.General.LICENSE_LINK),
        languages=_texts(header.get(Keys.General.LANGUAGES)),
        tags=tuple(tag for tag in _texts(header.get(Keys.General.TAGS)) if not _TAKEN.fullmatch(tag)),
        base_model=_base_model(header),
    )


def _base_model(header: Header) -> str | None:
    """The model's own repository where the file names it, else the first one that it is based on."""
    keys = (
        Keys.General.SOURCE_REPO_URL,
        Keys.General.SOURCE_URL,
        Keys.General.REPO_URL,
        Keys.General.BASE_MODEL_REPO_URL.format(id=0),
    )
    urls = (_text(header, key) for key in keys)
    matches = (_HUB_URL.fullmatch(url) for url in urls if url)
    return next((match[1] for match in matches if match), None)


def _text(header: Header, key: str) -> str | None:
    value = header.get(key)
    return clean(value).strip() or None if isinstance(value, str) else None


def _texts(value: Any) -> tuple[str, ...]:
    """Strings of a list, each once; a single string counts as a list."""
    items: Iterable[Any] = value if isinstance(value, list) else [value]
    texts = [clean(item).strip() for item in items if isinstance(item, str)]
    return tuple(dict.fromkeys(text for text in texts if text))
