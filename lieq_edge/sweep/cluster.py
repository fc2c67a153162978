"""The workers of a sweep: processes of this machine, or those of a Dask cluster."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..store.keys import versions
from ..system.files import temporary_folder
from ..system.progress import log
from ..version import __version__
from .work import end_exporters, facts, mark_cache, sees_mark

if TYPE_CHECKING:
    from distributed import Client

_PACKAGE = "lieq-edge"
_SECONDS = 30.0

# A machine may stand still for long, and nothing here is to be taken for dead then. Dask always starts servers of HTTP:
# they get no pages, and an address that nobody else reaches.
_LOCAL: dict[str, Any] = {
    "distributed.scheduler.worker-ttl": None,
    "distributed.admin.tick.limit": "1 hour",
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}
_NOWHERE = "127.0.0.1:0"


@dataclass(frozen=True)
class Cluster:
    """Workers that are ready.

    Attributes:
        client: way to the scheduler.
        workers: number of workers now.
        shares_cache: a measurement that one worker stores is found by all others.
    """

    client: Client
    workers: int
    shares_cache: bool


@contextlib.contextmanager
def open_cluster(folder: Path, *, scheduler: str | None, workers: int, cache: Path | None) -> Iterator[Cluster]:
    """Start workers, or connect to those of a cluster, and look whether they can do the work.

    Args:
        folder: folder of the sweep, which all workers must see.
        scheduler: address of a scheduler; None starts processes on this machine.
        workers: number of processes to start.
        cache: folder of the cache; None leaves it to each worker.

    Raises:
        InputError: Dask is not installed, the scheduler cannot be reached or has no workers, or a worker lacks
            lieq-edge, has another version, or does not see the folder.
    """
    _check_installed()
    with contextlib.ExitStack() as stack:
        if scheduler is None:
            client = stack.enter_context(_local(workers))
            yield Cluster(client, workers, True)
            return
        client = stack.enter_context(_remote(scheduler))
        _check_versions(client)
        found = _facts(client, folder, cache)
        check_facts(found, folder)
        yield Cluster(client, len(found), _shares_cache(client, found))


def _check_installed() -> None:
    try:
        import distributed  # noqa: F401
    except ImportError:
        raise InputError("A sweep needs Dask, which is not installed; run: pip install 'lieq-edge[cluster]'") from None


@contextlib.contextmanager
def _local(workers: int) -> Iterator[Client]:
    """Dask within this process, and processes for the exports."""
    import dask
    from distributed import Client, LocalCluster

    with (
        dask.config.set(_LOCAL),
        temporary_folder(Path(tempfile.gettempdir())) as scratch,
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=False,
            memory_limit=0,
            dashboard_address=_NOWHERE,
            worker_dashboard_address=_NOWHERE,
            scheduler_kwargs={"dashboard": False},
            local_directory=str(scratch),
            silence_logs=logging.CRITICAL,
        ) as cluster,
        # When the client has gone, so that nothing is begun again.
        contextlib.ExitStack() as last,
        Client(cluster, set_as_default=False) as client,
    ):
        last.callback(end_exporters)
        yield client


@contextlib.contextmanager
def _remote(scheduler: str) -> Iterator[Client]:
    from distributed import Client

    try:
        client = Client(scheduler, timeout=_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"There is no scheduler of Dask at {scheduler} ({_reason(error)}); start one with: dask scheduler"
        ) from None
    with client:
        if not client.scheduler_info()["workers"]:
            log(f"Note: {scheduler} has no workers yet; waiting {_SECONDS:.0f} s for the first.")
        try:
            client.wait_for_workers(1, timeout=_SECONDS)
        except TimeoutError:
            raise InputError(
                f"{scheduler} has no workers; start some with: dask worker {scheduler} --nthreads 1"
            ) from None
        yield client


def _check_versions(client: Client) -> None:
    """Compare the installed packages before anything of them is called."""
    # Of the standard library, so that a worker needs nothing to answer.
    found: dict[str, Any] = client.run(importlib.metadata.version, _PACKAGE, on_error="return")
    for worker, version in sorted(found.items()):
        if isinstance(version, importlib.metadata.PackageNotFoundError):
            raise InputError(
                f"The worker {worker} has no lieq-edge; install version {__version__} there, as is installed here."
            )
        if isinstance(version, BaseException):
            raise InputError(f"The worker {worker} does not answer ({_reason(version)}); start it again.")
        if version != __version__:
            raise InputError(
                f"The worker {worker} has lieq-edge {version}, and here is {__version__}; install the same everywhere."
            )


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _facts(client: Client, folder: Path, cache: Path | None) -> dict[str, dict[str, Any]]:
    token = f".lieq-{secrets.token_hex(8)}"
    (folder / token).touch()
    try:
        found: dict[str, Any] = client.run(
            facts, token, str(folder), None if cache is None else str(cache), on_error="return"
        )
    finally:
        (folder / token).unlink()
    for worker, answer in sorted(found.items()):
        if isinstance(answer, BaseException):
            raise InputError(f"lieq-edge does not work on {worker} ({_reason(answer)}); install it again there.")
    return found


def check_facts(found: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    for worker, fact in sorted(found.items()):
        if not fact["sees"]:
            raise InputError(
                f"The worker {worker} on {fact['host']} does not see {folder}; choose a folder by --out that all "
                "workers have under the same path."
            )
        difference = describe_difference(versions(), fact["versions"])
        if difference:
            log(f"Note: the worker {worker} on {fact['host']} has {difference}; its files may have other bytes.")


def describe_difference(own: Mapping[str, str], other: Mapping[str, str]) -> str:
    """How the versions of a worker differ from those here, in words; empty where they do not."""
    parts = []
    for name in sorted(own.keys() | other.keys()):
        here, there = own.get(name), other.get(name)
        if here == there:
            continue
        if name in ("code", "format"):
            parts.append("other code of lieq-edge of the same version")
        else:
            parts.append(f"{name} {there or 'missing'} (here {here or 'missing'})")
    return ", ".join(dict.fromkeys(parts))


def _shares_cache(client: Client, found: Mapping[str, Mapping[str, Any]]) -> bool:
    """A worker's measurements are found by all others: they have one folder, and would compute the same numbers."""
    first, *others = sorted(found)
    if any(found[worker]["machine"] != found[first]["machine"] for worker in others):
        return False
    if any(found[worker]["versions"] != found[first]["versions"] for worker in others):
        return False
    if not others:
        return True
    token = f".lieq-{secrets.token_hex(8)}"
    if not client.run(mark_cache, found[first]["cache"], token, workers=[first])[first]:
        return False
    seen = [client.run(sees_mark, found[worker]["cache"], token, workers=[worker])[worker] for worker in others]
    client.run(sees_mark, found[first]["cache"], token, remove=True, workers=[first])
    return all(seen)
