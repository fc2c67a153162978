"""What a sweep has still to do: names and keys of its files, and those that an earlier run has finished."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..pipeline.outputs import plain_name, safe_name
from ..store.keys import key_of, versions
from ..system.files import check_output, read_text, write_output
from ..system.progress import log, stage
from .request import Entry
from .table import SweepRow, finished_row, read_record, record_path

_CLAIMS = "sweep.json"
_PLACES = frozenset({"cache_dir", "cache_limit"})
_FILES = ("probe_text", "text", "imatrix", "calibration", "device")


@dataclass(frozen=True)
class Planned:
    """A file with its place and key.

    Attributes:
        entry: what was asked for.
        out: the file.
        row: its row without results.
        page: page of its model.
    """

    entry: Entry
    out: Path
    row: SweepRow
    page: Path

    def document(self, threads: int | None) -> dict[str, Any]:
        """What a worker needs to make it, as JSON; ``threads`` counts where the user names none."""
        return {**document(self.entry, self.out, threads), "row": asdict(self.row)}


def document(entry: Entry, out: Path, threads: int | None) -> dict[str, Any]:
    """What a worker needs to check an entry, as JSON."""
    settings = entry.settings.model_dump(mode="json", exclude_unset=True)
    if threads is not None:
        settings.setdefault("threads", threads)
    return {"out": str(out), "settings": settings}


def name_models(entries: Sequence[Entry]) -> dict[str, str]:
    """A name for the files of each model."""
    models = {entry.model: plain_name(entry.model) for entry in entries}
    short = [name.casefold() for name in models.values()]
    for model, name in models.items():
        if short.count(name.casefold()) > 1:  # the same model of two organisations
            models[model] = safe_name(model.replace("/", "-").replace("\\", "-"))
    return models


def name_files(entries: Sequence[Entry]) -> list[str]:
    """Names of the files: model, budget, metric and effort.

    Raises:
        InputError: two entries would have one name.
    """
    models, names, taken = name_models(entries), [], dict[str, Entry]()
    for entry in entries:
        parts = (models[entry.model], safe_name(entry.budget), entry.metric, entry.effort)
        names.append("-".join(part for part in parts if part) + ".gguf")
        other = taken.setdefault(names[-1].casefold(), entry)
        if other is not entry:
            raise InputError(
                f"{other.model} with {other.budget} and {entry.model} with {entry.budget} would both be written to "
                f"{names[-1]}; leave one out, or give a model another name."
            )
    return names


def key_of_entry(entry: Entry, name: str, content: str) -> str:
    """SHA-256 (hex) over everything that decides a file.

    Args:
        entry: the file.
        name: its name.
        content: hash of the model's content.
    """
    settings = entry.settings.model_dump(mode="json", exclude=set(_PLACES))
    texts = {name: _hash_of(settings[name]) for name in _FILES}
    return key_of("sweep", {"model": content, "name": name, "settings": settings, "files": texts, **versions()})


def _hash_of(path: str | None) -> str | None:
    """SHA-256 of a file that a setting names; None where it names none."""
    if path is None or not os.path.isfile(path):
        return None
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def find_finished(plans: Sequence[Planned], *, force: bool) -> dict[str, SweepRow]:
    """The rows of those files that are finished, by key; the names of the others are taken for this sweep.

    Args:
        plans: all files, in one folder.
        force: files that are there and are not of this sweep may be replaced.

    Raises:
        InputError: a file is there that other settings or another program made, and not ``force``.
        OSError: a file cannot be read or written.
    """
    folder = plans[0].out.parent
    claimed = _claims(folder)
    finished, stale = dict[str, SweepRow](), list[Path]()
    with stage("Looking for finished files", len(plans)) as advance:
        for plan in plans:
            record = None if force and not _is_readable(plan.out) else read_record(plan.out)
            there = os.path.lexists(plan.out)
            if record is None:
                if there and not force and plan.out.name not in claimed:
                    raise InputError(f"{plan.out} exists and is not of this sweep; pass --force to replace it.")
            elif record.row.key != plan.row.key:
                if not force:
                    raise InputError(
                        f"{plan.out} was made of another model, with other settings or by another version; "
                        "choose another --out, or pass --force to replace such files."
                    )
            elif (row := finished_row(plan.out, plan.row.key)) is not None:
                finished[row.key] = row
            elif there:
                log(f"Note: {plan.out} has changed since it was written; it is made again.")
            if plan.row.key not in finished:
                check_output(plan.out, force=True)
                stale.append(plan.out)
            advance()
    _claim(folder, claimed | {path.name for path in stale})
    for path in stale:
        record_path(path).unlink(missing_ok=True)
    return finished


def _is_readable(file: Path) -> bool:
    try:
        read_record(file)
    except InputError:
        return False
    return True


def _claims(folder: Path) -> set[str]:
    """Names of the files that this sweep has begun, or was about to."""
    path = folder / _CLAIMS
    if not os.path.lexists(path):
        return set()
    try:
        names = json.loads(read_text(path, "the list of a sweep's files"))["files"]
        return {str(name) for name in names}
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is not of a sweep; choose another --out.") from None


def _claim(folder: Path, names: set[str]) -> None:
    text = json.dumps({"files": sorted(names)}, indent=1) + "\n"
    write_output(folder / _CLAIMS, text.encode("utf-8"))
