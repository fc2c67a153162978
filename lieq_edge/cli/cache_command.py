"""``cache``: show and remove stored measurements and unfinished work."""

from __future__ import annotations

import difflib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from ..system.files import user_path
from ..system.progress import set_quiet
from ..system.terminal import clean, say
from ..system.units import age_text, size_text
from .flags import CacheDirFlag, DebugFlag, JsonFlag, QuietFlag

if TYPE_CHECKING:
    from ..store.contents import Store, Stored

app = typer.Typer(help="Show stored measurements and unfinished work, and remove them.")

_UNKNOWN = "(unknown)"


@app.command("list")
def list_contents(
    cache_dir: CacheDirFlag = None, json_output: JsonFlag = False, quiet: QuietFlag = False, debug: DebugFlag = False
) -> None:
    """List what is stored for each model, longest unused first, with its size and the time since it was last used."""
    set_quiet(quiet)
    store = _store(cache_dir)
    models = _by_use(store)
    if json_output:
        sums = [{"model": model, "entries": len(contents), **_sums(contents)} for model, contents in models]
        entries = [_entry(stored, model) for model, contents in models for stored in contents]
        print(json.dumps({"folder": str(store.folder), "models": sums, "entries": entries}, indent=1))
        return
    for model, contents in models:
        total = _sums(contents)
        say(f"{_shown(model)}: {size_text(total['bytes'])}, used {age_text(total['age_seconds'])}", sys.stdout)
        for kind, count, size, used in _kinds(contents):
            say(f"  {size_text(size):>12}  {kind:32} {count:>5}  {age_text(time.time() - used)}", sys.stdout)
    if not models:
        say(f"Nothing is stored in {store.folder}.")


@app.command()
def size(
    cache_dir: CacheDirFlag = None, json_output: JsonFlag = False, quiet: QuietFlag = False, debug: DebugFlag = False
) -> None:
    """Show the size of the cache and its folder."""
    set_quiet(quiet)
    store = _store(cache_dir)
    contents = store.contents()
    total = sum(stored.bytes for stored in contents)
    if json_output:
        print(json.dumps({"folder": str(store.folder), "entries": len(contents), "bytes": total}, indent=1))
    else:
        say(f"{size_text(total)} in {_count(len(contents))} in {store.folder}", sys.stdout)


@app.command()
def clear(
    model: Annotated[
        str | None, typer.Argument(help="Model, as `cache list` names it; default: everything.", show_default=False)
    ] = None,
    older_than: Annotated[
        str | None, typer.Option(help="Only what has been unused for this long: 30d, 12h, 2w.", show_default=False)
    ] = None,
    cache_dir: CacheDirFlag = None,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Remove what no running lieq-edge is using: everything, one model's entries, or what has long been unused."""
    from ..store import parse_age

    set_quiet(quiet)
    store = _store(cache_dir)
    since = None if older_than is None else time.time() - parse_age(older_than)
    wanted = None
    if model is not None or since is not None:
        some = store.contents() if model is None else _of_model(store, model)
        wanted = {stored.path for stored in some if since is None or stored.used < since}
    count, freed = store.clear(wanted)
    if json_output:
        document = {"folder": str(store.folder), "model": model, "removed": count, "bytes": freed}
        print(json.dumps(document, indent=1))
    else:
        of_model = "" if model is None else f" of {model}"
        say(f"Removed {_count(count)}{of_model}, {size_text(freed)}, from {store.folder}", sys.stdout)


def _store(folder: Path | None) -> Store:
    from ..store import Store, default_folder

    return Store(user_path(folder) if folder is not None else default_folder())


def _of_model(store: Store, name: str) -> list[Stored]:
    """What is stored of the model that is listed under a name.

    Raises:
        InputError: there is none.
    """
    models: dict[str, list[Stored]] = {}
    for model, contents in store.by_model().items():
        models.setdefault(_shown(model), []).extend(contents)
    wanted = clean(name)
    if wanted not in models:
        if not models:
            raise InputError(f"Nothing is stored of {wanted}; {store.folder} is empty.")
        names = sorted(models)
        close = difflib.get_close_matches(wanted, names, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else "."
        raise InputError(f"Nothing is stored of {wanted}, only of {', '.join(names)}{hint}")
    return models[wanted]


def _by_use(store: Store) -> list[tuple[str | None, list[Stored]]]:
    """Models with their contents; those that were not used for longest first."""
    return sorted(store.by_model().items(), key=lambda item: (item[1][-1].used, item[0] or ""))


def _sums(contents: Sequence[Stored]) -> dict[str, Any]:
    used = max(stored.used for stored in contents)
    return {"bytes": sum(stored.bytes for stored in contents), "used": used, "age_seconds": max(time.time() - used, 0)}


def _entry(stored: Stored, model: str | None) -> dict[str, Any]:
    return {
        "model": model,
        "kind": stored.kind,
        "key": stored.key,
        "bytes": stored.bytes,
        "used": stored.used,
        "unfinished": stored.unfinished,
    }


def _kinds(contents: Sequence[Stored]) -> list[tuple[str, int, int, float]]:
    """Kind, number, bytes and last use of the entries of each kind, the largest first."""
    kinds: dict[str, list[Stored]] = {}
    for stored in contents:
        kinds.setdefault(f"{stored.kind} (unfinished)" if stored.unfinished else stored.kind, []).append(stored)
    rows = [
        (kind, len(some), sum(stored.bytes for stored in some), max(stored.used for stored in some))
        for kind, some in kinds.items()
    ]
    return sorted(rows, key=lambda row: (-row[2], row[0]))


def _shown(model: str | None) -> str:
    return _UNKNOWN if model is None else clean(model)


def _count(number: int) -> str:
    return f"{number} {'entry' if number == 1 else 'entries'}"
