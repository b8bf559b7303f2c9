"""Names of runs: which can be a folder, and new ones that can be said aloud. Knows nothing of what a run is."""

import random
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from .problems import Problem, RunError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_NOUNS = "amber birch cedar comet coral delta ember fjord grove heron ivory juniper lamp maple meadow opal otter pearl quartz raven reef sage spruce tide walnut willow".split()  # fmt: skip


def folder_of(name: str, outputs: Path) -> Path:
    """The folder of a run with this name. Raises RunError for one that would leave `outputs` or be hidden in it."""
    if not NAME.fullmatch(name):
        fact = f"{name!r} cannot be the name of a run; it becomes a folder."
        cure = "Use letters, digits, '.', '-' and '_', beginning with a letter or digit."
        raise RunError([Problem("", fact, cure)])
    return (outputs / name).resolve()


def _names() -> Iterator[str]:
    day = datetime.now().strftime("%m%d")
    yield from (f"{day}-{noun}" for noun in random.sample(_NOUNS, len(_NOUNS)))
    yield from (f"{day}-{random.choice(_NOUNS)}-{number}" for number in range(2, 10_000))


def new_folder(outputs: Path) -> Path:
    """A name that can be said aloud, such as 1123-lamp."""
    return next(folder for name in _names() if not (folder := (outputs / name).resolve()).exists())
