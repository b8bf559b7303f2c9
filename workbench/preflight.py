"""Everything about a recipe that can be known before a worker starts, all problems together.

Looks at the model's headers and tokenizer, the data files and the machine; imports no torch, loads no weights.
"""

import difflib
import os
import shutil
from pathlib import Path

from . import models
from .data import sides
from .data.encode import encode, tokenize
from .data.tokenizer import ChatTokenizer
from .machine import BFLOAT16, NEEDED, Machine, choose_backend, gib, look
from .problems import DataError, Problem, RunError
from .recipe import Recipe

#: Bytes that an optimizer keeps for each trained parameter beside it.
OPTIMIZER_BYTES = {
    "adamw_torch": 8,
    "paged_adamw_32bit": 8,
    "adamw_8bit": 2,
    "paged_adamw_8bit": 2,
    "sgd": 0,
}
CHECKPOINTS = 2 + 1  # two are kept, and a third is written before the oldest goes
TOKENIZED = (
    20_000  # rows up to which all are tokenized here (some seconds, and kept for the worker)
)
SAMPLED = 5_000  # rows that are tokenized of more than that
WORKBENCH = 4 * 2**20  # bytes for the log, the tokenizer and all else that is not the adapter


def check(
    recipe: Recipe, machine: Machine | None = None, *, outputs: str | Path = "outputs"
) -> list[Problem]:
    """What stands in the way of this run, empty when nothing is known to; `outputs` is where its folder will be."""
    machine = machine or look()
    problems = [*_backend(recipe, machine), *_data(recipe)]
    try:
        model = models.read(recipe.model.name, recipe.model.revision)
        layers = model.linear_layers()
    except RunError as error:
        return error.problems + problems
    return [
        *_model(recipe, model),
        *_targets(recipe, model, layers),
        *problems,
        *_disk(recipe, model, layers, Path(outputs)),
    ]


def _backend(recipe: Recipe, machine: Machine) -> list[Problem]:
    problems = []
    if problem := choose_backend(recipe.backend, machine).problem:
        problems.append(problem)
    wanted = [name for name in NEEDED if name != "bitsandbytes" or _wants_bitsandbytes(recipe)]
    if lacking := [name for name in wanted if name not in machine.versions]:
        fact = f"Not installed: {', '.join(lacking)}."
        file = "requirements.txt" if machine.cards else "requirements-cpu.txt"
        problems.append(Problem("", fact, f"pip install -r {file}."))
    asked = recipe.model.compute_dtype
    if asked == "float16" and not machine.cards:
        fact = "model.compute_dtype is float16; on a CPU the loss is not scaled for it, so small gradients become 0."
        problems.append(
            Problem("model.compute_dtype", fact, "Set it to auto, which takes float32 here.")
        )
    if asked == "bfloat16" and machine.cards and machine.cards[0].capability < BFLOAT16:
        fact = f"model.compute_dtype is bfloat16, which {machine.cards[0].name} does not have."
        problems.append(
            Problem("model.compute_dtype", fact, "Set it to auto, which takes float16 here.")
        )
    return problems


def _wants_bitsandbytes(recipe: Recipe) -> bool:
    return (
        recipe.model.load_in_4bit
        or "8bit" in recipe.training.optimizer
        or "paged" in recipe.training.optimizer
    )


def _data(recipe: Recipe) -> list[Problem]:
    train, heldout, problems = recipe.data.train, recipe.data.heldout, []
    both_there = heldout and Path(heldout).exists() and Path(train).exists()
    if both_there and os.path.samefile(train, heldout):
        fact = f"data.heldout is {heldout}, the same file as data.train, so it could not tell learning from memorizing."
        cure = "Give rows that are not trained on, or leave it out."
        problems.append(Problem("data.heldout", fact, cure))
        recipe = recipe.replace(data={"heldout": None})
    try:
        both = sides.read(recipe.data)
    except DataError as error:
        return problems + error.problems
    return [
        *problems,
        *_leak(recipe, both),
        *_unscorable(recipe, both),
        *_unlearnable(recipe, both.train),
    ]


def _leak(recipe: Recipe, both: sides.Sides) -> list[Problem]:
    """Held-out rows that are all trained on too; fewer than all are for the report to tell."""
    if not (recipe.data.heldout and both.heldout):
        return []
    if not set(both.heldout.keys().tolist()) <= set(both.train.keys().tolist()):
        return []
    fact = f"All {len(both.heldout):,} held-out rows are training rows too, so they could not tell learning from memorizing."
    return [Problem("data.heldout", fact, "Take them out of the training rows.")]


def _unscorable(recipe: Recipe, both: sides.Sides) -> list[Problem]:
    score = recipe.samples.score_rows
    if not score or (both.heldout and both.heldout.rows.shape.name != "text"):
        return []
    lack = "raw text has no answers" if both.heldout else "there are no held-out rows"
    fact = f"samples.score_rows is {score:,}, but {lack} to score."
    cure = "Give data.heldout, or set samples.score_rows to 0."
    return [Problem("samples.score_rows", fact, cure)]


def _unlearnable(recipe: Recipe, train: sides.Side) -> list[Problem]:
    """Whether the chat template can write the rows, and leaves something to learn in them."""
    data = recipe.data
    try:
        tokenizer = ChatTokenizer.load(
            recipe.model.name, recipe.model.revision, template=data.template
        )
    except DataError as error:
        # What is wrong with the model itself is told once, by `models`.
        return [problem for problem in error.problems if problem.where != "model.name"]
    whole = len(train.rows) <= TOKENIZED
    rows, positions = (train.rows, train.positions) if whole else (train.first(SAMPLED), None)
    try:
        tokenized = tokenize(rows, tokenizer, loss_on=data.loss_on)
        encode(tokenized, max_length=recipe.model.max_length, positions=positions)
    except DataError as error:
        return error.problems
    return []


def _model(recipe: Recipe, model: models.Model) -> list[Problem]:
    problems = []
    asked, longest = recipe.model.max_length, model.context_length
    if longest and asked > longest:
        fact = f"model.max_length is {asked:,}, but {model.name} was made for at most {longest:,} tokens."
        problems.append(Problem("model.max_length", fact, f"Set it to {longest:,} or less."))
    if model.quantized_by == "bitsandbytes" and not recipe.model.load_in_4bit:
        fact = f"model.load_in_4bit is false, but the weights of {model.name} are stored quantized."
        problems.append(
            Problem(
                "model.load_in_4bit", fact, "Set it to true, or give the model's 16-bit version."
            )
        )
    if model.quantized_by not in (None, "bitsandbytes"):
        fact = f"The weights of {model.name} are quantized with {model.quantized_by}, which QLoRA cannot start from."
        problems.append(Problem("model.name", fact, "Give the model's 16-bit version."))
    return problems


def _targets(
    recipe: Recipe, model: models.Model, layers: tuple[models.LinearLayer, ...]
) -> list[Problem]:
    has = models.target_modules(layers)
    if not has:
        fact = f"{model.name} has no linear layers that an adapter can be put beside."
        return [
            Problem("model.name", fact, "Give a language model in its 16-bit or bitsandbytes form.")
        ]
    names = [
        *model.modules,
        "lm_head",
    ]  # a head that shares the embedding's weight is not in the file
    asked = [] if recipe.lora.target_modules == "all-linear" else recipe.lora.target_modules
    found = [("lora.target_modules", name) for name in asked]
    found += [("lora.modules_to_save", name) for name in recipe.lora.modules_to_save]
    problems = []
    for where, name in found:
        if any(models.matches(module, name) for module in names):
            continue
        near = difflib.get_close_matches(name, has, n=1)
        cure = f"Did you mean {near[0]}? It" if near else "It"
        fact = f"{where} holds {name}, which {model.name} does not have."
        problems.append(Problem(where, fact, f"{cure} has {', '.join(has)}."))
    return problems


def _disk(
    recipe: Recipe, model: models.Model, layers: tuple[models.LinearLayer, ...], outputs: Path
) -> list[Problem]:
    """Whether adapter and checkpoints fit: 4 bytes a trained parameter, and the optimizer's state in a checkpoint."""
    lora = recipe.lora
    trained = models.lora_parameters(layers, lora.rank, lora.target_modules, dora=lora.dora)
    trained += model.parameters_of(lora.modules_to_save)
    checkpoints = CHECKPOINTS if recipe.training.checkpoint_every else 0
    per_checkpoint = 4 + OPTIMIZER_BYTES[recipe.training.optimizer]
    need = WORKBENCH + trained * (4 + checkpoints * per_checkpoint)
    there = outputs.resolve()
    nearest = next(folder for folder in (there, *there.parents) if folder.exists())
    free = shutil.disk_usage(nearest).free
    if free >= need:
        return []
    fact = f"The run needs {_size(need)} of disk for its adapter and checkpoints, and {nearest} has {_size(free)} free."
    return [Problem("training.checkpoint_every", fact, "Free some space, or lower lora.rank.")]


def _size(size: int) -> str:
    return gib(size) if size >= 2**30 else f"{size / 2**20:,.1f} MiB"
