"""What a sweep is asked for: models, budgets, metrics and efforts, and settings that all files share."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..settings import Settings, merge
from ..system.files import user_path
from ..system.yaml_file import YamlFile, read_yaml

_LISTS = ("models", "budgets", "metrics", "efforts")
_NOTES = ("description", "notes")
_NULLS = (None, "", "~", "null", "Null", "NULL")
_REFUSED = {
    "budget": "list the budgets under `budgets:`",
    "metric": "list the metrics under `metrics:`",
    "effort": "list the efforts under `efforts:`",
    "cache": "the files of a model share its measurements through the cache; choose its folder by `cache_dir:`",
    "max_ppl_ratio": "every file is scored, and results.jsonl has its perplexity",
}
# A file of theirs, or something else.
_MAYBE_FILES = ("calibration", "device")
_FILES = ("probe_text", "text", "imatrix", "lora", "cache_dir")
_OF_DEVICE = ("device", "context_size", "kv")


@dataclass(frozen=True)
class Entry:
    """A file that the sweep shall make.

    Attributes:
        model: Hugging Face directory, hub id, ``.gguf`` file or ``demo``, as the user wrote it.
        place: the model as a worker can open it: a path is absolute.
        budget: budget of the file.
        metric: name of the metric; None leaves it to the budget.
        effort: ``quick``, ``normal`` or ``best``.
        settings: settings of the export.
    """

    model: str
    place: str
    budget: str
    metric: str | None
    effort: str
    settings: Settings

    @property
    def method(self) -> str:
        """Metric and effort, for people."""
        return self.effort if self.metric is None else f"{self.metric}, {self.effort}"


@dataclass(frozen=True)
class Sweep:
    """A checked sweep.

    Attributes:
        models: models to export.
        budgets: budget of each file of a model and method.
        metrics: metrics to allocate by; None leaves it to the budget.
        efforts: efforts.
        settings: settings that all files share, by field name of ``Settings``.
        source: the file, for messages; None where the sweep comes from Python.
    """

    models: tuple[str, ...]
    budgets: tuple[str, ...]
    metrics: tuple[str | None, ...] = (None,)
    efforts: tuple[str, ...] = ("normal",)
    settings: dict[str, Any] = field(default_factory=dict)
    source: YamlFile | None = None

    def entries(self) -> list[Entry]:
        """The files, model by model and method by method.

        Raises:
            InputError: settings of one of them contradict each other.
        """
        return [
            Entry(model, _reachable(model), budget, metric, effort, self._settings(budget, metric, effort))
            for model in self.models
            for effort in self.efforts
            for metric in self.metrics
            for budget in self.budgets
        ]

    def _settings(self, budget: str, metric: str | None, effort: str) -> Settings:
        from ..pipeline.choices import check_combination

        given: dict[str, Any] = {"budget": budget, "effort": effort}
        given |= {name: self.settings[name] for name in _OF_DEVICE if name in self.settings}
        if metric is not None:
            given["metric"] = metric
        try:
            settings = merge(self.settings, given)
            check_combination(settings)
        except InputError as error:
            method = effort if metric is None else f"{metric} and {effort}"
            raise InputError(f"{self.where()}: {budget} with {method}: {error}") from None
        return settings

    def where(self, name: str = "", item: str | None = None) -> str:
        """The place of a setting, or of an item of a list, in the file; for messages."""
        if self.source is None:
            return "The sweep" + (f", {name}" if name else "")
        values = self.source.values.get(name)
        line = self.source.lines.get(name)
        if item is not None and isinstance(values, list) and item in values:
            line = self.source.item_lines[name][values.index(item)]
        return f"{self.source.path}" + ("" if line is None else f", line {line}") + (f" ({name})" if name else "")


def read_sweep(path: str | Path) -> Sweep:
    """Read a sweep from a YAML file.

    Raises:
        InputError: the file cannot be read, or has an unknown, missing or wrong setting; the sentence has its line.
    """
    source = read_yaml(user_path(path), "sweep")
    return make_sweep(source.values, source)


def make_sweep(values: Mapping[str, Any], source: YamlFile | None = None) -> Sweep:
    """Check a sweep.

    Args:
        values: ``models`` and ``budgets``, and perhaps ``metrics`` and ``efforts``, as lists; any other names are
            settings of ``Settings`` for all files. ``description`` and ``notes`` are for people.
        source: the file that the values come from.

    Raises:
        InputError: a name is unknown, missing or of no use here, a list is empty or has an item twice, or a value is
            wrong.
    """
    place = Sweep((), (), source=source)
    names = [name for name in values if name not in _NOTES]
    for name in names:
        if name in _REFUSED:
            raise InputError(f"{place.where(name)} is no setting of a sweep: {_REFUSED[name]}.")
        if name not in _LISTS and name not in Settings.model_fields:
            close = difflib.get_close_matches(str(name), [*_LISTS, *Settings.model_fields], n=1)
            hint = (
                f"did you mean {close[0]}?" if close else f"known are {', '.join(_LISTS)} and the settings of a recipe."
            )
            raise InputError(f"{place.where(name)} is unknown; {hint}")
    lists = {name: _items(values[name], name, place) for name in _LISTS if name in values}
    for name in ("models", "budgets"):
        if name not in lists:
            raise InputError(f"{place.where()} has no {name}; list them, e.g. `{name}: [{_EXAMPLES[name]}]`.")
    common = {name: values[name] for name in names if name not in _LISTS and values[name] not in _NULLS}
    for name, value in common.items():
        _check({name: value}, place.where(name))
    for name, field_name in (("budgets", "budget"), ("metrics", "metric"), ("efforts", "effort")):
        for item in lists.get(name, ()):
            _check({field_name: item}, place.where(name, item))
    checked = Settings(**{"budget": "2", **common})
    sweep = Sweep(
        lists["models"],
        lists["budgets"],
        lists.get("metrics", (None,)),
        lists.get("efforts", ("normal",)),
        {name: _absolute(name, getattr(checked, name)) for name in common},
        source,
    )
    sweep.entries()
    return sweep


_EXAMPLES = {"models": "demo", "budgets": "Q4_K_M, 3.0bpw", "metrics": "loss, geometry", "efforts": "quick, normal"}


def _items(value: Any, name: str, place: Sweep) -> tuple[str, ...]:
    """The items of a list as texts, each once."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InputError(f"{place.where(name)} takes a list, e.g. `{name}: [{_EXAMPLES[name]}]`.")
    if not value:
        raise InputError(f"{place.where(name)} is empty; list at least one, e.g. `{name}: [{_EXAMPLES[name]}]`.")
    items = tuple(_texts(value, name, place))
    for item in items:
        if not item.strip():
            raise InputError(f"{place.where(name)} has an empty item; leave it out.")
        if items.count(item) > 1:
            raise InputError(f"{place.where(name)} has {item} twice; leave one out.")
    return items


def _texts(items: Sequence[Any], name: str, place: Sweep) -> Iterator[str]:
    for item in items:
        if isinstance(item, bool) or not isinstance(item, str | int | float | Path):
            raise InputError(f"{place.where(name)} has an item that is not a text: {str(item)[:60]}.")
        yield str(item)


def _check(values: dict[str, Any], where: str) -> None:
    try:
        Settings(**{"budget": "2", **values})
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _reachable(model: str) -> str:
    """The model for a process with another current folder."""
    from ..sources import DEMO

    path = user_path(model)
    return os.path.abspath(path) if model != DEMO and os.path.lexists(path) else model


def _absolute(name: str, value: Any) -> Any:
    if name in _FILES or (name in _MAYBE_FILES and user_path(str(value)).is_file()):
        absolute = os.path.abspath(user_path(str(value)))
        return absolute if isinstance(value, str) else Path(absolute)
    return value
