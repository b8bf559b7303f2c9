"""A recipe as Python to copy, and as a file to keep: a fold, a file name and a button that never overwrites unasked.

Knows nothing of controls: it is shown recipes.
"""

import json
import os
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from ... import recipe as settings
from ...problems import Problem, RecipeError, WorkbenchError
from ...recipe import Recipe
from .. import pages
from ..banner import Banner, guarded, status_html
from ..buttons import button
from ..controls import described
from ..fold import Fold

SAVE, OVERWRITE = "Save recipe", "Overwrite?"


class Keeping(widgets.VBox):
    """`follow` shows a recipe; `save` writes the one last shown, as the button does."""

    def __init__(self, banner: Banner, *, codes: widgets.Layout) -> None:
        """`codes` is the layout that all lines of Python share."""
        self.recipe: Recipe | None = None
        self._banner = banner
        self._block = widgets.HTML()
        self.code = Fold("Show as code", "the settings as Python", "as-code", self._block)
        says = "The YAML file that Save recipe writes, for workbench train FILE and wb.Recipe.load"
        self.file = described(
            widgets.Text, "File", says, "recipe-file", value="recipe.yaml",
            continuous_update=False, layout=widgets.Layout(width="260px", flex="0 1 auto"),
        )  # fmt: skip
        self.file.style.description_width = "40px"
        self.button = button(SAVE, "", "save", "save-recipe")
        self._line, self._told = widgets.HTML(layout=codes), widgets.HTML()
        bar = widgets.HBox(
            [self.code.button, self.file, self.button, self._line],
            layout=widgets.Layout(flex_flow="row wrap", align_items="center"),
        )
        super().__init__([bar, self._told, self._block])
        self.file.observe(guarded(banner, self._calm), names="value")
        self.button.on_click(guarded(banner, self._press))
        self._calm()

    def follow(self, recipe: Recipe | None) -> None:
        """Takes this recipe for what is shown and saved; None while a setting is wrong."""
        if recipe != self.recipe:
            self._calm()
        self.recipe, self.button.disabled = recipe, recipe is None
        if recipe is not None:
            self._block.value = pages.block(f"recipe = {recipe.as_code()}")

    def save(self, *, overwrite: bool = False) -> Path:
        """Writes the recipe and returns the file's path. Raises RecipeError where that cannot be done."""
        if self.recipe is None:
            raise RecipeError([Problem("", "A setting is wrong.", "Correct it, then save.")])
        return save(self.recipe, self.file.value, overwrite=overwrite)

    def _press(self) -> None:
        """Saves; a file that is there already has to be asked for twice."""
        sure = self.button.description == OVERWRITE
        self._calm()
        try:
            if not sure and os.path.isfile(_file(self.file.value)):
                self.button.description, self.button.icon = OVERWRITE, "exclamation-triangle"
                self._say(f"{self.file.value} is there already; press again to write over it.")
                return
            path = self.save(overwrite=sure)
        except WorkbenchError:
            self._say("Not saved: see the message at the top of the panel.")
            raise
        self._banner.clear()
        self._say(f"Saved as {path}.")

    def _calm(self) -> None:
        """Takes a question back, and shows the line of Python for the file."""
        self.button.description, self.button.icon = SAVE, "save"
        written = json.dumps(self.file.value.strip(), ensure_ascii=False)
        self.button.tooltip = f"recipe.save({written}): writes the settings as YAML"
        self._line.value = pages.code(f"recipe.save({written})")
        self._say("")

    def _say(self, text: str) -> None:
        self._told.value = status_html(text)


def save(recipe: Recipe, name: str, *, overwrite: bool) -> Path:
    """Writes a recipe as YAML, so that it means the same when it is read again. Raises RecipeError."""
    path = _file(name)
    if os.path.isdir(path):
        fact = f"{name} is a folder."
        raise RecipeError([Problem("", fact, "Add a file name: recipe.yaml.")])
    if os.path.exists(path) and not overwrite:
        fact = f"{name} is there already."
        raise RecipeError([Problem("", fact, "Choose another name, or press again to overwrite.")])
    try:
        return _from(recipe, path.parent).save(path).resolve()
    except OSError as error:
        fact = f"The recipe cannot be saved as {name}: {error.strerror or error}."
        cure = "Give a file in a folder that is there and that you may write to."
        raise RecipeError([Problem("", fact, cure)]) from None


def _file(name: str) -> Path:
    """The file that a name means. Raises RecipeError for no name."""
    if not name.strip() or "\0" in name:
        raise RecipeError([Problem("", "The recipe's file has no name.", "Give recipe.yaml.")])
    return Path(name.strip()).expanduser()


def _from(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with its relative paths as they count from this folder, where it will be read."""
    changes: dict[str, dict[str, Any]] = {}
    for section, key in settings.PATHS:
        value = getattr(getattr(recipe, section), key)
        if isinstance(value, str) and value.startswith(("./", "../")):
            moved = Path(os.path.relpath(value, folder)).as_posix()
            moved = moved if moved.startswith("../") else f"./{moved}"
            if Path(os.path.normpath(moved)) != Path(os.path.normpath(value)):
                changes.setdefault(section, {})[key] = moved
    return recipe.replace(**changes)
