"""Send files and a card to the Hugging Face hub, through its own library."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from ..system.progress import is_quiet, log
from ..system.terminal import clean

CARD_NAME = "README.md"

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def is_repository(name: str) -> bool:
    """True when ``name`` has the form of a hub id."""
    return _REPO.fullmatch(name) is not None


def check_upload(repo: str) -> None:
    """Refuse an upload that cannot succeed, before any work.

    Raises:
        InputError: ``repo`` is no hub id, or there is no token.
    """
    from huggingface_hub import constants, get_token

    if not is_repository(repo) or "/" not in repo:
        raise InputError(f"{clean(repo)!r} is no repository of the hub; give OWNER/NAME.")
    if constants.HF_HUB_OFFLINE:
        raise InputError("HF_HUB_OFFLINE is set, and an upload needs the network; unset it.")
    if get_token() is None:
        raise InputError(
            "There is no token for the hub: set HF_TOKEN, or run `hf auth login`, with a token that may write "
            "(https://huggingface.co/settings/tokens)."
        )


def upload_files(repo: str, files: Sequence[Path], card: str, *, private: bool = False, force: bool = False) -> str:
    """Send files and the card in one commit; the repository is made where there is none.

    Args:
        repo: hub id, ``OWNER/NAME``.
        files: GGUF files, all parts of each.
        card: text of the repository's ``README.md``.
        private: a new repository is private.
        force: files of the same names in the repository are replaced.

    Returns:
        The address of the repository.

    Raises:
        InputError: there is no token, the hub cannot be reached or refuses, or has files of these names and not
            ``force``.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.utils import disable_progress_bars

    check_upload(repo)
    if is_quiet() or sys.stderr is None or not sys.stderr.isatty():
        disable_progress_bars()
    contents: dict[str, str | bytes] = {path.name: str(path) for path in files}
    contents[CARD_NAME] = card.encode()
    try:
        api = HfApi()
        created = api.create_repo(repo, private=private or None, exist_ok=True)
        present = [] if force else [entry.path for entry in api.get_paths_info(created.repo_id, list(contents))]
        if present:
            raise InputError(
                f"{created.repo_id} has {', '.join(map(clean, present))} already; pass --force to replace it there."
            )
        total = sum(path.stat().st_size for path in files)
        log(f"Sending {len(files)} file{'s' * (len(files) > 1)} of {total / 1e6:,.1f} MB to {created.repo_id}.")
        api.create_commit(
            created.repo_id,
            [CommitOperationAdd(name, content) for name, content in contents.items()],
            commit_message="Upload GGUF files and their card with lieq-edge",
        )
        return str(created)
    except InputError:
        raise
    except Exception as error:  # the library raises its own, its HTTP library's and the system's
        raise InputError(_reason(repo, error)) from error


def _reason(repo: str, error: Exception) -> str:
    """One sentence on what went wrong and what to do."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if status == 401:
        return "The hub does not accept the token; make a new one at https://huggingface.co/settings/tokens."
    if status == 403:
        return f"The token may not write to {repo}; take one that may, or another repository."
    line = " ".join(clean(str(error)).split())[:300] or type(error).__name__
    if status is not None:
        return f"The hub refused the upload to {repo} (HTTP status {status}: {line}); try again later."
    return f"The upload to {repo} failed ({line}); check the network and try again, what was sent is not sent twice."
