"""Finds out what a plan needs to know: the model's shapes, the place, the rows' lengths, what earlier runs measured.

The one part of this folder that looks at files, at this machine and, for a model that is nowhere else, at the hub.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

from .. import machine as machines
from .. import models
from ..machine import Machine
from ..problems import DataError, Problem, RunError
from ..recipe import Recipe
from . import gpus, known, learned, place
from .plan import Plan
from .question import Question
from .shapes import Shapes, from_model

MOST_ROWS = 20_000  # rows up to which all are tokenized; of more the first ones tell the mean
SAMPLED = 5_000


class Counted(NamedTuple):
    """What was found in the rows: how many there are, tokens of the longest (None: not all were looked at) and on average."""

    rows: int
    longest: int | None
    mean: float


def plan(
    recipe: Recipe,
    *,
    card: str | None = None,
    vram: str | None = None,
    rows: bool = False,
    outputs: str | Path = "outputs",
    machine: Machine | None = None,
) -> Plan:
    """What the recipe needs on this machine, on a `card` by name ("T4"), or on one with so much memory (`vram="16GiB"`).

    With `rows` the data are read and tokenized, so that the longest row and the number of steps are known. Takes
    milliseconds without. Raises RunError for a model or card that is not known, all problems together.
    """
    here = machine or machines.look()
    problems: list[Problem] = []
    where = shapes = None
    try:
        where = _place(card, vram, here)
    except RunError as error:
        problems += error.problems
    try:
        shapes = shapes_of(recipe)
    except RunError as error:
        problems += error.problems
    if not problems:
        problems += _refusals(recipe, shapes)
    if problems:
        raise RunError(problems)
    counted = count(recipe) if rows else None
    backend = _backend(recipe, where, here, named=bool(card or vram))
    question = Question(
        recipe=recipe,
        shapes=shapes,
        backend=backend,
        place=where,
        versions=here.versions,
        longest=counted.longest if counted else None,
        mean=counted.mean if counted else None,
        rows=counted.rows if counted else None,
        records=learned.past(outputs),
    )
    return Plan(question, notes=_notes(question, counted))


def for_run(recipe: Recipe, machine: Machine, outputs: str | Path) -> dict[str, Any] | None:
    """What a run's folder gets as plan.json; None for a model that cannot be planned, which must not keep it from starting."""
    try:
        return plan(recipe, rows=True, machine=machine, outputs=outputs).for_the_run()
    except RunError:
        return None


def shapes_of(recipe: Recipe) -> Shapes:
    """The model's shapes: of a folder or the hub's cache, else of the table, else of the hub. Raises RunError."""
    name, revision = recipe.model.name, recipe.model.revision
    if not models.is_local(name) and not _cached(name, revision):
        if found := known.find(name):
            return found
        try:
            return from_model(models.read(name, revision))
        except RunError as error:
            near = known.like(name)
            if not near:
                raise
            cure = f"The table of known models has {', '.join(near)}."
            raise RunError(
                [Problem(p.where, p.fact, f"{p.cure} {cure}") for p in error.problems]
            ) from None
    return from_model(models.read(name, revision))


def count(recipe: Recipe) -> Counted | None:
    """Reads and tokenizes the rows (kept for the next time); None where they cannot be: that is told at the start."""
    from .. import looking
    from ..data import encode

    try:
        rows = looking.rows_of(recipe)
        few = len(rows) <= MOST_ROWS
        some = rows if few else [rows[i] for i in range(SAMPLED)]
        tokens = encode.tokenize(some, looking.tokenizer_of(recipe), loss_on=recipe.data.loss_on)
        lengths = tokens.lengths
    except DataError:
        return None
    if not len(lengths):
        return None
    limit = recipe.model.max_length
    mean = float(lengths.clip(max=limit).mean())
    share = 0.0 if recipe.data.heldout else recipe.data.heldout_share
    trained = round(len(rows) * (1 - share))
    return Counted(trained, min(int(lengths.max()), limit) if few else None, mean)


def _cached(name: str, revision: str | None) -> bool:
    """Whether the hub's cache holds the model; a look at its folder spares an import of 0.15 s where it does not."""
    home = os.environ.get("HF_HUB_CACHE") or Path(
        os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface", "hub"
    )
    if not Path(home, f"models--{name.replace('/', '--')}").is_dir():
        return False
    from .. import hub

    return hub.cached_folder(name, revision) is not None


def _place(card: str | None, vram: str | None, here: Machine) -> place.Place:
    if card and vram:
        fact = f"Both a card ({card}) and a size ({vram}) are given; only one of them can be meant."
        raise RunError([Problem("", fact, "Leave one out.")])
    if card:
        return place.there(gpus.find(card))
    if vram:
        return place.of_size(gpus.size(vram))
    return place.here(here)


def _backend(recipe: Recipe, where: place.Place, here: Machine, *, named: bool) -> str:
    """The backend as it will be chosen; on a card that is only named, as if everything were installed there."""
    if recipe.backend != "auto":
        return recipe.backend
    if not named:
        return machines.choose_backend("auto", here).value
    return "unsloth" if where.capability >= machines.OLDEST_FOR_UNSLOTH else "peft"


def _refusals(recipe: Recipe, shapes: Shapes) -> list[Problem]:
    quantized = shapes.quantized_by
    if quantized in (None, "bitsandbytes", "mxfp4"):
        return []
    fact = f"The weights of {shapes.name} are quantized with {quantized}, which QLoRA cannot start from."
    return [Problem("model.name", fact, "Give the model's 16-bit version.")]


def _notes(question: Question, counted: Counted | None) -> tuple[str, ...]:
    notes = []
    if question.longest is None and counted is None:
        length = question.recipe.model.max_length
        notes.append(f"The rows were not read: each is taken to fill {length:,} tokens.")
    elif question.longest is None:
        notes.append("Not all rows were tokenized: the longest is taken to fill model.max_length.")
    if question.learned is None:
        notes.append("Nothing was measured on this card yet: the estimate is by formula alone.")
    if question.place is not None and not question.place.on_gpu:
        notes.append("Without a card the run takes main memory, Python and its libraries included.")
    copied = question.backend == "unsloth" and question.recipe.model.load_in_4bit
    if copied and not models.is_local(question.recipe.model.name):
        notes.append(
            "Unsloth may take its own 4-bit copy, which keeps some layers in 16 bit: Phi-4 and Qwen3-14B took 1.3 to 2.2 GiB more."
        )
    notes += [f"Not known: {one}." for one in question.estimate.unknown]
    return tuple(notes)
