"""The recipes that the first notebook offers, and presets: a few settings that go together, each with its trade-off.

Knows where the repository keeps its data; knows nothing of how a run goes.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from .machine import look
from .problems import Problem, RecipeError
from .recipe import Recipe

Lane = Literal["auto", "tiny", "llama"]
TINY = Path(__file__).resolve().parents[1] / "data" / "tiny"
LLAMA = "unsloth/Llama-3.2-1B-Instruct"
SHORT = 1024  # tokens, to which a small card's rows are cut
LARGEST = 32  # rows of an effective batch: LoRA tolerates larger ones less (TRL's guide "LoRA Without Regret")

Changes = Mapping[str, Mapping[str, Any]]


class Preset(NamedTuple):
    """A name, one sentence that names the trade-off, and what it changes, by section, in a recipe."""

    name: str
    says: str
    changes: Callable[[Recipe], Changes]


def preset(name: str, recipe: Recipe) -> Recipe:
    """The recipe with a preset's settings; all others stay. Raises RecipeError for a name that no preset has."""
    found = next((one for one in PRESETS if one.name == name), None)
    if found is None:
        known = ", ".join(one.name for one in PRESETS)
        raise RecipeError([Problem("", f"There is no preset {name!r}.", f"Known are: {known}.")])
    return recipe.replace(**found.changes(recipe))


def _first_try(_: Recipe) -> Changes:
    return {
        "lora": {"rank": 16, "alpha": 16, "target_modules": "all-linear", "rslora": False, "dora": False},
        "training": {"steps": 60, "epochs": None, "eval_every": 20, "checkpoint_every": 20},
        "samples": {"every": 20},
    }  # fmt: skip


def _small_card(recipe: Recipe) -> Changes:
    """One row at once with the same effective batch, so that only speed is lost."""
    return {
        "model": {
            "load_in_4bit": True, "double_quant": True,
            "max_length": min(recipe.model.max_length, SHORT),
        },
        "lora": {"rank": 8, "alpha": 8, "rslora": False, "dora": False},
        "training": {
            "batch_size": 1, "accumulation": min(recipe.effective_batch, 4096), "batch": "as_given",
            "gradient_checkpointing": True, "on_oom": "retry",
        },
    }  # fmt: skip


def _many_rows(recipe: Recipe) -> Changes:
    rows = min(recipe.training.batch_size, LARGEST)
    return {
        "lora": {"rank": 32, "alpha": 32, "dropout": 0.0, "target_modules": "all-linear", "rslora": False},
        "training": {
            "steps": None, "epochs": 1, "batch_size": rows, "accumulation": LARGEST // rows,
            "eval_every": 200, "checkpoint_every": 200,
        },
        "samples": {"every": 200},
    }  # fmt: skip


def _style_only(_: Recipe) -> Changes:
    return {
        "lora": {
            "rank": 8, "alpha": 8, "dropout": 0.05, "target_modules": "all-linear", "rslora": False,
            "dora": False,
        },
        "training": {"steps": None, "epochs": 2},
    }  # fmt: skip


PRESETS = (
    Preset(
        "first try",
        "60 steps with the usual adapter: minutes instead of hours to see whether the rows teach anything, but not the best that they could teach.",
        _first_try,
    ),
    Preset(
        "small card",
        f"One row at once and a small adapter with the same effective batch: the least memory, but slower, and rows are cut at {SHORT:,} tokens.",
        _small_card,
    ),
    Preset(
        "many rows",
        "One pass at rank 32 for tens of thousands of rows: room to learn more, but an adapter twice the usual size, and measured only every 200 steps.",
        _many_rows,
    ),
    Preset(
        "style only",
        "Two passes at rank 8 with dropout for some hundred rows of one tone or format: forgets less of what the model knows, but learns fewer facts.",
        _style_only,
    ),
)


def first_recipe(
    lane: Lane = "auto", *, steps: int | None = None, score_rows: int | None = None
) -> Recipe:
    """The recipe for a first run: `tiny` on a CPU, `llama` on a GPU; `auto` looks which there is.

    Both learn the same task from `data/tiny`. Raises RecipeError where that folder is missing.
    """
    if not (TINY / "recipe.yaml").is_file():
        fact = f"There is no {TINY}: only the package is installed, not the repository."
        raise RecipeError(
            [Problem("", fact, "Clone the repository and install it with pip install -e .")]
        )
    recipe = Recipe.load(TINY / "recipe.yaml")
    if lane == "llama" or (lane == "auto" and look().cards):
        recipe = _llama(recipe)
    changes = {
        "training": {"steps": steps} if steps is not None else {},
        "samples": {"score_rows": score_rows} if score_rows is not None else {},
    }
    return recipe.replace(**changes)


def _llama(tiny: Recipe) -> Recipe:
    """The tiny lane's rows and questions, the defaults for everything else; a T4 has the memory for it."""
    return Recipe(
        model={"name": LLAMA, "max_length": 512},
        data=tiny.data,
        training={
            "steps": 60,
            "batch_size": 8,
            "accumulation": 2,
            "eval_every": 20,
            "checkpoint_every": 20,
        },
        samples=tiny.samples.model_copy(update={"every": 20, "score_rows": 64}),
    )
