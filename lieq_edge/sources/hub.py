"""Models of the Hugging Face hub, through its cache."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import huggingface_hub
from huggingface_hub import HfApi, constants, errors

from ..errors import InputError
from ..system.progress import is_quiet, log
from .families import family_of_config
from .huggingface import CONFIG_FILE, HASHED_FILES, TEMPLATE_FOLDER, HuggingFaceSource, Opening, read_config
from .kinds import ADAPTER_CONFIG
from .model_card import CARD_FILE, LARGEST_CARD
from .text_part import text_config
from .weights.pickles import PICKLE_FILE, PICKLE_INDEX, pickle_files
from .weights.safetensors_files import INDEX_FILE, SINGLE_FILE, has_files

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_PATIENCE = 5.0  # seconds until the hub counts as out of reach; the library itself would try for half a minute


def is_hub_id(model: str) -> bool:
    """True when ``model`` has the form of a hub id, ``organisation/name``."""
    return _ID.fullmatch(model) is not None


def open_hub(model: str, revision: str | None = None, opening: Opening | None = None) -> HuggingFaceSource:
    """Fetch a model (one set of weights, configuration, tokenizer, model card) and open it.

    Without a network, or with ``HF_HUB_OFFLINE`` set, the files that an earlier call fetched are opened.

    Args:
        model: hub id.
        revision: branch, tag or commit.
        opening: options that a directory is opened with.

    Raises:
        InputError: it cannot be fetched, or is of a kind that is not read, which is seen before weights are fetched.
    """
    opening = opening or Opening()
    try:
        directory = _fetch(model, revision, opening)
    except InputError:
        raise
    except Exception as error:  # the library raises its own, httpx's and the system's
        raise InputError(_reason(model, error)) from error
    return HuggingFaceSource(directory, model, model.rpartition("/")[2], opening, repository=model)


def _fetch(model: str, revision: str | None, opening: Opening) -> Path:
    """The directory of the hub's cache in which the files that are needed lie."""
    reachable = _can_reach_hub()
    try:
        downloaded = huggingface_hub.hf_hub_download(
            model, CONFIG_FILE, revision=revision, local_files_only=not reachable
        )
    except errors.EntryNotFoundError:
        if reachable and ADAPTER_CONFIG in _files(model, revision or "main"):
            raise InputError(
                f"{model} is an adapter, not a model; give the model that it was made for, and the adapter's directory "
                "with --lora."
            ) from None
        raise
    config = Path(downloaded)
    document = text_config(read_config(config))
    family_of_config(document, model).check(document, model)
    if not reachable:
        if not has_files(config.parent) and not (opening.allow_pickle and pickle_files(config.parent)):
            why = "HF_HUB_OFFLINE is set" if huggingface_hub.constants.HF_HUB_OFFLINE else "the hub cannot be reached"
            raise InputError(f"The hub's cache holds {model} without its weights, and {why}; connect to the network.")
        return config.parent
    # The cache's folder bears the name of the commit; a branch may move on meanwhile.
    commit = config.parent.name
    sizes = _files(model, commit)
    weights = _weight_files(model, set(sizes), commit, opening)
    total = sum(sizes.get(name) or 0 for name in weights)
    log(f"Fetching {model}: {total / 1e6:,.0f} MB of weights, unless they are in the hub's cache already.")
    if is_quiet() or sys.stderr is None or not sys.stderr.isatty():
        huggingface_hub.utils.disable_progress_bars()
    templates = [name for name in sizes if name.startswith(f"{TEMPLATE_FOLDER}/") and name.endswith(".jinja")]
    card = [CARD_FILE] if (sizes.get(CARD_FILE) or 0) <= LARGEST_CARD else []
    for name in (*weights, *HASHED_FILES, *card, *templates):
        if name in sizes:
            huggingface_hub.hf_hub_download(model, name, revision=commit)
    return config.parent


def _can_reach_hub() -> bool:
    """False when the user works offline, or the hub does not answer."""
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        huggingface_hub.utils.get_session().head(constants.ENDPOINT, timeout=_PATIENCE)
    except Exception:  # of the HTTP library, which changes from version to version
        return False
    return True


def _files(model: str, commit: str) -> dict[str, int | None]:
    """The files of a repository with their sizes."""
    info = HfApi().model_info(model, revision=commit, files_metadata=True, timeout=4 * _PATIENCE)
    return {entry.rfilename: entry.size for entry in info.siblings or []}


def _weight_files(model: str, names: set[str], commit: str, opening: Opening) -> list[str]:
    """One set of weights out of a repository's files, chosen as for a directory.

    Raises:
        InputError: there are no weights, or only pickles, which the user did not allow.
    """

    def indexed(index: str) -> list[str]:
        path = Path(huggingface_hub.hf_hub_download(model, index, revision=commit))
        parts = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
        missing = next((part for part in parts if part not in names), None)
        if missing is not None:
            raise InputError(f"{model} has no file {missing} on the hub, which {index} names; choose another model.")
        return [index, *parts]

    if SINGLE_FILE in names:
        return [SINGLE_FILE]
    if INDEX_FILE in names:
        return indexed(INDEX_FILE)
    others = sorted(name for name in names if re.fullmatch(r"(?!consolidated)[^/]*\.safetensors", name))
    if others:
        return others
    pickled = [name for name in (PICKLE_FILE, PICKLE_INDEX) if name in names]
    if pickled and opening.allow_pickle:
        return pickled if pickled[0] == PICKLE_FILE else indexed(PICKLE_INDEX)
    if pickled:
        raise InputError(
            f"{model} has its weights as pickles only ({pickled[0]}), which can run code when read "
            "carelessly; choose a model in safetensors, or pass --allow-pickle (only tensors are loaded then)."
        )
    raise InputError(f"{model} has no safetensors files on the hub; choose a model that has.")


def _reason(model: str, error: Exception) -> str:
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{model} is gated: accept its licence on huggingface.co/{model} and log in with 'hf auth login' "
            "(or set HF_TOKEN)."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{model} is neither a local path nor a model on the hub; check the name (a private one needs "
            "'hf auth login')."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{model} has no such revision on the hub; check --revision."
    if isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)):
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
        return (
            f"{model} is neither a local path nor in the hub's cache, and {why}; "
            "connect to the network or give a directory or .gguf file."
        )
    if isinstance(error, errors.EntryNotFoundError):
        return f"{model} has no {CONFIG_FILE} on the hub, so it is not a transformers model; choose another."
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return (
        f"{model} is not a local path and could not be fetched from the hub ({first}); check the name and the network."
    )
