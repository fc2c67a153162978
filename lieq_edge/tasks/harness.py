"""The tasks of the harness (lm-evaluation-harness): find them, load their data, and measure a model on one.

The harness and what it imports take seconds and are imported inside the functions.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib.util
import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..system.files import user_path
from ..system.progress import log
from .own import is_path, read_own_task
from .paired import Measured

if TYPE_CHECKING:
    from .model import LlamaModel

# The harness's own seeds: of Python, of numpy, and of the examples in a prompt.
_SEEDS = (0, 1234, 1234)
_NEAR = 5
# What is about a group, and not about its tasks.
_OF_GROUPS = ("group", "group_alias", "task", "tag", "aggregate_metric_list", "metadata")


@dataclass(frozen=True)
class LoadedTask:
    """A task with its data.

    Attributes:
        name: name of the task.
        groups: groups among the user's names that it belongs to.
        task: the harness's object.
        items: number of its items.
    """

    name: str
    groups: tuple[str, ...]
    task: Any
    items: int


def check_harness() -> None:
    """Refuse to go on without the harness.

    Raises:
        InputError: it is not installed.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise InputError(
            'Tasks need lm-evaluation-harness, which is not installed; run: pip install "lieq-edge[tasks]"'
        )


def load_tasks(names: Sequence[str], *, limit: int | None, allow_code: bool) -> list[LoadedTask]:
    """Load tasks and their data.

    Args:
        names: names of tasks, groups or tags of the harness, also with ``*``; or paths of YAML files.
        limit: most items of a task; all when None.
        allow_code: YAML files may name Python code.

    Raises:
        InputError: a name is unknown, a file is not a task, the data cannot be had, or a task runs generated programs.
    """
    check_harness()
    with _quiet(), _seeded():
        from lm_eval.api.registry import metric_registry

        configs = [
            read_own_task(user_path(name), metric_registry, allow_code=allow_code) if is_path(name) else name
            for name in names
        ]
        manager = _manager(any(isinstance(config, str) or "group" in config for config in configs))
        loaded: dict[str, LoadedTask] = {}
        for name, config in zip(names, configs, strict=True):
            for wanted, group in _members(config, manager):
                for one in _load(manager, name, wanted, limit):
                    before = loaded.get(one.name)
                    if before is not None and isinstance(wanted, dict):
                        raise InputError(f"There are two tasks called {one.name}; give one of them another name.")
                    groups = (*(before.groups if before is not None else ()), *one.groups, *group)
                    loaded[one.name] = LoadedTask(one.name, tuple(dict.fromkeys(groups)), one.task, one.items)
        return list(loaded.values())


def measure_task(loaded: LoadedTask, model: LlamaModel, *, limit: int | None) -> list[Measured]:
    """What a model gives for every metric of a task.

    Args:
        loaded: the task.
        model: the model.
        limit: most items; all when None.

    Raises:
        InputError: a text of the task cannot be made, or the model cannot answer.
    """
    with _quiet(), _seeded():
        from jinja2 import TemplateError
        from lm_eval.api.metrics import mean
        from lm_eval.evaluator import evaluate

        task = loaded.task
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=_SEEDS[2])
        try:
            results = evaluate(
                lm=model, task_dict={"tasks": {loaded.name: task}, "groups": {}}, limit=limit, bootstrap_iters=0
            )
        except TemplateError as error:
            raise InputError(f"A text of the task {loaded.name} cannot be made ({error}); correct the task.") from error
        aggregations, higher = task.aggregation(), task.higher_is_better()
    samples = results["samples"][loaded.name]
    filters = {sample["filter"] for sample in samples}
    values: dict[tuple[str, str], dict[int, Any]] = {}
    for sample in samples:
        for metric in sample["metrics"]:
            values.setdefault((metric, sample["filter"]), {})[sample["doc_id"]] = sample[metric]
    measured = []
    for (metric, chosen), items in values.items():
        combine = aggregations.get(metric, mean)
        name = metric if len(filters) == 1 else f"{metric},{chosen}"
        is_better = higher.get(metric) is not False
        by_mean = None if combine is mean else combine
        measured.append(Measured(loaded.name, name, is_better, list(items.values()), list(items), by_mean))
    return measured


@functools.cache
def _manager(known: bool) -> Any:
    """The harness's list of tasks, with its own ones if ``known``: it takes seconds to read them."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=known)


def _members(
    config: str | dict[str, Any], manager: Any, group: tuple[str, ...] = ()
) -> Iterator[tuple[str | dict[str, Any], tuple[str, ...]]]:
    """What is to be loaded of a name or a configuration, and the group of the user's own that it belongs to.

    The harness takes a group only from a file of its list, so the tasks of the user's own groups are named one by one.
    """
    if isinstance(config, str):
        yield from ((name, group) for name in _expanded(config, manager))
    elif not isinstance(members := config.get("task"), list):
        yield config, group
    else:
        shared = {name: value for name, value in config.items() if name not in _OF_GROUPS}
        for member in members:
            own = {**shared, **member} if isinstance(member, dict) else member
            yield from _members(own, manager, group or (str(config.get("group")),))


def _expanded(name: str, manager: Any) -> list[str]:
    """The names that a pattern means; a name without ``*`` means itself.

    Raises:
        InputError: the harness knows none.
    """
    found: list[str] = manager.match_tasks([name]) if set("*?[") & set(name) else [name] * (name in manager.all_tasks)
    if found:
        return found
    near = difflib.get_close_matches(name, manager.all_tasks, _NEAR)
    near += [other for other in manager.all_tasks if name.lower() in other.lower() and other not in near]
    advice = f"near names are {', '.join(near[:_NEAR])}" if near else "`lm_eval ls tasks` lists all names"
    raise InputError(f"lm-eval has no task {name!r}; {advice}.")


def _load(manager: Any, name: str, config: str | dict[str, Any], limit: int | None) -> list[LoadedTask]:
    if _settings(manager, config).get("unsafe_code"):
        raise InputError(_unsafe(name))
    try:
        built = manager.load([config])
    except Exception as error:
        raise InputError(_explained(error, manager, name, config)) from error
    groups = (str(config),) if built.get("groups") else ()
    loaded = []
    for task_name, task in built["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False):
            raise InputError(_unsafe(task_name))
        if getattr(task, "MULTIMODAL", False):
            raise InputError(f"{task_name} has pictures or sounds, and only texts are read here; leave it out.")
        items = len(task.eval_docs)
        loaded.append(LoadedTask(task_name, groups, task, min(items, limit or items)))
    return loaded


def _explained(error: Exception, manager: Any, name: str, config: str | dict[str, Any]) -> str:
    """One sentence for an error of the harness, of datasets or of the hub's client."""
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    if isinstance(error, ImportError):
        return f"The task {name} needs a package that is not installed ({reason}); install it, or choose another task."
    data = _settings(manager, config).get("dataset_path")
    from_hub = isinstance(config, str) or (isinstance(data, str) and "/" in data and not Path(data).exists())
    origin = type(error).__module__.partition(".")[0]
    if from_hub and (isinstance(error, OSError) or origin in ("datasets", "huggingface_hub", "httpx", "requests")):
        which = f"the data set {data} of the Hugging Face hub" if data else "data of the Hugging Face hub"
        return (
            f"The task {name} needs {which}, which cannot be had ({reason}); run it once with a network, after which "
            "the data is in the hub's cache, or give a task of your own as YAML with its data beside it."
        )
    if isinstance(error, OSError):
        return f"The data of {name} cannot be read ({reason}); put it beside the YAML file."
    return f"lm-eval does not take the task {name} ({type(error).__name__}: {reason}); correct it or choose another."


def _settings(manager: Any, config: str | dict[str, Any]) -> dict[str, Any]:
    """The configuration of a task as far as it is known before it is loaded."""
    if isinstance(config, dict):
        return config
    entry = manager.task_index.get(config)
    return (entry.cfg if entry is not None else None) or {}


def _unsafe(name: str) -> str:
    return f"{name} runs programs that a model writes, which nothing here does; leave it out."


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Take the harness's messages as notes, without its bars, and its templates in a sandbox.

    The templates of a task are programs of Jinja, which could reach all of Python; the harness does not restrain them.
    """
    import datasets
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from lm_eval import utils
    from lm_eval.api import task as tasks

    plain = utils.env
    sandbox = ImmutableSandboxedEnvironment(
        loader=plain.loader, undefined=plain.undefined, keep_trailing_newline=plain.keep_trailing_newline
    )
    sandbox.filters.update(plain.filters)
    logger, bar = logging.getLogger("lm_eval"), tasks.tqdm
    notes, propagates = _Notes(logging.WARNING), logger.propagate
    shows_bars = datasets.is_progress_bar_enabled()
    utils.env, tasks.tqdm, logger.propagate = sandbox, _no_bar, False
    logger.addHandler(notes)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        utils.env, tasks.tqdm, logger.propagate = plain, bar, propagates
        logger.removeHandler(notes)
        if shows_bars:
            datasets.enable_progress_bars()


def _no_bar(items: Any, **_: Any) -> Any:
    return items


class _Notes(logging.Handler):
    """Reports what the harness warns of."""

    def emit(self, record: logging.LogRecord) -> None:
        log(f"Note: lm-eval: {' '.join(record.getMessage().split())}")


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """The harness's seeds in the block: some tasks shuffle the choices of their items."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(_SEEDS[0])
    np.random.seed(_SEEDS[1])  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
