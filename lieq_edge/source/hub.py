"""Models of the Hugging Face hub, through its cache."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import InputError
from .families import family_of_config
from .huggingface import CONFIG_FILE, HASHED_FILES, HuggingFaceSource, read_config

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def is_hub_id(model: str) -> bool:
    """True when ``model`` has the form of a hub id, ``organisation/name``."""
    return _ID.fullmatch(model) is not None


def open_hub(model: str, revision: str | None = None) -> HuggingFaceSource:
    """Fetch a model (only its safetensors, configuration and tokenizer) and open it.

    Raises:
        InputError: it cannot be fetched, or is of a kind that is not read; that is seen before weights are fetched.
    """
    try:
        from huggingface_hub import hf_hub_download, snapshot_download

        config = Path(hf_hub_download(model, CONFIG_FILE, revision=revision))
        document = read_config(config)
        family_of_config(document, model).check(document, model)
        directory = snapshot_download(
            model,
            revision=revision,
            allow_patterns=["*.safetensors", "*.safetensors.index.json", *HASHED_FILES],
            # Patterns match across folders; copies in other formats lie in subfolders and consolidated files.
            ignore_patterns=["*/*", "consolidated*"],
        )
    except InputError:
        raise
    except Exception as error:  # the library raises its own, httpx's and the system's
        raise InputError(_reason(model, error)) from error
    return HuggingFaceSource(Path(directory), model, model.rpartition("/")[2])


def _reason(model: str, error: Exception) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return f"{model} is gated: accept its licence on huggingface.co and log in with 'hf auth login'."
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{model} is neither a local path nor a model on the hub (or it is private); check the name."
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{model} has no such revision on the hub; check it."
    if isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)):
        return (
            f"{model} is neither a local path nor in the hub's cache, and the hub cannot be reached; "
            "connect to the network or give a directory or .gguf file."
        )
    if isinstance(error, errors.EntryNotFoundError):
        return f"{model} has no {CONFIG_FILE} on the hub, so it is no transformers model; choose another."
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{model} is no local path and could not be fetched from the hub ({first}); check the name and the network."
