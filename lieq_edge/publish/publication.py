"""Everything that goes along with files: the card, the Modelfile, and the upload."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..system.files import check_output, user_path, write_output
from ..system.progress import Progress, reporting_to
from ..system.terminal import clean
from .card import model_card
from .described import describe
from .modelfile import modelfile as modelfile_text
from .upload import check_upload, is_repository, upload_files


@dataclass(frozen=True)
class Publication:
    """What was written, and where.

    Attributes:
        card: path of the model card.
        modelfile: path of Ollama's Modelfile, or None.
        url: address of the repository that files and card were sent to, or None.
    """

    card: Path
    modelfile: Path | None
    url: str | None


def publish_files(
    files: Sequence[str | Path],
    *,
    card: str | Path = "README.md",
    modelfile: str | Path | None = "Modelfile",
    upload: str | None = None,
    private: bool = False,
    base_model: str | None = None,
    license: str | None = None,
    languages: Sequence[str] = (),
    force: bool = False,
    progress: Progress | None = None,
) -> Publication:
    """Write a model card and a Modelfile for GGUF files of one model, and send files and card to the hub.

    Args:
        files: GGUF files; of a file in several parts any of them.
        card: model card to write.
        modelfile: Modelfile of the first file to write, or None.
        upload: repository of the hub, ``OWNER/NAME``; it is made where there is none.
        private: a new repository is private.
        base_model: hub id of the original, instead of what the files say.
        license: license of the model, instead of what the files say.
        languages: codes of its languages, instead of what the files say.
        force: existing files are replaced, here and on the hub.
        progress: receives the notes.

    Raises:
        InputError: a file is missing or damaged, an output exists and not ``force``, or the hub refuses the upload.
            Nothing is written unless all of it can be made.
    """
    if not files:
        raise InputError("There is nothing to publish; give the path of a GGUF file.")
    card = user_path(card)
    place = None if modelfile is None else user_path(modelfile)
    outputs = [card] if place is None else [card, place]
    if place is not None and os.path.realpath(card) == os.path.realpath(place):
        raise InputError(f"The card and the Modelfile are both {card}; choose two files.")
    if base_model is not None and not is_repository(base_model):
        raise InputError(f"{clean(base_model)!r} is no model of the hub; give its id, OWNER/NAME.")
    for path in outputs:
        check_output(path, force=force)
    if upload is not None:
        check_upload(upload)
    with reporting_to(progress):
        described = [describe(path) for path in files]
        text = model_card(described, repo=upload, base_model=base_model, license=license, languages=languages)
        ollama = None if place is None else modelfile_text(described[0], place)
        write_output(card, text.encode(), replace=force)
        if place is not None and ollama is not None:
            write_output(place, ollama.encode(), replace=force)
        url = None
        if upload is not None:
            parts = [part for one in described for part in one.model.paths]
            url = upload_files(upload, parts, text, private=private, force=force)
    return Publication(card, place, url)
