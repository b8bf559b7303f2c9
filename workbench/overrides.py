"""`--set lora.rank=8`: single settings of a recipe changed from the command line, their values read as YAML.

Knows the names of all settings. Knows nothing of commands.
"""

import difflib
from collections.abc import Sequence
from typing import Any

import yaml

from .problems import Problem, RecipeError
from .recipe import Recipe, Section, field

SET_LIKE_THIS = "Write it as --set lora.rank=8."


def changed(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """The recipe with settings such as `lora.rank=8` changed, their values read as YAML.

    Raises RecipeError with all problems of all settings.
    """
    changes: dict[str, Any] = {}
    problems: list[Problem] = []
    for setting in settings:
        try:
            name, value = _setting(setting)
        except RecipeError as error:
            problems += error.problems
            continue
        section, _, key = name.rpartition(".")
        if section:
            changes.setdefault(section, {})[key] = value
        elif isinstance(value, dict):
            changes.setdefault(name, {}).update(value)
        else:
            changes[name] = value
    try:
        recipe = recipe.replace(**changes)
    except RecipeError as error:
        problems += error.problems
    if problems:
        raise RecipeError(problems)
    return recipe


def _setting(text: str) -> tuple[str, Any]:
    """The dotted name and the value of `lora.rank=8`; a group's name comes with a table. Raises RecipeError."""
    name, _, written = text.partition("=")
    section, _, key = name.rpartition(".")
    groups = _groups()
    inside = groups[section].model_fields if section in groups else Recipe.model_fields
    try:
        value = yaml.safe_load(written)
    except (yaml.YAMLError, ValueError):  # ValueError: a date such as 2024-13-45
        raise RecipeError(
            [Problem(name, f"--set {text} is not valid YAML.", SET_LIKE_THIS)]
        ) from None
    if not name:
        problem = Problem("", f"--set {text} names no setting.", SET_LIKE_THIS)
    elif section not in groups and name not in Recipe.model_fields:
        problem = Problem(name, f"{name} is not a setting.", _meant(name))
    elif not written.strip() and (key in inside and field(name).default is not None):
        problem = Problem(name, f"--set {text} has no value.", SET_LIKE_THIS)
    elif name in groups and not isinstance(value, dict):
        problem = Problem(
            name, f"{name} is a group of settings.", f"Set one of them. {SET_LIKE_THIS}"
        )
    elif "=" not in text:
        problem = Problem(name, f"--set {text} has no value.", SET_LIKE_THIS)
    else:
        return name, value
    raise RecipeError([problem])


def _meant(name: str) -> str:
    """What to write instead of a name that no setting has."""
    groups = _groups()
    known = [name for name in Recipe.model_fields if name not in groups]
    known += [f"{group}.{key}" for group, owner in groups.items() for key in owner.model_fields]
    same = [setting for setting in known if setting.endswith(f".{name}")]
    near = same if len(same) == 1 else difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {near[0]}?" if near else SET_LIKE_THIS


def _groups() -> dict[str, type[Section]]:
    kinds = {name: info.annotation for name, info in Recipe.model_fields.items()}
    return {
        n: kind for n, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Section)
    }
