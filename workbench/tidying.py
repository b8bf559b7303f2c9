"""Runs renamed, moved to the trash and back, and how much disk they take. Nothing is ever deleted or written over.

The trash is `outputs/.trash`, a folder like any other: emptying it is the user's. Knows nothing of what a run holds.
"""

import contextlib
import itertools
import os
import re
import time
from datetime import datetime
from pathlib import Path

from .digest import named
from .names import folder_of
from .problems import Problem, RunError
from .run import Run

TRASH = ".trash"
_DATED = re.compile(r"(?P<name>.+)-\d{8}-\d{6}(?:-\d+)?")
ENDING_SECONDS = 5  # that a worker which has said its last word gets to end


def rename(run: str | Run, name: str, *, outputs: str | Path = "outputs") -> Run:
    """Gives a run another name, which is its folder's too, and returns the run; whoever holds it goes on with it.

    Raises RunError while its worker lives, for a name that cannot be a folder, and for one that another run has.
    """
    run = named(run, outputs)
    folder_of(name, run.folder.parent)  # refuses what cannot be a folder's name
    folder = run.folder.parent / name
    if folder == run.folder:
        return run
    _must_have_ended(run, "rename it")
    if os.path.lexists(folder):
        raise _taken(name, "Choose another name.")
    _move(run.folder, folder, "renamed")
    run.folder, run.name, run.history.path = folder, folder.name, folder / run.history.path.name
    return run


def trash(run: str | Run, *, outputs: str | Path = "outputs") -> Path:
    """Moves a run to the trash and returns where it lies now; `restore` brings it back.

    Raises RunError while its worker lives, and where the folder cannot be moved.
    """
    run = named(run, outputs)
    _must_have_ended(run, "move it to the trash")
    heap = run.folder.parent / TRASH
    stem = f"{run.name}-{datetime.now():%Y%m%d-%H%M%S}"
    try:
        heap.mkdir(exist_ok=True)
    except OSError as error:
        raise _immovable(run.folder, "moved to the trash", error) from None
    for number in itertools.count(1):
        place = heap / (stem if number == 1 else f"{stem}-{number}")
        if not os.path.lexists(place):
            _move(run.folder, place, "moved to the trash")
            return place


def restore(name: str, *, outputs: str | Path = "outputs", to: str = "") -> Run:
    """Brings a run back from the trash under the name that it had, or the name `to`, and returns it.

    `name` is the run's, of which the newest comes back, or that of its folder in the trash. Raises RunError where there
    is none, and where a run has the name by now.
    """
    there = [folder for folder in trashed(outputs) if name in (folder.name, _undated(folder.name))]
    if not there:
        known = ", ".join(folder.name for folder in trashed(outputs)[:5]) or "none"
        fact = f"There is no run {name!r} in {Path(outputs).resolve() / TRASH}."
        raise RunError([Problem("", fact, f"The newest runs there: {known}.")])
    wanted = to or _undated(there[0].name)
    folder_of(wanted, Path(outputs))
    folder = Path(outputs).resolve() / wanted
    if os.path.lexists(folder):
        raise _taken(wanted, "Bring it back under another name with to=.")
    _move(there[0], folder, "brought back")
    return Run.open(wanted, outputs)


def trashed(outputs: str | Path = "outputs") -> list[Path]:
    """The folders of runs in the trash, those that were moved there last first."""
    found = (Path(outputs).resolve() / TRASH).glob("*/recipe.yaml")
    return sorted((path.parent for path in found), key=_moved, reverse=True)


def size_of(run: Run) -> int:
    """Bytes of all files in a run's folder; those that go meanwhile count nothing."""
    return _size(run.folder)


def _size(folder: Path | str) -> int:
    size = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                inside = entry.is_dir(follow_symlinks=False)
                size += _size(entry.path) if inside else entry.stat(follow_symlinks=False).st_size
    return size


def _must_have_ended(run: Run, wish: str) -> None:
    # A folder that cannot be read can be moved all the same.
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        run.refresh()
    until = time.monotonic() + ENDING_SECONDS
    while run.history.state in ("failed", "closed") and _lives(run) and time.monotonic() < until:
        time.sleep(0.05)  # its worker is on its way out, or another kernel has just resumed it
    if _lives(run):
        fact = f"Run {run.name} is {run.history.state}: its worker is still there."
        raise RunError([Problem("", fact, f"Close it with close() first, then {wish}.")])


def _lives(run: Run) -> bool:
    try:
        return run.alive  # what a worker writes is whole: a torn worker.json is of none that lives
    except (OSError, ValueError, KeyError):
        return False


def _move(folder: Path, place: Path, done: str) -> None:
    try:
        folder.rename(place)  # refused by the system where something lies there already
    except FileNotFoundError:
        fact = f"The folder of run {folder.name} is gone."
        cure = "Another kernel has moved or deleted it: list the runs again."
        raise RunError([Problem("", fact, cure)]) from None
    except OSError as error:
        raise _immovable(folder, done, error) from None


def _immovable(folder: Path, done: str, error: OSError) -> RunError:
    fact = f"Run {folder.name} cannot be {done}: {error.strerror}."
    return RunError([Problem("", fact, f"See who may write in {folder.parent}.")])


def _taken(name: str, cure: str) -> RunError:
    return RunError([Problem("", f"There is a run {name!r} already.", cure)])


def _undated(name: str) -> str:
    dated = _DATED.fullmatch(name)
    return dated["name"] if dated else name


def _moved(folder: Path) -> tuple[str, int]:
    """When a run was moved to the trash, as its folder's name tells; a number ends the second one of a second."""
    dated = re.search(r"-(\d{8}-\d{6})(?:-(\d+))?$", folder.name)
    return (dated[1], int(dated[2] or 1)) if dated else ("", 0)
