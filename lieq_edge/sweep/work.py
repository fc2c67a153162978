"""What runs in a worker of Dask: it passes the work on to a process of its own, and the progress to the program.

Nothing that computes is imported here. Dask's nanny gives its workers one thread for each library by environment
variables, which would make exports slow and other bytes than elsewhere; the process does not inherit them.
"""

from __future__ import annotations

import contextlib
import os
import platform
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..store import default_folder
from ..store.folder import prepare
from ..store.keys import machine, versions
from ..system.child import Child, End
from ..version import __version__

if TYPE_CHECKING:
    from distributed.worker import Worker

_ENVIRONMENT = "distributed.nanny.pre-spawn-environ"
_ALIVE = ("executing", "long-running")


class Exporter(Child):
    """The process that makes files."""

    name = "the export"

    def __init__(self, taken: Sequence[str]) -> None:
        """Start it; ``taken`` are variables that it does not inherit."""
        with _without(taken):
            super().__init__("lieq_edge.sweep.serve")

    def explain(self, end: End) -> str:
        if end.cause == "memory":
            return self.explain_memory(end.label)
        return f"The process that was at {end.label} on {platform.node()} ended ({end.how})."

    def explain_memory(self, label: str) -> str:
        return f"The memory of {platform.node()} was full at {label}; take a smaller model, or fewer workers."


class GoneError(Exception):
    """The program that asked for the work does not wait for it any more."""


# By address of the worker: on one machine all workers are in one process.
_exporters: dict[str, Exporter] = {}
_starting = threading.Lock()


def check(topic: str, label: str, model: str, files: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``serve.check`` in the process of this worker.

    Args:
        topic: topic of the events that report progress.
        label: what the work is, for messages.
        model: the model.
        files: ``out`` and ``settings`` of each file.

    Raises:
        RuntimeError: the process ended.
    """
    result: dict[str, Any] = _Task(topic, label).call("check", model, files)
    return result


def make(topic: str, label: str, model: str, methods: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """``serve.make`` for the files of each method, one method after the other.

    Args:
        topic: topic of the events that report progress and rows.
        label: what the work is, for messages.
        model: the model.
        methods: files of each method.

    Returns:
        All rows.

    Raises:
        RuntimeError: the process ended.
    """
    task = _Task(topic, label)
    return [row for files in methods for row in task.call("make", model, files)]


class _Task:
    """The present task of this worker, and its way to the program."""

    def __init__(self, topic: str, label: str) -> None:
        from distributed import get_worker

        self._topic, self._label = topic, label
        self._worker = get_worker()
        self._key = str(self._worker.get_current_task())
        self.tell("begin", label)

    def tell(self, kind: str, value: Any) -> None:
        """Report something.

        Raises:
            GoneError: the program has ended, or has taken the task back.
        """
        state = self._worker.state.tasks.get(self._key)
        if state is None or state.state not in _ALIVE:
            raise GoneError
        news = {"task": self._key, "host": platform.node(), kind: value}
        self._worker.log_event(self._topic, news)

    def call(self, name: str, model: str, files: Sequence[Mapping[str, Any]]) -> Any:
        """Call a function of the process, which reports on its own."""
        exporter = _exporter_of(self._worker)
        try:
            return exporter.call(name, model, files, label=self._label, seconds=float("inf"), on_event=self.tell)
        except InputError as error:
            # The end of the process; what the input is refused for comes as a result.
            raise RuntimeError(str(error)) from None


def _exporter_of(worker: Worker) -> Exporter:
    with _starting:
        exporter = _exporters.get(worker.address)
        if exporter is None or not exporter.alive:
            exporter = _exporters[worker.address] = Exporter(_set_by_nanny(worker))
        return exporter


def end_exporters() -> None:
    """End the processes of all workers in this one."""
    with _starting:
        while _exporters:
            _exporters.popitem()[1].kill()


def _set_by_nanny(worker: Worker) -> list[str]:
    """Names of the variables that Dask's nanny has set for a worker, and not the user."""
    import dask

    if worker.nanny is None:
        return []
    settings = dask.config.get(_ENVIRONMENT, {})
    return [name for name, value in settings.items() if os.environ.get(name) == str(value)]


@contextlib.contextmanager
def _without(names: Sequence[str]) -> Iterator[None]:
    """Take variables out of the environment for the block."""
    taken = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(taken)


def facts(token: str, folder: str, cache: str | None, dask_worker: Worker) -> dict[str, Any]:
    """What the program has to know of a worker.

    Args:
        token: name of a file that the program has put into ``folder``.
        folder: folder of the sweep.
        cache: folder of the cache; None for the worker's own choice.
        dask_worker: the worker, which Dask fills in.

    Returns:
        ``version`` and ``versions`` of what is installed; ``machine``, which decides numbers; ``sees``, whether the
        folder is there; ``cache``, the folder of the cache.
    """
    with _without(_set_by_nanny(dask_worker)):
        about = machine(None)
    place = default_folder() if cache is None else Path(cache)
    return {
        "host": platform.node(),
        "version": __version__,
        "versions": versions(),
        "machine": about,
        "sees": (Path(folder) / token).is_file(),
        "cache": os.path.abspath(place),
    }


def mark_cache(cache: str, token: str) -> bool:
    """Put a file into a cache's folder, by which others see whether it is theirs, too; False where that fails."""
    try:
        (prepare(Path(cache)) / token).touch()
    except OSError:
        return False
    return True


def sees_mark(cache: str, token: str, *, remove: bool = False) -> bool:
    """The file of ``mark_cache`` is in the cache of this worker."""
    path = Path(cache) / token
    found = path.is_file()
    if remove:
        with contextlib.suppress(OSError):
            path.unlink()
    return found
