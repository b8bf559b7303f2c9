"""How a run begins: its recipe is checked against this machine, its memory planned, its folder made, its worker started.

Knows what a run's folder holds at first. What comes after is in `run.py`.
"""

import contextlib
import json
from pathlib import Path

from . import lock, preflight, spawn
from .machine import choose_backend, look
from .memory import place, planning
from .models import is_local
from .names import folder_of, new_folder
from .problems import Problem, RunError
from .recipe import Recipe
from .run import Run


def start(
    recipe: Recipe,
    *,
    name: str | None = None,
    outputs: str | Path = "outputs",
    spare: spawn.Spare | None = None,
) -> Run:
    """Checks the recipe against this machine, makes the run's folder and starts its worker.

    Raises WorkbenchError with all problems that can be known before; then nothing was made. A `spare` worker that
    has the right backend is used if it is warm.
    """
    return _made(recipe, name, Path(outputs)).start_worker("train", spare)


def probe(
    recipe: Recipe,
    *,
    name: str | None = None,
    outputs: str | Path = "outputs",
    spare: spawn.Spare | None = None,
) -> Run:
    """Starts a run like `start` that only measures its memory: two steps on the longest rows, one answer, one
    held-out batch. It keeps nothing and closes by itself; its history's `probes` has what was measured."""
    return _made(recipe, name, Path(outputs)).start_worker("probe", spare)


def _made(recipe: Recipe, name: str | None, outputs: Path) -> Run:
    """A run with its folder, which was checked against this machine and has no worker yet."""
    folder = folder_of(name, outputs) if name else new_folder(outputs)
    machine = look()
    problems = preflight.check(recipe, machine, outputs=outputs)
    if folder.exists():
        fact = f"There is a run {folder.name!r} already."
        problems.append(Problem("", fact, "Choose another name, or open it with Run.open()."))
    try:
        place.limit()
    except RunError as error:
        problems += error.problems
    if machine.cards and not problems:
        lock.check_free(lock.card_lock())
    if problems:
        raise RunError(problems)
    choice = choose_backend(recipe.backend, machine)
    try:
        folder.mkdir(parents=True)
        _absolute(recipe).save(folder / "recipe.yaml")
        (folder / "backend.json").write_text(json.dumps({"value": choice.value, "why": choice.why}))
        if plan := planning.for_run(recipe, machine, outputs):
            (folder / "plan.json").write_text(json.dumps(plan))
    except OSError as error:
        fact = f"The run's folder {folder} cannot be made: {error.strerror}."
        raise RunError([Problem("", fact, "Give another outputs folder.")]) from None
    return Run(folder)


def _absolute(recipe: Recipe) -> Recipe:
    """The recipe with paths that mean the same from any folder; names on the hub and templates stay as they are."""
    data = {}
    for name in ("train", "heldout", "template"):
        if (value := getattr(recipe.data, name)) and _is_there(value):
            data[name] = str(Path(value).expanduser().resolve())
    changed = recipe.replace(data=data)
    if is_local(name := recipe.model.name):
        changed = changed.replace(model={"name": str(Path(name).expanduser().resolve())})
    return changed


def _is_there(path: str) -> bool:
    # a template's text is too long for a path, or holds what none may
    with contextlib.suppress(OSError, ValueError):
        return Path(path).expanduser().exists()
    return False
