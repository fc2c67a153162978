"""Profiles of devices: memory, instructions, and the time that a weight of each type costs.

Some are installed with the package; ``lieq-edge bench --types`` measures others.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ByteSize, ConfigDict, Field, ValidationError, field_validator

from ..errors import InputError, reason_of
from ..gguf.types import TYPES
from ..system.files import read_text, user_path
from .repack import Instructions

_LARGEST = 1 << 16
_SUFFIXES = (".json", ".yaml", ".yml")

Nanoseconds = Annotated[float, Field(gt=0, lt=1e6, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1, max_length=1000)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TypeCost(_Record):
    """Time that one weight of a type costs with all the threads of a profile.

    Attributes:
        prefill: nanoseconds a weight and token of a prompt, whose tokens go through the model together.
        decode: nanoseconds a weight and token of an answer.
        row_prefill, row_decode: the same for each row of a matrix, beside its weights: narrow matrices have more.
        source: where the numbers are from.
        estimated: they were not measured on the device for this type.
    """

    prefill: Nanoseconds
    decode: Nanoseconds
    row_prefill: Annotated[float, Field(ge=0, lt=1e6, allow_inf_nan=False)] = 0.0
    row_decode: Annotated[float, Field(ge=0, lt=1e6, allow_inf_nan=False)] = 0.0
    source: Text
    estimated: bool

    def of(self, weights: float, columns: int) -> tuple[float, float]:
        """Nanoseconds of weights in rows of ``columns``, for a token of a prompt and of an answer."""
        rows = weights / columns
        return weights * self.prefill + rows * self.row_prefill, weights * self.decode + rows * self.row_decode


class BlockCost(_Record):
    """Time that a block takes for everything but its matrices.

    Attributes:
        prefill: nanoseconds a block and token of a prompt.
        decode: nanoseconds a block and token of an answer.
        width_prefill: the same for each column of the residual stream, of a prompt: attention, activations, norms.
        width_decode: the same of an answer.
    """

    prefill: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    decode: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    width_prefill: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    width_decode: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0

    def of(self, width: int) -> tuple[float, float]:
        """Nanoseconds of a block with a residual stream so wide, of a token of a prompt and of an answer."""
        return self.prefill + self.width_prefill * width, self.decode + self.width_decode * width


class Profile(_Record):
    """A device.

    Attributes:
        name: its name.
        description: one sentence about it.
        memory: bytes of memory.
        system: bytes that the system needs.
        threads: threads that the times hold for.
        instructions: instructions of its processor.
        types: time by ggml type.
        block: time of a block for everything but its matrices.
        conditions: how the times were measured, e.g. date, load and versions; may be empty.
    """

    name: Text
    description: Text
    memory: ByteSize
    system: ByteSize
    threads: Annotated[int, Field(ge=1, le=1024)]
    instructions: Instructions
    types: Annotated[dict[str, TypeCost], Field(min_length=1)]
    block: BlockCost = BlockCost()
    conditions: str = ""

    @field_validator("types")
    @classmethod
    def _known_types(cls, types: dict[str, TypeCost]) -> dict[str, TypeCost]:
        unknown = [name for name in types if name not in TYPES]
        if unknown:
            raise ValueError(f"there is no type {unknown[0][:40]!r}")
        return types

    @property
    def spare(self) -> int:
        """Bytes that the system leaves."""
        return max(int(self.memory) - int(self.system), 0)

    def with_memory(self, memory: int) -> Profile:
        """The same device with other memory."""
        return self.model_copy(update={"memory": ByteSize(memory)})


def profile_folder() -> Path:
    """The folder of the installed profiles."""
    return Path(__file__).parent / "shipped"


def profile_names() -> list[str]:
    """Names of the installed profiles."""
    return sorted(path.stem for path in profile_folder().glob("*.yaml"))


def load_profile(device: str | Path) -> Profile:
    """The profile of a device.

    Args:
        device: name of an installed profile, or path of a file that ``bench --types`` wrote.

    Raises:
        InputError: there is none, or it is damaged; the sentence names the installed ones.
    """
    text = str(device)
    path = user_path(text)
    if text in profile_names():
        return _parse(_read(profile_folder() / f"{text}.yaml"), text)
    if path.suffix.lower() in _SUFFIXES:
        return _parse(_read(path), text)
    names = profile_names()
    alike = [name for name in names if name.startswith(text.lower())] if text else []
    close = alike or difflib.get_close_matches(text.lower(), names, n=2)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    raise InputError(
        f"The device {text!r} is unknown.{hint} Known are {', '.join(names)}; or give the file that "
        "lieq-edge bench --types --out profile.json wrote on the device."
    )


def list_profiles() -> list[Profile]:
    """The installed profiles, by name."""
    return [load_profile(name) for name in profile_names()]


def _read(path: Path) -> dict[str, Any]:
    """A YAML or JSON mapping; what it is based on is filled in."""
    text = read_text(path, "the profile")
    if len(text) > _LARGEST:
        raise InputError(f"The profile {path} is larger than {_LARGEST // 1024} kB; it is not a profile.")
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"The profile {path} cannot be read: {' '.join(str(error).split())[:300]}.") from error
    if not isinstance(document, dict):
        raise InputError(f"The profile {path} holds no device; write it with lieq-edge bench --types --out.")
    parent = document.pop("based_on", None)
    if parent is not None:
        if parent not in profile_names() or path == profile_folder() / f"{parent}.yaml":
            raise InputError(f"The profile {path} is based on {parent!r}, which is not installed.")
        document = {**_read(profile_folder() / f"{parent}.yaml"), **document}
    return document


def _parse(document: dict[str, Any], label: str) -> Profile:
    try:
        return Profile(**document)
    except (ValidationError, TypeError) as error:
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            where, what = ".".join(map(str, first["loc"])), reason_of(first["msg"])
        else:
            where, what = "a name", "it is not a text"
        raise InputError(f"The profile {label} is damaged: {where}: {what}.") from error
