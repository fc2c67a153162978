"""lieq-edge: mixed-precision GGUF files of small language models.

The command line is a thin layer over these names. They are imported on first use, so that importing the package costs
next to nothing. Nothing is printed: functions that take long give every step to the function ``progress``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .system.openmp import share_openmp
from .version import __version__ as __version__

if TYPE_CHECKING:
    from .allocation.plan import Plan, PlanOptions, make_plan
    from .errors import GateError, InputError
    from .evidence.blocks.plot import plot_layers
    from .evidence.blocks.records import Diagnostics, describe_inputs
    from .gguf.inspect import FileReport, inspect_file
    from .llama.chat import Chat, open_chat
    from .llama.speed import Speed, measure_speed
    from .pipeline.export import export_model, write
    from .pipeline.gather import Evidence, gather
    from .pipeline.job import Job, resolve
    from .pipeline.plan import allocate, analyze_model, plan_model, plan_saved
    from .pipeline.report import ExportReport
    from .pipeline.validation import check_gate, validate_against
    from .publish.publication import Publication, publish_files
    from .settings import Settings, load_recipe, merge
    from .sources import open_source
    from .system.jsonio import load_json, save_json, to_json
    from .system.progress import Event
    from .validate.perplexity import Validation

# Here, because nothing of this package may load llama.cpp before.
share_openmp()

_MODULES = {
    "allocation.plan": ("Plan", "PlanOptions", "make_plan"),
    "evidence.blocks.plot": ("plot_layers",),
    "errors": ("GateError", "InputError"),
    "evidence.blocks.records": ("Diagnostics", "describe_inputs"),
    "gguf.inspect": ("FileReport", "inspect_file"),
    "llama.chat": ("Chat", "open_chat"),
    "llama.speed": ("Speed", "measure_speed"),
    "pipeline.export": ("export_model", "write"),
    "pipeline.gather": ("Evidence", "gather"),
    "pipeline.job": ("Job", "resolve"),
    "pipeline.plan": ("allocate", "analyze_model", "plan_model", "plan_saved"),
    "pipeline.report": ("ExportReport",),
    "pipeline.validation": ("check_gate", "validate_against"),
    "publish.publication": ("Publication", "publish_files"),
    "settings": ("Settings", "load_recipe", "merge"),
    "sources": ("open_source",),
    "system.progress": ("Event",),
    "system.jsonio": ("load_json", "save_json", "to_json"),
    "validate.perplexity": ("Validation",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Chat",
    "Diagnostics",
    "Event",
    "Evidence",
    "ExportReport",
    "FileReport",
    "GateError",
    "InputError",
    "Job",
    "Plan",
    "PlanOptions",
    "Publication",
    "Settings",
    "Speed",
    "Validation",
    "allocate",
    "analyze_model",
    "check_gate",
    "describe_inputs",
    "export_model",
    "gather",
    "inspect_file",
    "load_json",
    "load_recipe",
    "make_plan",
    "measure_speed",
    "merge",
    "open_chat",
    "open_source",
    "plan_model",
    "plan_saved",
    "plot_layers",
    "publish_files",
    "resolve",
    "save_json",
    "to_json",
    "validate_against",
    "write",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
