"""Tasks of the user's own: a YAML file with its data beside it, checked for what would run as code.

A task of the harness can name Python functions (``!function``), metrics that are programs of the hub, and loaders that
read pickles. The user's own files and those of strangers look alike, so each is refused unless the user allows it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError
from ..system.files import read_text

# Loaders of the package datasets that read data only; pickles run code.
_LOADERS = ("arrow", "csv", "json", "parquet", "text")


def is_path(name: str) -> bool:
    """``name`` is a file, and not a task that the harness knows."""
    return name.endswith((".yaml", ".yml"))


def read_own_task(path: Path, metrics: Collection[str], *, allow_code: bool) -> dict[str, Any]:
    """The configuration of a task, with the paths of its data made absolute.

    Args:
        path: YAML file of a task or a group.
        metrics: names of the harness's own metrics.
        allow_code: functions are imported and programs are run; else they are refused.

    Raises:
        InputError: the file is missing or no task, or something in it would run as code.
    """
    code: list[str] = []
    config = _read(path, code if not allow_code else None, ())
    if not isinstance(config.get("task") or config.get("group"), str | list):
        raise InputError(f"{path} has neither `task:` nor `group:`, by which lm-eval knows a task; give it a name.")
    for part in _dicts(config):
        if not allow_code:
            code += _programs(part, metrics, path.parent)
        _place_data(part, path.parent)
    if code:
        raise InputError(
            f"{path} would run code ({code[0]}); read what it does, and pass --allow-task-code if you trust it."
        )
    return config


def _read(path: Path, code: list[str] | None, around: tuple[Path, ...]) -> dict[str, Any]:
    """The configuration with what it includes. Functions are noted in ``code``, or imported where that is None."""
    place = path.resolve()
    if place in around:
        raise InputError(f"{path} includes itself; remove that.")
    text = read_text(path, "the task")
    try:
        config = yaml.load(text, _loader(place.parent, code))
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML ({' '.join(str(error).split())}); correct it.") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} is not a task of lm-eval, whose YAML has names and values; give another file.")
    included = config.pop("include", [])
    merged: dict[str, Any] = {}
    for name in included if isinstance(included, list) else [included]:
        part = _read(place.parent / str(name), code, (*around, place))
        part.pop("task_list", None)
        merged.update(part)
    return {**merged, **config}


def _loader(folder: Path, code: list[str] | None) -> type[yaml.SafeLoader]:
    class Loader(yaml.SafeLoader):
        pass

    def function(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "!function takes a name", node.start_mark)
        name = str(loader.construct_scalar(node))
        if code is None:
            return _import(name, folder)
        code.append(f"!function {name}")
        return name

    Loader.add_constructor("!function", function)
    return Loader


def _import(name: str, folder: Path) -> Callable[..., Any]:
    """The function ``module.name`` of a file in ``folder``.

    Raises:
        InputError: there is none.
    """
    module_name, _, function = name.rpartition(".")
    place = folder / f"{module_name.replace('.', '/')}.py"
    spec = importlib.util.spec_from_file_location(f"lieq_task_{place.stem}", place) if place.is_file() else None
    if spec is None or spec.loader is None:
        raise InputError(f"There is no {place}, which a task takes !function {name} from; put it there.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, function):
        raise InputError(f"{place} has no function {function}, which a task names; add it.")
    found: Callable[..., Any] = getattr(module, function)
    return found


def _programs(part: dict[str, Any], metrics: Collection[str], folder: Path) -> Iterator[str]:
    """What a piece of the configuration would run, apart from functions."""
    for metric in part.get("metric_list") or []:
        name = metric.get("metric") if isinstance(metric, dict) else None
        if isinstance(name, str) and (metric.get("hf_evaluate") or name not in metrics):
            yield f"metric {name}, a program of the hub"
    loader = part.get("dataset_path")
    if isinstance(loader, str) and loader not in _LOADERS and not _is_data(loader, folder):
        yield f"dataset_path {loader}, which is none of {', '.join(_LOADERS)}, a hub id or a folder"
    if part.get("unsafe_code"):
        yield "unsafe_code"


def _is_data(loader: str, folder: Path) -> bool:
    is_program = loader.endswith(".py")
    return not is_program and ("/" in loader or (folder / loader).is_dir())


def _place_data(part: dict[str, Any], folder: Path) -> None:
    """Make paths of data absolute that are beside the YAML file; the harness would look in the current folder."""
    if isinstance(loader := part.get("dataset_path"), str) and (folder / loader).is_dir():
        part["dataset_path"] = str((folder / loader).resolve())
    options = part.get("dataset_kwargs")
    if isinstance(options, dict):
        for name in ("data_files", "data_dir"):
            if name in options:
                options[name] = _absolute(options[name], folder)


def _absolute(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {name: _absolute(item, folder) for name, item in value.items()}
    if isinstance(value, list):
        return [_absolute(item, folder) for item in value]
    if not isinstance(value, str) or "://" in value or Path(value).is_absolute():
        return value
    is_beside = (folder / value).exists() or next(folder.glob(value), None) is not None
    return str(folder.resolve() / value) if is_beside else value


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    """All dictionaries within ``value``, itself included."""
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _dicts(item)
