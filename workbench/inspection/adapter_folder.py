"""Which folder an adapter is in, told by a run, a run's name or a path; and the base and the recipe that belong to it.

Reads names and a little JSON. What is in the weights, and whether they can be used, `python -m workbench.inside` finds.
"""

import json
from pathlib import Path
from typing import NamedTuple

from ..names import NAME
from ..problems import Problem, RecipeError, RunError
from ..recipe import Recipe
from ..run import Run, runs

CONFIG = "adapter_config.json"


class Place(NamedTuple):
    """An adapter's folder, what to call it, the base that it was trained on, and its run's recipe if it is of a run.

    `base` is a folder or a name on the hub, "" where neither recipe nor adapter tells it; `run` is the run's folder.
    """

    folder: Path
    name: str
    base: str
    revision: str | None
    run: Path | None

    @property
    def recipe(self) -> str | None:
        """The path of the recipe, as an inspection takes it."""
        return str(self.run / "recipe.yaml") if self.run else None


def locate(adapter: Run | str | Path, outputs: str | Path = "outputs") -> Place:
    """Finds the adapter of a run, of a run's name in `outputs`, or in a folder. Raises RunError where there is none."""
    if isinstance(adapter, Run):
        return _of_run(adapter)
    path = Path(adapter).expanduser()
    if (path / CONFIG).is_file():
        return _place(path.resolve(), str(adapter))
    if isinstance(adapter, str) and NAME.fullmatch(adapter) and _is_run(Path(outputs) / adapter):
        return _of_run(Run.open(adapter, outputs))
    if _is_run(path):
        return _of_run(Run.open(path.resolve().name, path.resolve().parent))
    raise RunError([_nothing(path, adapter, outputs)])


def _of_run(run: Run) -> Place:
    if (run.adapter_path / CONFIG).is_file():
        return _place(run.adapter_path.resolve(), run.name)
    state = run.state
    fact = f"Run {run.name} has no adapter yet: it is {state}, at step {run.history.step:,}."
    cure = "Wait for its end with await run.finished(), or end it with run.stop(), which keeps one."
    if run.history.over:
        fact = f"Run {run.name} has no adapter: it is {state}, after step {run.history.step:,}."
        cure = "Resume it with run.resume(), or take another run."
    raise RunError([Problem("", fact, cure)])


def _place(folder: Path, name: str) -> Place:
    """The base is the recipe's, which names what was loaded; the adapter's own account may be of another machine."""
    run = next((parent for parent in list(folder.parents)[:2] if _is_run(parent)), None)
    try:
        recipe = Recipe.load(run / "recipe.yaml") if run else None
    except RecipeError:  # of another version of the workbench: the adapter still tells its base
        run = recipe = None
    if recipe is not None:
        return Place(folder, name, recipe.model.name, recipe.model.revision, run)
    try:
        told = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        told = {}
    told = told if isinstance(told, dict) else {}
    return Place(
        folder, name, told.get("base_model_name_or_path") or "", told.get("revision"), None
    )


def _is_run(folder: Path) -> bool:
    return (folder / "recipe.yaml").is_file()


def _nothing(path: Path, adapter: str | Path, outputs: str | Path) -> Problem:
    """What is there instead of an adapter."""
    give = f"Give a run, or the folder that holds {CONFIG}."
    if path.is_file():
        return Problem("", f"{path} is a file.", give)
    if path.is_dir():
        if (path / "config.json").is_file():
            return Problem("", f"{path} is a model, not an adapter.", give)
        return Problem("", f"{path} holds no adapter: it has no {CONFIG}.", give)
    known = ", ".join(run.name for run in runs(outputs)[:5]) or "none"
    where = Path(outputs).resolve()
    fact = f"{str(adapter)!r} is neither a run in {where} nor a folder."
    return Problem("", fact, f"The newest runs there: {known}.")
