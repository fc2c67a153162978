"""``cache``: show and remove stored measurements and unfinished work."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..system.progress import set_quiet
from ..system.terminal import say
from .flags import CacheDirFlag, DebugFlag, JsonFlag, QuietFlag

if TYPE_CHECKING:
    from ..store.contents import Store

app = typer.Typer(help="Show stored measurements and unfinished work, and remove them.")


@app.command("list")
def list_contents(
    cache_dir: CacheDirFlag = None, json_output: JsonFlag = False, quiet: QuietFlag = False, debug: DebugFlag = False
) -> None:
    """List the entries, the longest unused first: time of last use, size, kind, key."""
    set_quiet(quiet)
    store = _store(cache_dir)
    contents = store.contents()
    if json_output:
        entries = [
            {"kind": s.kind, "key": s.key, "bytes": s.bytes, "used": s.used, "unfinished": s.unfinished}
            for s in contents
        ]
        print(json.dumps({"folder": str(store.folder), "entries": entries}, indent=1))
        return
    for stored in contents:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(stored.used))
        kind = f"{stored.kind} (unfinished)" if stored.unfinished else stored.kind
        say(f"{used}  {stored.bytes / 1e6:10.1f} MB  {kind:30}  {stored.key[:12]}", sys.stdout)
    if not contents:
        say(f"Nothing is stored in {store.folder}.")


@app.command()
def size(
    cache_dir: CacheDirFlag = None, json_output: JsonFlag = False, quiet: QuietFlag = False, debug: DebugFlag = False
) -> None:
    """Show the size of the cache, and its folder."""
    set_quiet(quiet)
    store = _store(cache_dir)
    contents = store.contents()
    total = sum(stored.bytes for stored in contents)
    if json_output:
        print(json.dumps({"folder": str(store.folder), "entries": len(contents), "bytes": total}, indent=1))
    else:
        say(f"{total / 1e6:.1f} MB in {len(contents)} entries in {store.folder}", sys.stdout)


@app.command()
def clear(
    cache_dir: CacheDirFlag = None, json_output: JsonFlag = False, quiet: QuietFlag = False, debug: DebugFlag = False
) -> None:
    """Remove everything that no running lieq-edge uses."""
    set_quiet(quiet)
    store = _store(cache_dir)
    count, freed = store.clear()
    if json_output:
        print(json.dumps({"folder": str(store.folder), "removed": count, "bytes": freed}, indent=1))
    else:
        say(f"Removed {count} entries of {freed / 1e6:.1f} MB from {store.folder}", sys.stdout)


def _store(folder: Path | None) -> Store:
    from ..store import Store, default_folder

    return Store(folder.expanduser() if folder is not None else default_folder())
