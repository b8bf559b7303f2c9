"""Finds out what a plan needs to know: the model's shapes, the place, the rows' lengths, what earlier runs measured.

The one part of this folder that looks at files, at this machine and, for a model that is nowhere else, at the hub.
"""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from .. import machine as machines
from .. import models
from ..machine import Machine
from ..problems import DataError, Problem, RunError
from ..recipe import Recipe
from ..summary import size
from . import gpus, known, learned, place
from .plan import Plan
from .question import Question
from .shapes import Shapes, from_config, from_model

MOST_ROWS = 20_000  # rows up to which all are tokenized; of more the first ones tell the mean
SAMPLED = 5_000


class Counted(NamedTuple):
    """What was found in the rows: how many there are, tokens of the longest (None: not all were looked at) and on average."""

    rows: int
    longest: int | None
    mean: float


def plan(
    recipe: Recipe | str | Path,
    *,
    card: str | None = None,
    vram: str | float | None = None,
    rows: bool = False,
    outputs: str | Path = "outputs",
    machine: Machine | None = None,
) -> Plan:
    """What a recipe needs on this machine, on a `card` by name ("T4"), or on one with so much memory (`vram="16GiB"`).

    A text is the path of a recipe, or a model's name, which means the default recipe with it. With `rows` the data are read and tokenized, so that the longest row and the number of steps are known. Takes
    milliseconds without. Raises RunError for a model or card that is not known, all problems together.
    """
    recipe = recipe if isinstance(recipe, Recipe) else named(str(recipe))
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
    counted, uncounted = None, ""
    if rows:
        try:
            counted = count(recipe)
        except DataError as error:
            uncounted = error.problems[0].fact
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
    return Plan(question, notes=_notes(question, counted, uncounted))


def named(text: str) -> Recipe:
    """The recipe in a file, or the default one with the model of this name. Raises RecipeError."""
    path = Path(text)
    if path.suffix.lower() in (".yaml", ".yml") or path.is_file():
        return Recipe.load(path)
    return Recipe(model={"name": text})


def for_run(recipe: Recipe, machine: Machine, outputs: str | Path) -> dict[str, Any] | None:
    """What a run's folder gets as plan.json; None for a model that cannot be planned, which must not keep it from starting."""
    try:
        return plan(recipe, rows=True, machine=machine, outputs=outputs).for_the_run()
    except RunError:
        return None


def shapes_of(recipe: Recipe) -> Shapes:
    """The model's shapes: of a folder or the hub's cache, else of the table, else of the hub. Raises RunError.

    Of a folder with a config.json and no weights they follow from that, so that a model can be planned before it is fetched.
    """
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
    if models.is_local(name) and (config := _config_alone(Path(name).expanduser())):
        return from_config(config, name)
    return from_model(models.read(name, revision))


def _config_alone(folder: Path) -> dict[str, Any] | None:
    """The config.json of a folder that holds no weights yet; None for any other folder, whose faults are told elsewhere."""
    path = folder / "config.json"
    if not path.is_file() or any(folder.glob("*.safetensors*")):
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return config if isinstance(config, dict) else None


def count(recipe: Recipe) -> Counted:
    """Reads and tokenizes the rows (kept for the next time). Raises DataError for rows that cannot be."""
    from .. import looking
    from ..data import encode

    rows = looking.rows_of(recipe)
    few = len(rows) <= MOST_ROWS
    some = rows if few else [rows[i] for i in range(SAMPLED)]
    tokens = encode.tokenize(some, looking.tokenizer_of(recipe), loss_on=recipe.data.loss_on)
    lengths, limit = tokens.lengths, recipe.model.max_length
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


def _place(card: str | None, vram: str | float | None, here: Machine) -> place.Place:
    if card is not None and vram is not None:
        fact = f"Both a card ({card}) and a size ({vram}) are given; only one of them can be meant."
        raise RunError([Problem("", fact, "Leave one out.")])
    if card is not None:
        return place.there(gpus.find(str(card)))
    if vram is not None:
        return place.of_size(gpus.size(str(vram)))
    return place.here(here, place.limit())


def _backend(recipe: Recipe, where: place.Place, here: Machine, *, named: bool) -> str:
    """The backend as it will be chosen; on a card that is only named, as if everything were installed there."""
    if recipe.backend != "auto":
        return recipe.backend
    if not named:
        return machines.choose_backend("auto", here).value
    return "unsloth" if where.capability >= machines.OLDEST_FOR_UNSLOTH else "peft"


def _refusals(recipe: Recipe, shapes: Shapes) -> list[Problem]:
    problems, quantized = [], shapes.quantized_by
    if quantized not in (None, "bitsandbytes", "mxfp4"):
        fact = f"The weights of {shapes.name} are quantized with {quantized}, which QLoRA cannot start from."
        problems.append(Problem("model.name", fact, "Give the model's 16-bit version."))
    has = list(dict.fromkeys(kind.module for kind in shapes.linears if kind.adapted))
    asked = recipe.lora.target_modules
    for name in () if asked == "all-linear" or not has else asked:
        # what is written with dots, or is no layer of a block, is for the start to judge: it reads all names
        if "." not in name and name not in (*has, "lm_head", "embed_tokens"):
            fact = f"lora.target_modules holds {name}, which {shapes.name} does not have."
            cure = f"It has {', '.join(has)}."
            problems.append(Problem("lora.target_modules", fact, cure))
    return problems


def _notes(question: Question, counted: Counted | None, uncounted: str) -> tuple[str, ...]:
    model, shapes, notes = question.recipe.model, question.shapes, []
    if counted is None:
        why = (
            f"The rows could not be counted ({uncounted.rstrip('.')})"
            if uncounted
            else "The rows were not read"
        )
        notes.append(f"{why}: each is taken to fill {model.max_length:,} tokens.")
    elif question.longest is None:
        notes.append("Not all rows were tokenized: the longest is taken to fill model.max_length.")
    if shapes.context_length and model.max_length > shapes.context_length:
        notes.append(
            f"model.max_length is {model.max_length:,}, and the model was made for at most {shapes.context_length:,} tokens: a run would be refused."
        )
    if question.raw.elastic:
        notes.append(
            f"Unsloth's loss works in larger pieces where there is room: up to {size(question.raw.elastic)} more than expected, and less as the card fills."
        )
    if question.learned is None:
        where = "this card" if question.place is None or question.place.on_gpu else "this machine"
        notes.append(f"Nothing was measured on {where} yet: the estimate is by formula alone.")
    if question.place is not None and not question.place.on_gpu:
        notes.append("Without a card the run takes main memory, Python and its libraries included.")
    if question.copied:
        notes.append(
            "Unsloth may take its own 4-bit copy, which keeps some layers in 16 bit: Phi-4 and Qwen3-14B took 1.3 and 2.2 GiB more."
        )
    if shapes.experts and model.load_in_4bit:
        notes.append(
            "Its experts are fused tensors, which bitsandbytes does not pack as it loads: they are counted in 16 bit. A copy that is quantized already may hold them in 4."
        )
    notes += [f"Not known: {one}." for one in question.estimate.unknown]
    return tuple(notes)
