"""lieq-edge: mixed-precision GGUF files of small language models.

Everything the command line does is here as functions; they are imported on first use, so that importing the package
costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .openmp import share_openmp

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .allocate.plan import Plan, PlanOptions, make_plan
    from .errors import GateError, InputError
    from .export import export_model
    from .export_report import ExportReport
    from .jsonio import load_json, save_json
    from .measure.diagnostics import Diagnostics
    from .planning import analyze_model, plan_model
    from .scoring import check_gate, validate_against
    from .settings import ExportSettings, load_recipe
    from .source import open_source
    from .validate.inspect import FileReport, inspect_file
    from .validate.perplexity import Validation

# Here, for nothing of this package may load llama.cpp before.
share_openmp()

_HOME = {
    "Diagnostics": "measure.diagnostics",
    "ExportReport": "export_report",
    "ExportSettings": "settings",
    "FileReport": "validate.inspect",
    "GateError": "errors",
    "InputError": "errors",
    "Plan": "allocate.plan",
    "PlanOptions": "allocate.plan",
    "Validation": "validate.perplexity",
    "analyze_model": "planning",
    "check_gate": "scoring",
    "export_model": "export",
    "inspect_file": "validate.inspect",
    "load_json": "jsonio",
    "load_recipe": "settings",
    "make_plan": "allocate.plan",
    "open_source": "source",
    "plan_model": "planning",
    "save_json": "jsonio",
    "validate_against": "scoring",
}

__all__ = [
    "Diagnostics",
    "ExportReport",
    "ExportSettings",
    "FileReport",
    "GateError",
    "InputError",
    "Plan",
    "PlanOptions",
    "Validation",
    "analyze_model",
    "check_gate",
    "export_model",
    "inspect_file",
    "load_json",
    "load_recipe",
    "make_plan",
    "open_source",
    "plan_model",
    "save_json",
    "validate_against",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOME[name]}", __name__), name)
