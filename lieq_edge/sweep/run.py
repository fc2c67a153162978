"""Run a sweep: check everything, let workers make the files, and collect the rows as they are ready.

The unit of work is a method of a model, with all its budgets: they share their measurements by ``export_models``,
wherever a worker is. Methods of a model share what does not depend on the method by the cache. Where all workers have
one cache, the first method of a model is made first, and then the others side by side. Otherwise all methods of a
model are one unit, so that nothing is measured twice.
"""

from __future__ import annotations

import contextlib
import os
import queue
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..system import interrupt
from ..system.files import sweep as remove_left
from ..system.files import user_path
from ..system.lock import FileLock
from ..system.progress import Callback, log, receive_with, reporting_to
from ..system.threads import available_threads
from . import table, work
from .cluster import Cluster, open_cluster
from .page import write_pages
from .plan import Planned, document, find_finished, key_of_entry, name_files, name_models
from .progress import State, SweepEvent
from .request import Entry, Sweep, make_sweep, read_sweep
from .table import SweepRow, Table, finished_row

Progress = Callable[[SweepEvent], None]
"""A function that receives the progress of a sweep."""

# Failures of a task other than a worker's death, which Dask counts by itself.
_RETRIES = 2
_STEP = 0.2
_QUIET = 60.0  # seconds without news, after which it is asked whether there are workers
_DEFAULT = "sweep"


@dataclass(frozen=True)
class SweepResult:
    """A finished sweep.

    Attributes:
        folder: folder of the files.
        table: the table, one JSON line for each file.
        pages: pages with size against KL divergence, one for each model.
        rows: a row for each file, in the order of the request.
    """

    folder: Path
    table: Path
    pages: tuple[Path, ...]
    rows: tuple[SweepRow, ...]

    @property
    def failed(self) -> tuple[SweepRow, ...]:
        """The rows of files that could not be made."""
        return tuple(row for row in self.rows if row.error is not None)


def run_sweep(
    sweep: str | Path | Mapping[str, Any] | Sweep,
    out: str | Path | None = None,
    *,
    scheduler: str | None = None,
    workers: int | None = None,
    force: bool = False,
    on_row: Callable[[SweepRow], None] | None = None,
    progress: Progress | None = None,
) -> SweepResult:
    """Make the files of all models, budgets, metrics and efforts of a sweep, and a table of their scores.

    A sweep that was stopped goes on when it is called again with the same folder.

    Args:
        sweep: YAML file, the same as a mapping, or a sweep that was read before.
        out: folder of the files, which is made; None takes the name of the YAML file, in the current folder.
        scheduler: address of a Dask scheduler, e.g. ``tcp://host:8786``; None starts processes on this machine.
        workers: number of these processes; None takes 1, which uses all cores.
        force: replace files in the folder that are not of this sweep.
        on_row: function that is called with each row that becomes ready in this run.
        progress: function that receives every change as a ``SweepEvent``.

    Returns:
        The rows, those of earlier runs included. A file that could not be made has a row with the reason.

    Raises:
        InputError: bad input, or workers that cannot do the work; no file is written.
        OSError: the folder cannot be written.
    """
    wanted = sweep if isinstance(sweep, Sweep) else _read(sweep)
    if workers is not None and scheduler is not None:
        raise InputError("--workers starts processes on this machine, and --scheduler has its own; leave one out.")
    if workers is not None and workers < 1:
        raise InputError(f"--workers {workers}: at least 1 is needed.")
    entries = wanted.entries()
    names = name_files(entries)
    folder = _folder(wanted, out)
    count = workers or 1
    threads = None if count == 1 else max(1, available_threads() // count)
    with contextlib.ExitStack() as stack:
        stack.enter_context(reporting_to(None) if progress is None else receive_with(_Notes(progress)))
        stack.enter_context(held(folder))
        if threads is not None and wanted.settings.get("threads") is None:
            log(f"Note: each of {count} processes has {threads} threads; `threads:` in the sweep changes that.")
        cache = wanted.settings.get("cache_dir")
        cluster = stack.enter_context(open_cluster(folder, scheduler=scheduler, workers=count, cache=cache))
        run = _Run(wanted, cluster, threads, progress)
        plans = run.check([(entry, folder / name) for entry, name in zip(entries, names, strict=True)])
        return run.make(plans, force=force, on_row=on_row)


class _Run:
    """A run of a sweep on workers."""

    def __init__(self, sweep: Sweep, cluster: Cluster, threads: int | None, progress: Progress | None) -> None:
        self._sweep = sweep
        self._cluster = cluster
        self._threads = threads
        self._progress = progress
        self._topic = f"lieq-sweep-{secrets.token_hex(8)}"
        self._news: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._notes: set[str] = set()
        self._futures: dict[str, Any] = {}
        cluster.client.subscribe_topic(self._topic, lambda event: self._news.put(("event", event[1])))

    def check(self, files: Sequence[tuple[Entry, Path]]) -> list[Planned]:
        """Open all models and resolve all exports, on the workers."""
        models = dict.fromkeys(entry.place for entry, _ in files)
        state = State(0, self._cluster.workers)
        asked = {}
        for place in models:
            documents = [document(entry, out, self._threads) for entry, out in files if entry.place == place]
            future = self._submit(work.check, f"the check of {place}", place, documents)
            state.wait(future.key, 0)
            asked[future.key] = place
        contents, names = {}, name_models([entry for entry, _ in files])
        for key, future in self._collect(state, set(asked)):
            place = asked[key]
            answer = _result(future)
            if isinstance(answer, Exception):
                raise InputError(f"{place} could not be checked: {answer}") from answer
            entries = [entry for entry, _ in files if entry.place == place]
            if answer["error"] is not None:
                raise self._refusal(entries, answer["file"], answer["error"])
            contents[place] = answer["model"]
        return [self._planned(entry, out, contents[entry.place], names[entry.model]) for entry, out in files]

    def _planned(self, entry: Entry, out: Path, content: str, name: str) -> Planned:
        key = key_of_entry(entry, out.name, content)
        row = SweepRow(entry.model, entry.budget, entry.metric, entry.effort, key, out.name)
        return Planned(entry, out, row, out.with_name(f"{name}.html"))

    def _refusal(self, entries: Sequence[Entry], number: int | None, sentence: str) -> InputError:
        entry = entries[number or 0]
        if number is None:
            return InputError(f"{self._sweep.where('models', entry.model)}: {sentence}")
        place = self._sweep.where("budgets", entry.budget)
        return InputError(f"{place}: {entry.model} with {entry.budget} ({entry.method}): {sentence}")

    def make(self, plans: Sequence[Planned], *, force: bool, on_row: Callable[[SweepRow], None] | None) -> SweepResult:
        """Make the files that are not there yet."""
        folder = plans[0].out.parent
        rows = find_finished(plans, force=force)
        remove_left(plans[0].out)
        results = Table(folder / table.NAME)
        for row in rows.values():
            results.add(row)
        state = State(len(plans), self._cluster.workers)
        state.ready = len(rows)
        if rows:
            log(f"{len(rows)} of {len(plans)} files are finished already.")
        pages = write_pages(plans, rows)
        waiting = units_of(
            [plan for plan in plans if plan.row.key not in rows], shares_cache=self._cluster.shares_cache
        )
        units: dict[str, Unit] = {}
        pending = set[str]()

        def start(unit: Unit) -> None:
            future = self._submit(work.make, unit.label, unit.place, unit.documents(self._threads))
            units[future.key] = unit
            pending.add(future.key)
            state.wait(future.key, len(unit.plans))

        def add(task: str, row: SweepRow) -> None:
            if row.key in rows or row.key not in {plan.row.key for plan in units[task].plans}:
                return
            rows[row.key] = row
            results.add(row)
            state.add(task, row)
            write_pages([plan for plan in plans if plan.entry.model == row.model], rows)
            if on_row is not None:
                on_row(row)
            self._tell(state.event(task=task, row=row))

        for unit in [unit for unit in waiting if unit.after is None]:
            start(unit)
        for task, future in self._collect(state, pending, add):
            for row in _rows_of(units[task], _result(future)):
                add(task, row)
            for unit in waiting:
                if unit.after is units[task]:
                    start(unit)
            state.end(task)
        ordered = tuple(rows[plan.row.key] for plan in plans)
        return SweepResult(folder, results.path, pages, ordered)

    def _submit(self, function: Callable[..., Any], label: str, place: str, files: Sequence[Any]) -> Any:
        key = f"{self._topic}-{secrets.token_hex(4)}"
        future = self._cluster.client.submit(
            function, self._topic, label, place, files, key=key, retries=_RETRIES, pure=False
        )
        self._futures[key] = future  # Dask forgets what nobody holds
        future.add_done_callback(lambda done: self._news.put(("done", done)))
        return future

    def _collect(
        self, state: State, pending: set[str], add: Callable[[str, SweepRow], None] | None = None
    ) -> Iterator[tuple[str, Any]]:
        """Tasks as they end, while progress is reported; tasks may be added to ``pending`` meanwhile."""
        heard, told = time.monotonic(), False
        while pending:
            interrupt.check()
            try:
                kind, value = self._news.get(timeout=_STEP)
            except queue.Empty:
                if not told and time.monotonic() - heard > _QUIET:
                    heard, told = time.monotonic(), self._tell_if_alone()
                continue
            heard, told = time.monotonic(), False
            if kind == "done":
                if value.key in pending:
                    yield value.key, value
                    pending.discard(value.key)
                    del self._futures[value.key]
            elif value["task"] in pending:
                self._hear(state, value, add)

    def _tell_if_alone(self) -> bool:
        client = self._cluster.client
        alone = client.status == "running" and not client.nthreads()
        if alone:
            log("Note: the cluster has no workers any more; the sweep goes on when there is one again, Ctrl-C ends it.")
        return alone

    def _hear(self, state: State, news: Mapping[str, Any], add: Callable[[str, SweepRow], None] | None) -> None:
        task = news["task"]
        if "begin" in news:
            if state.begin(task, news["begin"], news["host"]):
                log(f"Note: {news['begin']} begins again on {news['host']}: its worker died, or it failed there.")
            self._tell(state.event(task=task))
        elif "step" in news:
            state.step(task, *news["step"])
            self._tell(state.event(task=task))
        elif "note" in news:
            if news["note"] not in self._notes:
                self._notes.add(news["note"])
                log(news["note"])
        elif "row" in news and add is not None:
            add(task, SweepRow(**news["row"]))

    def _tell(self, event: SweepEvent) -> None:
        if self._progress is not None:
            self._progress(event)


@dataclass(frozen=True, eq=False)
class Unit:
    """Work for one worker: files of a model, by method.

    Attributes:
        place: the model, as a worker opens it.
        methods: files of each method.
        after: unit that has to end before, because this one reads what it measures.
    """

    place: str
    methods: tuple[tuple[Planned, ...], ...]
    after: Unit | None = None

    @property
    def plans(self) -> tuple[Planned, ...]:
        return tuple(plan for method in self.methods for plan in method)

    @property
    def label(self) -> str:
        methods = "; ".join(method[0].entry.method for method in self.methods)
        return f"{self.plans[0].entry.model} ({methods})"

    def documents(self, threads: int | None) -> list[list[dict[str, Any]]]:
        return [[plan.document(threads) for plan in method] for method in self.methods]


def units_of(plans: Sequence[Planned], *, shares_cache: bool) -> list[Unit]:
    """The work in units that Dask may put on any worker.

    Args:
        plans: files to make.
        shares_cache: a measurement that one worker stores is found by all others.
    """
    units = []
    for place in dict.fromkeys(plan.entry.place for plan in plans):
        of_model = [plan for plan in plans if plan.entry.place == place]
        methods = [
            tuple(plan for plan in of_model if plan.entry.method == method)
            for method in dict.fromkeys(plan.entry.method for plan in of_model)
        ]
        if shares_cache:
            first = Unit(place, (methods[0],))
            units += [first, *(Unit(place, (method,), first) for method in methods[1:])]
        else:
            units.append(Unit(place, tuple(methods)))
    return units


def _rows_of(unit: Unit, result: Any) -> Iterator[SweepRow]:
    """The rows of a unit that has ended: its result, or an error for what is not finished."""
    if not isinstance(result, Exception):
        yield from (SweepRow(**row) for row in result)
        return
    for plan in unit.plans:
        finished = finished_row(plan.out, plan.row.key)
        yield finished or replace(plan.row, error=_sentence(result))


def _result(future: Any) -> Any:
    """The result of a task, or the error that it ended with after all its tries."""
    try:
        return future.result()
    except Exception as error:
        return error


def _sentence(error: Exception) -> str:
    from distributed import KilledWorker

    if isinstance(error, KilledWorker):
        return (
            "Every worker that was at it died; most often the memory is full, so take a smaller model or fewer workers."
        )
    return " ".join(str(error).split())[:500] or type(error).__name__


class _Notes(Callback):
    """Passes the lines of the program itself on as events of a sweep."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(lambda event: progress(SweepEvent(**vars(event))) if event.message else None)


def _read(sweep: str | Path | Mapping[str, Any]) -> Sweep:
    return make_sweep(sweep) if isinstance(sweep, Mapping) else read_sweep(sweep)


def _folder(sweep: Sweep, out: str | Path | None) -> Path:
    if out is None:
        out = _DEFAULT if sweep.source is None else sweep.source.path.stem
    return Path(os.path.abspath(user_path(out)))


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make the folder, and let no other sweep work in it; after an error an empty one is removed.

    Raises:
        InputError: another one is at work there, or it cannot be made.
    """
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be a folder ({error.strerror}); choose another --out.") from None
    lock = FileLock(folder / ".sweep.lock")
    if not lock.acquire():
        raise InputError(f"Another sweep is at work in {folder}; wait for it, or choose another --out.")
    try:
        yield
    finally:
        lock.discard()
        if is_new:
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()
