"""A run that goes on although this kernel did not start it, and how its recipe differs from the one that is shown.

Reads folders and asks whether their workers live. Knows no widgets.
"""

from pathlib import Path
from typing import Any

from ...problems import RecipeError
from ...recipe import Recipe
from ...run import Run

NAMED = 4  # settings that differ


def underway(outputs: Path) -> Run | None:
    """The newest run in `outputs` whose worker is there and whose training is not over; None where there is none."""
    workers = outputs.glob("*/worker.json")
    for path in sorted(workers, key=_written, reverse=True):
        run = Run(path.parent)
        if run.alive and (path.parent / "recipe.yaml").is_file():
            run.refresh()
            if not run.history.over:
                return run
    return None


def differing(run: Run, recipe: Recipe) -> str:
    """In which settings the run's recipe differs from this one, in a sentence; "" where it does not."""
    try:
        found = run.recipe.differences(recipe)
    except RecipeError:
        return "Its recipe cannot be read by this version."
    told = [
        f"{name} is {theirs}, not {ours}"
        for name, (theirs, ours) in found.items()
        if not _same_place(theirs, ours)
    ]
    if not told:
        return ""
    more = f" and {len(told) - NAMED} more" if len(told) > NAMED else ""
    return f"Its recipe differs from this one: {', '.join(told[:NAMED])}{more}."


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # it was taken away just now
        return 0.0


def _same_place(one: Any, other: Any) -> bool:
    """Whether both are the same path: a run's recipe holds whole paths."""
    if not isinstance(one, str) or not isinstance(other, str):
        return False
    try:
        return Path(one).expanduser().resolve() == Path(other).expanduser().resolve()
    except (OSError, ValueError, RuntimeError):
        return False
