"""The recipes that the first notebook offers: the tiny lane anywhere, Llama-3.2-1B where a GPU is found.

Knows where the repository keeps its data; knows nothing of how a run goes.
"""

from pathlib import Path
from typing import Literal

from .machine import look
from .problems import Problem, RecipeError
from .recipe import Recipe

Lane = Literal["auto", "tiny", "llama"]
TINY = Path(__file__).resolve().parents[1] / "data" / "tiny"
LLAMA = "unsloth/Llama-3.2-1B-Instruct"


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
