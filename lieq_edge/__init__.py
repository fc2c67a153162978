"""lieq-edge: mixed-precision GGUF files of small language models.

Everything the command line does is here as functions; they are imported on first use, so that importing the package
costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .system.openmp import share_openmp

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .allocate.plan import Plan, PlanOptions, make_plan
    from .errors import GateError, InputError
    from .evidence.blocks.records import Diagnostics
    from .gguf.inspect import FileReport, inspect_file
    from .pipeline.export import export_model
    from .pipeline.planning import analyze_model, plan_model
    from .pipeline.report import ExportReport
    from .pipeline.validation import check_gate, validate_against
    from .settings import ExportSettings, load_recipe
    from .sources import open_source
    from .system.jsonio import load_json, save_json
    from .validate.perplexity import Validation

# Here, for nothing of this package may load llama.cpp before.
share_openmp()

_HOME = {
    "Diagnostics": "evidence.blocks.records",
    "ExportReport": "pipeline.report",
    "ExportSettings": "settings",
    "FileReport": "gguf.inspect",
    "GateError": "errors",
    "InputError": "errors",
    "Plan": "allocate.plan",
    "PlanOptions": "allocate.plan",
    "Validation": "validate.perplexity",
    "analyze_model": "pipeline.planning",
    "check_gate": "pipeline.validation",
    "export_model": "pipeline.export",
    "inspect_file": "gguf.inspect",
    "load_json": "system.jsonio",
    "load_recipe": "settings",
    "make_plan": "allocate.plan",
    "open_source": "sources",
    "plan_model": "pipeline.planning",
    "save_json": "system.jsonio",
    "validate_against": "pipeline.validation",
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
