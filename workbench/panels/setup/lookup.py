"""What a setup panel must look up and settings do not change: a model's layers, and what a plan of it needs to know.

A folder, the hub's cache and the table of known models answer at once; the hub is given a few seconds. Knows no widgets.
"""

import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from ... import folders, looking, models
from ... import recipe as settings
from ...memory import known, planning
from ...memory.question import Question
from ...memory.shapes import Shapes
from ...models import LinearLayer
from ...problems import Problem, RunError, WorkbenchError
from ...recipe import Recipe

SMALL_FILE = 5_000_000  # bytes up to which the rows are read and tokenized: about three seconds
PATIENCE = 5.0  # seconds that the hub is waited for

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Found:
    """What was found out about a recipe's model and rows: its linear layers, the question that a plan answers.

    `question` is None where `why_not` says why. `error` is what keeps the model from being read, None if it can be.
    `here` tells whether its weights are on this machine; `rows_fault` says why the rows cannot be read, "" if they can.
    """

    recipe: Recipe
    layers: tuple[LinearLayer, ...] = ()
    question: Question | None = None
    why_not: str = "The model cannot be read: see the message above."
    error: WorkbenchError | None = None
    here: bool = False
    rows_fault: str = ""


def look_up(recipe: Recipe, *, card: str | None, vram: str | None, outputs: str | Path) -> Found:
    """Looks all of it up. Raises nothing; waits for the hub no longer than three times PATIENCE."""
    try:
        return _looked_up(recipe, card, vram, outputs)
    except (OSError, ValueError) as error:  # a folder that is closed, a name that no path can be
        fact = f"{recipe.model.name!r:.200} cannot be looked at: {error}."
        problem = Problem("model.name", fact, "Give another folder, or a name.")
        return Found(recipe, error=RunError([problem]))


def _looked_up(recipe: Recipe, card: str | None, vram: str | None, outputs: str | Path) -> Found:
    # modules that the model lacks would be refused here, and can be mended without looking up anew
    asked = recipe.replace(lora={"target_modules": "all-linear"})
    name, revision = recipe.model.name, recipe.model.revision
    here = is_here(name, revision)
    shapes = None if here else known.find(name)
    found = Found(recipe, layers_of(shapes) if shapes else (), here=here)
    if shapes is None:
        try:
            layers = _in_time(lambda: models.linear_layers(name, revision), name)
            found = replace(found, layers=layers)
        except WorkbenchError as error:
            found = replace(found, error=error)
            if not _has_config(name):
                return found
    try:
        where = {"card": card, "vram": vram, "outputs": outputs}
        question = _in_time(lambda: planning.plan(asked, **where).question, name)
    except WorkbenchError as error:
        return replace(found, why_not=str(error))
    question, fault = _with_rows(question, recipe)
    layers = found.layers or layers_of(question.shapes)
    return replace(found, layers=layers, question=question, why_not="", rows_fault=fault)


def key(recipe: Recipe) -> tuple[Any, ...]:
    """What the answer depends on: while this stays, nothing need be looked up again."""
    model = recipe.model
    return (model.name, model.revision, recipe.backend, recipe.data.model_dump_json())


def is_here(name: str, revision: str | None = None) -> bool:
    """Whether a model's weights are on this machine, in a folder or in the hub's cache. Fetches nothing."""
    if models.is_local(name):
        return not folders.problems(Path(name).expanduser())
    from ... import hub

    cached = hub.cached_folder(name, revision)
    return cached is not None and not folders.problems(cached)


def layers_of(shapes: Shapes) -> tuple[LinearLayer, ...]:
    """The layers that an adapter can be put beside, where only their shapes are known."""
    return tuple(
        LinearLayer(f"{k.group}.{k.module}", k.module, k.in_features, k.out_features)
        for k in shapes.linears
        if k.adapted
        for _ in range(k.count)
    )


def _has_config(name: str) -> bool:
    """Whether a folder without weights can still be planned."""
    with contextlib.suppress(OSError):
        return models.is_local(name) and (Path(name).expanduser() / "config.json").is_file()
    return False


def _with_rows(asked: Question, recipe: Recipe) -> tuple[Question, str]:
    """The question with the rows counted, and tokenized where the tokenizer can be had; and why they cannot be read.

    Larger files, and what is on the hub, are left to the start.
    """
    path = recipe.data.train
    there = os.path.exists(path)  # False for what no path can be, too
    small = os.path.isfile(path) and os.path.getsize(path) < SMALL_FILE
    if not small and (there or path.count("/") == 1):
        return asked, ""
    # counted as if nothing were cut, so that the sequence length can be changed
    longest = int(settings.bounds("model.max_length")["le"])
    uncut = recipe.replace(model={"max_length": longest})
    with contextlib.suppress(WorkbenchError):  # told row by row at the start
        if there:
            counted = _in_time(lambda: planning.count(uncut), recipe.model.name)
            return replace(asked, **counted._asdict()), ""
    try:
        share = 0.0 if recipe.data.heldout else recipe.data.heldout_share
        return replace(asked, rows=round(len(looking.rows_of(recipe)) * (1 - share))), ""
    except WorkbenchError as error:
        return asked, error.problems[0].fact


def _in_time(act: Callable[[], Answer], name: str) -> Answer:
    """What `act` returns. A name that may be asked of the hub gets PATIENCE, and is then given up: raises RunError."""
    if models.is_local(name):
        return act()
    answer: list[Any] = []

    def ask() -> None:
        try:
            answer.append((act(), None))
        except Exception as error:  # handed on to who asked
            answer.append((None, error))

    asked = threading.Thread(target=ask, daemon=True)
    asked.start()
    asked.join(PATIENCE)
    if not answer:
        fact = f"The hub did not answer within {PATIENCE:g} s about {name}."
        cure = "Try again, or give a folder that holds the model (./model)."
        raise RunError([Problem("model.name", fact, cure)])
    found, error = answer[0]
    if error is not None:
        raise error
    return found
