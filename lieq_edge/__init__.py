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
    from .device.fit import Fit, fit_model
    from .device.measure import measure_profile
    from .device.profile import Profile, list_profiles, load_profile
    from .errors import GateError, InputError
    from .evidence.blocks.plot import plot_layers
    from .evidence.blocks.records import Diagnostics, describe_inputs
    from .gguf.inspect import FileReport, inspect_file
    from .llama.chat import Chat, open_chat
    from .llama.speed import Speed, measure_speed
    from .page.answers import Answer, answers_of, make_answers
    from .page.write import write_page
    from .pipeline.compare import check_comparison, compare_presets
    from .pipeline.export import export_model, export_models
    from .pipeline.frontier import check_plot, check_scored, plot_frontier
    from .pipeline.gather import Evidence, gather
    from .pipeline.job import Job, resolve
    from .pipeline.outputs import check_different, output_paths
    from .pipeline.plan import allocate, analyze_model, plan_model, plan_models, plan_saved
    from .pipeline.report import ExportReport
    from .pipeline.validation import check_gate, check_gates, score_files, validate_against
    from .pipeline.write_stage import write
    from .presets.names import NEAREST, PRESETS, preset_name
    from .presets.sizes import preset_bytes
    from .publish.publication import Publication, publish_files
    from .recipe import Recipe, list_recipes, load_recipe, read_recipe
    from .settings import Settings, merge
    from .sources import open_source
    from .sweep.progress import Running, SweepEvent
    from .sweep.request import Sweep, make_sweep, read_sweep
    from .sweep.run import SweepResult, run_sweep
    from .sweep.table import SweepRow
    from .system.jsonio import load_json, save_json, to_json
    from .system.progress import Event
    from .tasks.records import TaskScore, TaskScores
    from .tasks.score import score_tasks
    from .validate.perplexity import Validation
    from .validate.scored import ScoredFile, better_choice, comparison_note

# Here, because nothing of this package may load llama.cpp before.
share_openmp()

_MODULES = {
    "allocation.plan": ("Plan", "PlanOptions", "make_plan"),
    "device.fit": ("Fit", "fit_model"),
    "device.measure": ("measure_profile",),
    "device.profile": ("Profile", "list_profiles", "load_profile"),
    "evidence.blocks.plot": ("plot_layers",),
    "errors": ("GateError", "InputError"),
    "evidence.blocks.records": ("Diagnostics", "describe_inputs"),
    "gguf.inspect": ("FileReport", "inspect_file"),
    "llama.chat": ("Chat", "open_chat"),
    "llama.speed": ("Speed", "measure_speed"),
    "page.answers": ("Answer", "answers_of", "make_answers"),
    "page.write": ("write_page",),
    "pipeline.compare": ("check_comparison", "compare_presets"),
    "presets.names": ("NEAREST", "PRESETS", "preset_name"),
    "pipeline.export": ("export_model", "export_models"),
    "pipeline.frontier": ("check_plot", "check_scored", "plot_frontier"),
    "pipeline.gather": ("Evidence", "gather"),
    "pipeline.job": ("Job", "resolve"),
    "pipeline.outputs": ("check_different", "output_paths"),
    "pipeline.plan": ("allocate", "analyze_model", "plan_model", "plan_models", "plan_saved"),
    "pipeline.report": ("ExportReport",),
    "recipe": ("Recipe", "list_recipes", "load_recipe", "read_recipe"),
    "settings": ("Settings", "merge"),
    "pipeline.write_stage": ("write",),
    "pipeline.validation": ("check_gate", "check_gates", "score_files", "validate_against"),
    "presets.sizes": ("preset_bytes",),
    "publish.publication": ("Publication", "publish_files"),
    "sources": ("open_source",),
    "sweep.progress": ("Running", "SweepEvent"),
    "sweep.request": ("Sweep", "make_sweep", "read_sweep"),
    "sweep.run": ("SweepResult", "run_sweep"),
    "sweep.table": ("SweepRow",),
    "system.progress": ("Event",),
    "system.jsonio": ("load_json", "save_json", "to_json"),
    "tasks.records": ("TaskScore", "TaskScores"),
    "tasks.score": ("score_tasks",),
    "validate.perplexity": ("Validation",),
    "validate.scored": ("ScoredFile", "better_choice", "comparison_note"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "NEAREST",
    "PRESETS",
    "Answer",
    "Chat",
    "Diagnostics",
    "Event",
    "Evidence",
    "ExportReport",
    "FileReport",
    "Fit",
    "GateError",
    "InputError",
    "Job",
    "Plan",
    "PlanOptions",
    "Profile",
    "Publication",
    "Recipe",
    "Running",
    "ScoredFile",
    "Settings",
    "Speed",
    "Sweep",
    "SweepEvent",
    "SweepResult",
    "SweepRow",
    "TaskScore",
    "TaskScores",
    "Validation",
    "allocate",
    "analyze_model",
    "answers_of",
    "better_choice",
    "check_comparison",
    "check_different",
    "check_gate",
    "check_gates",
    "check_plot",
    "check_scored",
    "compare_presets",
    "comparison_note",
    "describe_inputs",
    "export_model",
    "export_models",
    "fit_model",
    "gather",
    "inspect_file",
    "list_profiles",
    "list_recipes",
    "load_json",
    "load_profile",
    "load_recipe",
    "make_answers",
    "make_plan",
    "make_sweep",
    "measure_profile",
    "measure_speed",
    "merge",
    "open_chat",
    "open_source",
    "output_paths",
    "plan_model",
    "plan_models",
    "plan_saved",
    "plot_frontier",
    "plot_layers",
    "preset_bytes",
    "preset_name",
    "publish_files",
    "read_recipe",
    "read_sweep",
    "resolve",
    "run_sweep",
    "save_json",
    "score_files",
    "score_tasks",
    "to_json",
    "validate_against",
    "write",
    "write_page",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
