"""QLoRA fine-tuning from a notebook: a run is a folder, a worker process owns the GPU, and this side only reads and asks.

    import workbench as wb
    run = wb.start(wb.Recipe.load("data/tiny/recipe.yaml"))
    await run.finished()

Loads its parts when they are first used, so that importing it costs nothing; never loads torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# public name -> the module that it lives in, and its name there if it has another
_HOME = {
    "DataError": "problems",
    "History": "events",
    "Problem": "problems",
    "Recipe": "recipe",
    "RecipeError": "problems",
    "Run": "run",
    "RunError": "problems",
    "Spare": "spawn",
    "WorkbenchError": "problems",
    "alarms": "alarm",
    "answers_before": "panels.answers.samples",
    "ask_panel": "panels.answers.ask:AskPanel",
    "cautions": "caution",
    "check_machine": "panels.check",
    "compare": "comparing",
    "compare_samples": "panels.answers.samples",
    "contest": "inspection.contest",
    "data_report": "panels.rows.data_report:DataReport",
    "first_recipe": "presets",
    "glance": "panels.answers.samples",
    "inspect_adapter": "inspection.adapter",
    "inspect_panel": "panels.inspection.panel:InspectPanel",
    "inspect_quantization": "inspection.quantization",
    "launch_panel": "panels.launch.panel:LaunchPanel",
    "mix_adapters": "inspection.mixing",
    "monitor": "panels.monitor.panel:Monitor",
    "picture": "charts",
    "plan": "memory.planning",
    "preset": "presets",
    "probe": "starting",
    "rename": "tidying",
    "restore": "tidying",
    "runs": "run",
    "runs_panel": "panels.runs.panel:RunsPanel",
    "sample_sheet": "panels.answers.sheet:sheet_page",
    "setup_panel": "panels.setup.panel:SetupPanel",
    "show_report": "panels.rows.report_page",
    "show_tokens": "panels.rows.tokens",
    "start": "starting",
    "token_inspector": "panels.rows.inspector",
    "trash": "tidying",
    "truncate_adapter": "inspection.truncation",
}
_MODULES = (
    "charts",
    "data",
    "demo",
    "events",
    "machine",
    "memory",
    "models",
    "panels",
    "preflight",
    "summary",
)

__all__ = ["__version__", *_HOME, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        module, _, inside = _HOME[name].partition(":")
        return getattr(import_module(f".{module}", __name__), inside or name)
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"workbench has no {name!r}; it has {', '.join(sorted(__all__))}")


def __dir__() -> list[str]:
    return sorted(__all__)
