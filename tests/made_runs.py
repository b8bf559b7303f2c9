"""Folders of runs for the tests of what lists, compares and tidies them: a recipe and a made log, no worker."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import made_history
import psutil

from workbench.recipe import Recipe
from workbench.run import Run


def made_run(
    outputs: Path,
    name: str,
    *,
    steps: int = 20,
    state: str = "closed",
    age: int = 0,
    **settings: Any,
) -> Run:
    """A run that has ended, `age` seconds older than the others, with what a recipe's sections change."""
    folder = outputs / name
    (folder / "adapter").mkdir(parents=True)
    recipe = Recipe(**settings).save(folder / "recipe.yaml")
    os.utime(recipe, (1e9 - age, 1e9 - age))
    made_history.made(folder, steps, state=state)
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(bytes(1000))
    return Run(folder)


@contextmanager
def living_worker(run: Run) -> Iterator[None]:
    """As if a worker of the run were there: a process that waits."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    known = {"pid": process.pid, "created": psutil.Process(process.pid).create_time()}
    (run.folder / "worker.json").write_text(json.dumps(known))
    try:
        yield
    finally:
        process.communicate(b"\n")
